"""A disk that becomes full while a run learns: a real trainer whose real checkpoint is refused, and what trying again makes of it."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from core.tables import LogLine, Metric, Run, RunStatus
from tests.worker.tiny_dataset import queue_run
from tests.worker.workplaces import retried, trained, workplace
from worker import trainer_process
from worker.run_preparation import attempts_folder
from worker.workplace import Workplace

# the trainer itself; once it has written the checkpoint FULL_AFTER, the disk takes half a file more
PROGRAM = """
import os
from worker.training import checkpoints
real = checkpoints._write_arrays
def write(path, arrays):
    if (path.parents[1] / os.environ["FULL_AFTER"]).is_dir():
        path.write_bytes(b"half")
        number = int(os.environ["REFUSAL"])
        raise OSError(number, os.strerror(number))
    return real(path, arrays)
checkpoints._write_arrays = write
from worker.training.__main__ import _leave, main
_leave(main)
"""
Curve = dict[tuple[int, str, str], float]


@pytest.fixture
def place(tmp_path: Path, database_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A workplace without spares, so that every trainer has the test's environment."""
    monkeypatch.setattr(trainer_process, "trainer_command", lambda: [sys.executable, "-c", PROGRAM])
    with workplace(tmp_path, database_address, "train", lease_seconds=20, spare_trainer=False) as made:
        yield made


def begun(place: Workplace, run: Run) -> str:
    """What the log says of how the training began."""
    with place.database.read() as session:
        lines = session.scalars(select(LogLine.message).where(LogLine.run_id == run.id).order_by(LogLine.number))
        return next(line for line in lines if line.startswith("Training ")).rpartition(" on ")[0]


def curve_of(place: Workplace, run: Run) -> Curve:
    with place.database.read() as session:
        rows = session.scalars(select(Metric).where(Metric.run_id == run.id)).all()
    return {(row.epoch, row.split, row.name): row.value for row in rows}


def kept(place: Workplace, run: Run) -> list[str]:
    """Checkpoints that are left of a run, half ones too."""
    return sorted(path.name for path in attempts_folder(place.settings, run.id).glob("*/checkpoints/*"))


def test_a_retry_goes_on_from_the_last_epoch_before_the_disk_became_full_with_the_same_curve(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULL_AFTER", "01-000003-epoch")
    monkeypatch.setenv("REFUSAL", str(errno.ENOSPC))
    failed = trained(place, queue_run(place.database, place.settings))
    assert failed.failure is not None
    assert (failed.status, failed.attempt, failed.failure["kind"]) == (RunStatus.FAILED, 1, "disk_full")
    assert failed.failure["advice"].endswith("finished epochs are kept for a week.")
    assert kept(place, failed) == ["00-000002-over", "01-000003-epoch"]

    monkeypatch.setenv("FULL_AFTER", "never")
    again = retried(place, failed)
    assert (again.status, again.attempt) == (RunStatus.SUCCEEDED, 1)
    assert begun(place, again) == "Training goes on from 01-000003-epoch"
    assert kept(place, failed) == kept(place, again) == []
    undisturbed = retried(place, again)
    assert begun(place, undisturbed) == "Training begins", "what has succeeded is not gone on from"
    assert curve_of(place, again) == curve_of(place, undisturbed)
    assert {epoch for epoch, _, _ in curve_of(place, again)} == {1, 2, 3, 4}
    assert again.test_accuracy == undisturbed.test_accuracy
    assert again.test_loss == undisturbed.test_loss


def test_a_retry_with_another_seed_begins_anew(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULL_AFTER", "00-000001-epoch")
    monkeypatch.setenv("REFUSAL", str(errno.EDQUOT))
    failed = trained(place, queue_run(place.database, place.settings))
    assert failed.failure is not None
    assert (failed.attempt, failed.failure["kind"]) == (1, "disk_full"), "a quota is no crash"
    other = retried(place, failed, seed=7)
    assert begun(place, other) == "Training begins"
    assert curve_of(place, other) != curve_of(place, failed)
    assert kept(place, failed) == kept(place, other) == ["00-000001-epoch"]


@pytest.mark.slow
def test_a_trained_model_for_which_there_is_no_room_is_not_trained_again(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setenv("FULL_AFTER", "never")
    run_id = queue_run(place.database, place.settings, {"phases": [{"kind": "frozen", "epochs": 1}]})
    with monkeypatch.context() as patch:
        patch.setattr(place.storage, "put", full)
        failed = trained(place, run_id)
    assert failed.failure == {
        "kind": "disk_full",
        "message": "The disk became full. Free some space and try again.",
        "advice": "Finished epochs are kept for a week.",
    }
    again = retried(place, failed)
    assert again.status == RunStatus.SUCCEEDED
    assert begun(place, again) == "Training goes on from 00-000001-over"
    assert curve_of(place, again) == curve_of(place, failed)
