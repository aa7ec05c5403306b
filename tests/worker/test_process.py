"""What a worker process does before it serves its queues."""

import os
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tests.worker.workplaces import workplace
from worker import process


def test_a_worker_that_starts_removes_what_dead_attempts_have_left(tmp_path: Path, database_address: str) -> None:
    with workplace(tmp_path, database_address, "batch", lease_seconds=5) as place:
        left, young = (place.settings.folder / "batches" / name for name in ("gone-1", "young-1"))
        left.mkdir(parents=True)
        young.mkdir()
        os.utime(left, (1, 1))
        process._tidy(place)
        assert not left.exists()
        assert young.exists()


def test_a_worker_starts_although_the_database_is_away(
    tmp_path: Path, database_address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("no connection"))

    monkeypatch.setattr(process, "remove_left_folders", away)
    with workplace(tmp_path, database_address, "batch", lease_seconds=5) as place:
        process._tidy(place)
    assert "is not removed now" in caplog.text
