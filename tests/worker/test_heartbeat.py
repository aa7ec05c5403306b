"""Worker rows."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from core.catalog import workers
from core.config import Settings
from core.tables import WorkerRow
from worker.devices import devices, memory_bytes
from worker.heartbeat import Heartbeat
from worker.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A workplace without a broker."""
    broker = f"unix://{tmp_path}/nobody.sock"
    settings = Settings(data_dir=tmp_path, database_url=database_address, redis_url=broker)
    made = Workplace(settings, ("ingest", "export"))
    yield made
    made.close()


def test_a_beating_worker_is_alive_and_says_whether_it_is_busy(place: Workplace) -> None:
    heartbeat = Heartbeat(place)
    heartbeat.beat()
    with place.at_work():
        heartbeat.beat()
        with place.database.read() as session:
            (worker,) = workers(session)
    assert (worker.alive, worker.busy, worker.queues) == (True, True, ["ingest", "export"])
    heartbeat.beat()
    with place.database.read() as session:
        assert not workers(session)[0].busy


def test_the_row_goes_at_an_orderly_stop(place: Workplace) -> None:
    heartbeat = Heartbeat(place)
    heartbeat.start()
    heartbeat.stop()
    with place.database.read() as session:
        assert session.scalars(select(WorkerRow)).all() == []


def test_no_fault_ends_the_heartbeats(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats: list[None] = []

    def broken(_: Heartbeat) -> None:
        beats.append(None)
        raise ValueError("a fault")

    monkeypatch.setattr(Heartbeat, "beat", broken)
    monkeypatch.setattr("worker.heartbeat.EVERY_SECONDS", 0.01)
    heartbeat = Heartbeat(place)
    heartbeat.start()
    deadline = time.monotonic() + 20
    while len(beats) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    heartbeat.stop()
    assert len(beats) >= 3
    assert "a fault" in caplog.text


def test_every_machine_has_a_processor_with_memory(tmp_path: Path) -> None:
    found = devices(Settings(data_dir=tmp_path))
    assert found[-1]["kind"] == "cpu"
    assert found[-1]["name"]
    assert memory_bytes() > 100_000_000
