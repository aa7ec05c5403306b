import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import _record
from benchmarks._record import RESULTS, Record, folders_of, settings_of
from benchmarks._sets import read_set
from benchmarks._tables import equal, fitted, memory_rows, pooled_rows, recipe_rows, steps_rows
from benchmarks.table import PAGE, page


def test_the_page_is_what_the_result_files_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(RESULTS), "Write it again: python -m benchmarks table"


def test_epochs_that_were_left_out_are_counted_by_the_median_of_the_later_ones() -> None:
    part = {"fit_s": 30.0, "epochs_s": [14.0, 8.0, 7.0]}
    assert fitted(part, 3) == 30.0
    assert fitted(part, 5) == 30.0 + 2 * 7.5


def _side(right: list[int]) -> dict[str, object]:
    return {"right": "".join(map(str, right)), "test_accuracy": float(np.mean(right))}


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


def _recipe(first: int, second: int, *, quick: bool = False) -> dict[str, Any]:
    """A result of the recipe whose guide ran so many epochs."""
    right = "1" * 90 + "0" * 10
    guide = {"test_s": 1.0, "right": right, "test_accuracy": 0.9}
    frozen = {**guide, "fit_s": 20.0 * first, "epochs_s": [20.0] * first}
    tuned = {**guide, "fit_s": 60.0 * second, "epochs_s": [60.0] * second}
    ours = {"to_score_s": 5.0, "to_download_s": 9.0, "right": right, "test_accuracy": 0.9, "precision": "bfloat16"}
    parts = {"guide frozen/0": frozen, "guide drift/0": tuned, "thaw quick/0": ours, "thaw standard/0": ours}
    return {"quick": quick, "settings": {"epochs": [first, second]}, "parts": parts}


def test_a_guide_that_ran_all_its_epochs_is_judged() -> None:
    frozen, both = recipe_rows(_recipe(20, 10))[1:]
    assert frozen[3:5] == ("80.2", "30, aim 60: aim reached")
    assert both[3:5] == ("200.2", "15, aim 30: aim reached")
    assert frozen[7].startswith("yes")


def test_seconds_extrapolated_from_fewer_epochs_say_so_and_are_never_judged() -> None:
    frozen, both = recipe_rows(_recipe(20, 2))[1:]
    assert frozen[4] == "30, aim 60: aim reached"  # its own epochs are all there
    assert both[1] == "1001.0, extrapolated"
    assert both[3] == "200.2, extrapolated"
    assert both[4] == "15, aim 30: not judged, the guide ran 20 + 2 of 20 + 10 epochs"
    assert both[7] == "not judged, the guide ran 20 + 2 of 20 + 10 epochs"
    assert recipe_rows(_recipe(19, 10))[1][4] == "30, aim 60: not judged, the guide ran 19 of 20 epochs"


def test_a_small_trial_is_never_judged() -> None:
    for row in recipe_rows(_recipe(20, 10, quick=True))[1:]:
        assert "not judged, a small trial" in row[4]
        assert row[7] == "not judged, a small trial"
    rates = {"all layers": 10.0, "all, fixed": 10.0}
    ours = {"all layers": 50.0, "cut at b10_add": 300.0, "cut at b14_add": 500.0, "precision": "bfloat16"}
    body = {"quick": False, "parts": {"guide/0": rates, "thaw/0": ours}}
    assert [row[3] for row in steps_rows(body)[3:5]] == ["2.5, aim 4: aim reached", "10, aim 20: aim reached"]
    assert {row[3] for row in steps_rows({**body, "quick": True})[3:5]} == {
        "2.5, aim 4: not judged, a small trial",
        "10, aim 20: not judged, a small trial",
    }


def test_memory_of_fewer_pictures_than_the_target_names_is_not_judged() -> None:
    part = {"pictures": 10_000, "picture_kB": 500, "trainer_GB": 1.0, "with_children_GB": 1.2, "whole_s": 60.0}
    assert memory_rows({"parts": {"quick": part}})[1][-1] == "3, aim 1.5: aim reached"
    fewer = memory_rows({"parts": {"quick": {**part, "pictures": 9_999}}})[1][-1]
    assert fewer == "3, aim 1.5: not judged, fewer than 10,000 pictures"


def _arguments(path: Path, *, quick: bool = False) -> argparse.Namespace:
    return argparse.Namespace(json=path, quick=quick, fresh=False)


def test_parts_of_other_pictures_or_of_a_small_trial_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_record, "machine", lambda: _machine(["avx2"]))
    for name in ("one/set", "two/set"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "a.png").write_bytes(bytes(len(name)))
    (tmp_path / "two" / "set" / "cat" / "a.png").write_bytes(b"larger than the other")
    result = tmp_path / "result.json"
    one, two = (settings_of([tmp_path / name / "set"]) for name in ("one", "two"))
    assert one["folders"] == two["folders"] == ["set"]
    Record("presets", _arguments(result), one).put("set/standard/0", {"test_accuracy": 0.5})
    assert "set/standard/0" in Record("presets", _arguments(result), one).body["parts"]
    assert Record("presets", _arguments(result), two).body["parts"] == {}
    assert Record("presets", _arguments(result, quick=True), one).body["parts"] == {}
    assert str(tmp_path) not in json.dumps(json.loads(result.read_text())["settings"])


def _machine(features: list[str], tensorflow: str = "1") -> dict[str, Any]:
    return {"processor": "P", "features": features, "cores": 2, "memory_GB": 8, "versions": {"tensorflow": tensorflow}}


def test_another_machine_gets_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on(features: list[str], tensorflow: str = "1", *, timed: bool = True) -> Record:
        monkeypatch.setattr(_record, "machine", lambda: _machine(features, tensorflow))
        arguments = argparse.Namespace(json=None, quick=False, fresh=False)
        return Record("recipe" if timed else "quality", arguments, {"epochs": [20, 10]}, timed=timed)

    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    on(["avx2", "avx512f"]).put("guide frozen/0", {"test_accuracy": 0.5})
    other = on(["avx2"])
    assert other.path == tmp_path / "recipe.avx2-2.json"
    assert other.body["parts"] == {}
    other.put("guide frozen/2", {"test_accuracy": 0.6})
    assert list(on(["avx2", "avx512f"]).body["parts"]) == ["guide frozen/0"]
    assert list(on(["avx2"]).body["parts"]) == ["guide frozen/2"]
    assert on(["avx2", "avx512f"], tensorflow="2").path == tmp_path / "recipe.json"
    # accuracy is the same question on any machine: one file, every part with its processor
    on(["avx2"], timed=False).put("set/guide frozen/0", {"test_accuracy": 0.5})
    record = on(["avx512f"], timed=False)
    record.put("set/guide frozen/1", {"test_accuracy": 0.6})
    assert record.path == tmp_path / "quality.json"
    assert [part["processor"] for part in record.body["parts"].values()] == [
        "2 cores of P (avx2)",
        "2 cores of P (avx512f)",
    ]
    assert on(["avx2"], tensorflow="2", timed=False).body["parts"] == {}


def test_accuracy_of_several_machines_is_pooled_and_a_seed_counts_once() -> None:
    one, other = _recipe(20, 10), _recipe(20, 10)
    worse = {**one["parts"]["thaw quick/0"], "right": "1" * 80 + "0" * 20, "test_accuracy": 0.8}
    other["parts"] |= {"thaw quick/0": worse, "guide frozen/2": one["parts"]["guide frozen/0"], "thaw quick/2": worse}
    frozen, both = pooled_rows([one, other])[1:]
    assert frozen == (
        "frozen",
        "2",
        "90.0 (90.0 to 90.0)",
        "85.0 (80.0 to 90.0)",
        "no: 0 pictures gained, 10 lost, p = 0.002",
    )
    assert both[1] == "1"
    assert len(pooled_rows([_recipe(2, 1)])) == 1  # fewer epochs are another recipe


def test_folders_of_the_same_name_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "set").mkdir(parents=True)
    with pytest.raises(SystemExit, match="a name of its own"):
        folders_of(argparse.Namespace(folders=[tmp_path / "one" / "set", tmp_path / "two" / "set"]))
