"""The preset standard as it is shipped (EfficientNet-Lite0, folded, precision as the processor has it, L-BFGS head, views): the same
bits in every run, whatever was stored before and however often its trainer was killed."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.presets import PRESETS
from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.test_train import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STANDARD = PRESETS["standard"].config.model_dump(mode="json")
KILLED_AT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "computing features": lambda event: event.get("message") == "Computing features",
    "between the phases": lambda event: event["event"] == "layers" and event["phase_index"] == 1,
    "the second epoch of fine-tuning": lambda event: event["event"] == "epoch" and event["phase_index"] == 1,
}


def _trained(path: Path) -> dict[str, str]:
    """SHA-256 of what the run in this folder came to; its trainer must end well."""
    with closing(Trainer(path)) as trainer:
        assert trainer.end() == 0, trainer.complaint()
    return _digests(path)


def _digests(path: Path) -> dict[str, str]:
    files = [*path.rglob("frozen.npz"), *path.rglob("fine_tune.npz"), path / "predictions.jsonl"]
    assert len(files) == 3
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_second_run_gives_the_same_bits_with_stored_features_and_without(tmp_path: Path) -> None:
    counts = {"train": 13, "validation": 4, "test": 5}
    first = _trained(make_run_folder(tmp_path / "first", STANDARD, counts=counts))
    again = make_run_folder(tmp_path / "again", STANDARD, counts=counts, shared=tmp_path / "common")
    stored = make_run_folder(tmp_path / "stored", STANDARD, counts=counts, shared=tmp_path / "common")
    assert _trained(again) == first
    assert _trained(stored) == first


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_killed_run_comes_to_the_same_bits(tmp_path: Path, moment: str) -> None:
    first = _trained(make_run_folder(tmp_path / "first", STANDARD))
    killed = make_run_folder(tmp_path / "killed", STANDARD)
    with closing(Trainer(killed)) as trainer:
        for event in trainer.events():
            if KILLED_AT[moment](event):
                break
        else:
            raise AssertionError(f"That moment never came: {trainer.heard[-3:]}, {trainer.complaint()}")
    checkpoints = killed / "checkpoints"
    resumed = make_run_folder(
        tmp_path / "resumed", STANDARD, checkpoints=[str(checkpoints)] if checkpoints.is_dir() else []
    )
    assert _trained(resumed) == first
