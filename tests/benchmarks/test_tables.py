from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks._record import RESULTS
from benchmarks._sets import read_set
from benchmarks._tables import equal, fitted
from benchmarks.table import PAGE, page


def test_the_page_is_what_the_result_files_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(RESULTS), "Write it again: python -m benchmarks table"


def test_epochs_that_were_left_out_are_counted_by_the_median_of_the_later_ones() -> None:
    part = {"fit_s": 30.0, "epochs_s": [14.0, 8.0, 7.0]}
    assert fitted(part, 3) == 30.0
    assert fitted(part, 5) == 30.0 + 2 * 7.5


def _side(right: list[int]) -> dict[str, object]:
    return {"right": right, "test_accuracy": float(np.mean(right))}


@pytest.mark.parametrize(
    ("guide", "ours", "holds"),
    [
        ([1] * 90 + [0] * 10, [1] * 90 + [0] * 10, True),
        ([1] * 90 + [0] * 10, [1] * 95 + [0] * 5, True),
        ([1] * 90 + [0] * 10, [1] * 89 + [0] * 11, False),  # a whole point lower
        ([1] * 900 + [0] * 100, [1] * 896 + [0] * 104, True),  # 0.4 points lower: p = 0.125
        ([1] * 4000 + [0] * 1000, [1] * 3990 + [0] * 1010, False),  # 0.2 points, but significantly
    ],
)
def test_equal_accuracy_is_as_it_is_defined(guide: list[int], ours: list[int], holds: bool) -> None:
    sentence, _ = equal([_side(guide)], [_side(ours)])
    assert sentence.startswith("yes" if holds else "no")


def test_folders_are_joined_and_split_within_each_class_by_the_seed(tmp_path: Path) -> None:
    for name in ("a/cat", "a/dog", "b/cat"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    found = read_set([tmp_path / "a", tmp_path / "b"], 0)
    assert found.class_names == ("a/cat", "a/dog", "b/cat")
    assert found.counts() == {"train": 33, "validation": 9, "test": 18}
    assert all(
        np.bincount(found.labels[found.of_split(split)]).tolist() == [count] * 3
        for split, count in (("train", 11), ("test", 6))
    )
    again, other = (read_set([tmp_path / "a", tmp_path / "b"], seed) for seed in (0, 1))
    assert again.paths == found.paths
    assert other.paths != found.paths
