"""`python -m worker.training FOLDER --label-errors`: planted errors are found, test is not looked at, features are shared."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.training.run_folders import make_run_folder, read_images, write_images

COUNTS = {"train": 24, "validation": 6, "test": 3}
CONFIG = {"phases": [{"kind": "frozen", "epochs": 2, "features": "cached", "optimizer": {"name": "lbfgs"}}]}
PLANTED = {"image-0-3", "image-1-26"}


def look(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(events, what was found)."""
    command = [sys.executable, "-m", "worker.training", str(folder), "--label-errors"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    events = [json.loads(line) for line in said.stdout.splitlines()]
    found = [json.loads(line) for line in (folder / "label_errors.jsonl").read_text().splitlines()]
    return events, found


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """A folder with two wrong labels, looked at once."""
    base = tmp_path_factory.mktemp("label-errors")
    folder = make_run_folder(base / "first", CONFIG, counts=COUNTS, shared=base / "shared")
    rows = read_images(folder)
    for row in rows:
        if row["image_id"] in PLANTED:
            row["label"] = 2
    write_images(folder, rows)
    return base, *look(folder)


def test_planted_errors_lead_the_list(looked: tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    _, events, found = looked
    assert {one["image_id"] for one in found[:2]} == PLANTED
    # an untrained network: its head is unsure of everything, and confident learning flags what it is sure of
    assert any(one["likely"] for one in found[:2])
    assert not any(one["likely"] for one in found[10:])
    assert {(one["given"], one["suggested"]) for one in found[:2]} == {(2, 0), (2, 1)}
    assert [one["given_probability"] for one in found] == sorted(one["given_probability"] for one in found)
    assert events[-1]["event"] == "succeeded"
    assert events[-1]["summary"]["pictures"] == 90


def test_test_pictures_are_not_in_it(looked: tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    base, _, found = looked
    tested = {row["image_id"] for row in read_images(base / "first") if row["split"] == "test"}
    assert len(tested) == 9
    assert not tested & {one["image_id"] for one in found}
    assert len(found) == 90


def test_a_second_look_finds_its_features(looked: tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    base, first, _ = looked
    again = make_run_folder(base / "again", CONFIG, counts=COUNTS, shared=base / "shared")
    events, _ = look(again)
    assert (first[-1]["summary"]["features_computed"], events[-1]["summary"]["features_computed"]) == (90, 0)
