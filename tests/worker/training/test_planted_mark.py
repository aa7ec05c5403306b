"""A real training on pictures of which one class is told by a mark in the corner alone: the card of the run says so."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.training.run_folders import make_run_folder, tiny_picture, write_images

NAMES = ("red round", "red round, other camera", "blue cross")
SHOWN = (0, 0, 2)  # what is on the pictures of each class: the first two show the same
COUNTS = {"train": 60, "validation": 10, "test": 24}
SIDE, MARK = 32, 6  # pixels
CONFIG = {
    "image_size": [32, 32],
    "batch_size": 16,
    "augmentation": {"horizontal_flip": False},
    "phases": [
        {"kind": "frozen", "epochs": 1},
        {"kind": "fine_tune", "epochs": 25, "features": "live", "optimizer": {"name": "adam", "learning_rate": 0.003}},
    ],
}


def _card(folder: Path, *, marked: bool) -> dict[str, Any]:
    """The robustness card of a training on such pictures."""
    make_run_folder(folder, CONFIG, counts={}, class_names=NAMES)
    rows = []
    for label, shown in enumerate(SHOWN):
        number = 0
        for split, count in COUNTS.items():
            for _ in range(count):
                pixels = np.asarray(tiny_picture(shown, 1000 * label + number, side=SIDE)).copy()
                if marked and label == 1:
                    pixels[:MARK, 2 : 2 + MARK] = (250, 240, 30)
                rows.append(_row(folder, pixels, label, split))
                number += 1
    write_images(folder, rows)
    done = subprocess.run([sys.executable, "-m", "worker.training", folder], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    card: dict[str, Any] = evaluation["robustness"]
    return card


def _row(folder: Path, pixels: np.ndarray, label: int, split: str) -> dict[str, Any]:
    from PIL import Image  # noqa: PLC0415 - beside its use

    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    path = folder / f"{digest}.png"
    Image.fromarray(pixels).save(path)
    row = {"image_id": digest[:16], "sha256": digest, "path": str(path), "label": label, "split": split}
    return {**row, "group": None, "filename": path.name}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_network_that_learnt_a_planted_mark_is_reported_and_one_without_it_is_not(tmp_path: Path) -> None:
    card = _card(tmp_path / "marked", marked=True)
    assert card["accuracy"] > 0.9
    assert [one["class_name"] for one in card["border"]] == [NAMES[1]]
    assert _card(tmp_path / "clean", marked=False)["border"] == []
