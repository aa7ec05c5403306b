"""A run starts from an earlier model, through a real server and two real trainings."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.tables import TrainedModel
from tests.end_to_end.house import House, succeeded_run
from tests.worker.tiny_dataset import TINY, queue_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("house"), pytest.mark.timeout(500)]
FROZEN = {"kind": "frozen", "epochs": 1}
TUNED = {"kind": "fine_tune", "epochs": 1, "optimizer": {"learning_rate": 0.01}}
HEAD_ARRAYS = 2  # one dense layer: kernel and bias


def _folder(house: House, model_id: str) -> Path:
    with house.database.read() as session:
        return house.settings.storage_folder / session.get_one(TrainedModel, model_id).storage_key


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _arrays(house: House, model_id: str, phase: str) -> list[NDArray[np.float32]]:
    with np.load(_folder(house, model_id) / "backbone_and_head" / f"{phase}.npz", allow_pickle=False) as file:
        return [file[name] for name in sorted(file.files)]


def test_a_run_begins_with_the_backbone_of_an_earlier_model_which_stays_as_it_was(house: House) -> None:
    first_id = queue_run(house.database, house.settings, {"phases": [FROZEN, TUNED], "select": "last"})
    first = succeeded_run(house, first_id)
    before = _hashes(_folder(house, first["model_id"]))
    assert len(before) > 2
    config = {**TINY, "weights": {"model_id": first["model_id"]}, "phases": [FROZEN], "seed": 7}
    wish = {"dataset_version_id": first["dataset_version_id"], "config": config}
    queued = house.client.post("/api/v1/runs", json=wish).raise_for_status().json()
    second = succeeded_run(house, queued["id"])
    assert _hashes(_folder(house, first["model_id"])) == before
    ours, theirs = _arrays(house, second["model_id"], "frozen"), _arrays(house, first["model_id"], "fine_tune")
    assert len(ours) == len(theirs) > HEAD_ARRAYS
    equal = [np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True)]
    assert all(equal[:-HEAD_ARRAYS])
    assert not any(equal[-HEAD_ARRAYS:])
    # and not because nothing was learned: in its fine-tune phase the first backbone left what it was
    untuned = _arrays(house, first["model_id"], "frozen")
    assert not all(np.array_equal(one, other) for one, other in zip(ours[:-HEAD_ARRAYS], untuned, strict=False))
