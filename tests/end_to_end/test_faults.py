"""What is killed, paused or wiped in the middle of a training costs nothing but time: real Valkey, real databases, real trainer."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import func, select

from core.accounts import local_user
from core.tables import Metric, Run, RunStatus, TrainedModel
from tests.end_to_end.conftest import ON_BOTH_DATABASES, database_of
from tests.end_to_end.house import House, descendants, running_house, still_alive, wait_until
from tests.worker.tiny_dataset import TINY, queue_run

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(420)]

SHORT = {
    "THAW_LEASE_SECONDS": "4",
    "THAW_RENEW_SECONDS": "0.5",
    "THAW_SWEEP_SECONDS": "0.5",
    "THAW_RING_AGAIN_SECONDS": "2",
    "THAW_TRAINER_TICK_TIMEOUT": "3",
    "THAW_DISK_RESERVE_BYTES": "1000000",
}
EPOCHS = 40
LONG = {
    **TINY,
    "phases": [
        {"kind": "frozen", "epochs": EPOCHS, "features": "live"},
        {"kind": "fine_tune", "epochs": EPOCHS, "features": "live"},
    ],
}


@pytest.fixture(scope="module", params=ON_BOTH_DATABASES)
def quick_house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that notices a lost worker within seconds."""
    with running_house(tmp_path_factory.mktemp("faults"), **SHORT, **database_of(request)) as running:
        yield running


def epochs_of(house: House, run_id: str) -> int:
    """Finished epochs so far."""
    with house.database.read() as session:
        return session.scalar(select(func.max(Metric.epoch)).where(Metric.run_id == run_id)) or 0


def wait_for_epoch(house: House, run_id: str, epoch: int) -> None:
    """Until this epoch is written."""
    wait_until(lambda: epochs_of(house, run_id) >= epoch, 200, f"epoch {epoch}\n{house.log}")


def wait_for_end(house: House, run_id: str, seconds: float = 150) -> Run:
    """The run once it has ended."""

    def ended() -> Run | None:
        with house.database.read() as session:
            run = session.get_one(Run, run_id)
            return run if run.status not in {RunStatus.QUEUED, RunStatus.RUNNING} else None

    found: Run = wait_until(ended, seconds, f"the run ends\n{house.log}")
    return found


def check_whole(house: House, run_id: str, *, attempts: int) -> None:
    """The run has succeeded, every epoch is there once, and there is one model."""
    run = wait_for_end(house, run_id)
    assert run.status == RunStatus.SUCCEEDED, (run.failure, house.log)
    assert run.attempt >= attempts
    with house.database.read() as session:
        rows = session.execute(
            select(Metric.phase_index, Metric.epoch, Metric.split, Metric.name).where(Metric.run_id == run_id)
        ).all()
        models = session.scalars(select(TrainedModel).where(TrainedModel.run_id == run_id)).all()
    assert max(Counter(tuple(row) for row in rows).values()) == 1
    assert sorted({row.epoch for row in rows}) == list(range(1, 2 * EPOCHS + 1))
    assert {row.epoch for row in rows if row.phase_index == 0} == set(range(1, EPOCHS + 1))
    assert len(rows) == 2 * EPOCHS * 4, "loss and accuracy of train and validation for every epoch"
    assert len(models) == 1
    stored = house.settings.storage_folder / models[0].storage_key
    assert (stored / "saved_model.zip").is_file()
    assert (stored / "saved_model" / "saved_model.pb").is_file()


def test_a_trainer_killed_in_the_middle_of_an_epoch_costs_nothing_but_time(quick_house: House) -> None:
    run_id = queue_run(quick_house.database, quick_house.settings, LONG)
    wait_for_epoch(quick_house, run_id, 5)
    os.kill(quick_house.pid_of("-m worker.training"), signal.SIGKILL)
    check_whole(quick_house, run_id, attempts=2)


def test_a_worker_killed_in_the_middle_of_a_run_costs_nothing_but_time(quick_house: House) -> None:
    run_id = queue_run(quick_house.database, quick_house.settings, LONG)
    wait_for_epoch(quick_house, run_id, 5)
    trainer = quick_house.pid_of("-m worker.training")
    os.kill(quick_house.pid_of("--queues train"), signal.SIGKILL)
    wait_until(lambda: not descendants(trainer), 5, "the trainer dies with its supervisor")
    check_whole(quick_house, run_id, attempts=2)


def test_a_wiped_and_a_killed_broker_lose_no_run(quick_house: House) -> None:
    environment = Path(f"/proc/{quick_house.pid_of('cli web')}/environ").read_bytes().split(b"\0")
    address = next(line for line in environment if line.startswith(b"THAW_REDIS_URL=")).partition(b"=")[2].decode()
    run_id = queue_run(quick_house.database, quick_house.settings, LONG)
    waiting = queue_run(quick_house.database, quick_house.settings)
    wait_for_epoch(quick_house, run_id, 3)
    with redis.Redis.from_url(address) as client:
        for _ in range(10):
            client.flushall()
            time.sleep(0.2)
    os.kill(quick_house.pid_of("valkey-server"), signal.SIGKILL)
    check_whole(quick_house, run_id, attempts=1)
    wait_until(lambda: epochs_of(quick_house, waiting) > 0, 60, "the run that waited is begun")
    wait_for_end(quick_house, waiting)
    time.sleep(2)  # the worker has gone back to listening: to the new broker
    late = queue_run(quick_house.database, quick_house.settings)
    wait_until(lambda: epochs_of(quick_house, late) > 0, 60, f"a run queued later is begun\n{quick_house.log}")


def test_a_cancel_by_rest_ends_a_running_run_within_five_seconds_and_leaves_no_model(quick_house: House) -> None:
    with quick_house.database.write() as session:
        owner = local_user(session).id
    run_id = queue_run(quick_house.database, quick_house.settings, LONG)
    with quick_house.database.write() as session:
        session.get_one(Run, run_id).owner_id = owner
    wait_for_epoch(quick_house, run_id, 2)
    trainer = quick_house.pid_of("-m worker.training")
    asked = time.monotonic()
    quick_house.client.post(f"/api/v1/runs/{run_id}/cancel").raise_for_status()
    wait_until(
        lambda: status_by_rest(quick_house, run_id) == "cancelled", 5, f"the run is cancelled\n{quick_house.log}"
    )
    assert time.monotonic() - asked < 5
    wait_until(lambda: not descendants(trainer), 5, "its trainer is gone")
    with quick_house.database.read() as session:
        assert session.scalars(select(TrainedModel).where(TrainedModel.run_id == run_id)).all() == []
    assert not list((quick_house.settings.storage_folder / "models").glob(f"{run_id}-*"))
    assert quick_house.client.post(f"/api/v1/runs/{run_id}/cancel").status_code == 409
    after = queue_run(quick_house.database, quick_house.settings)
    assert wait_for_end(quick_house, after).status == RunStatus.SUCCEEDED, "the server goes on"


def status_by_rest(house: House, run_id: str) -> str:
    """The run's status as a script sees it."""
    return str(house.client.get(f"/api/v1/runs/{run_id}").raise_for_status().json()["status"])


@pytest.mark.slow
def test_a_supervisor_paused_for_a_minute_does_no_harm(quick_house: House) -> None:
    run_id = queue_run(quick_house.database, quick_house.settings, LONG)
    wait_for_epoch(quick_house, run_id, 5)
    worker, trainer = quick_house.pid_of("--queues train"), quick_house.pid_of("-m worker.training")
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_until(lambda: not descendants(trainer), 15, "a trainer without ticks ends itself")
        time.sleep(60)
    finally:
        os.kill(worker, signal.SIGCONT)
    check_whole(quick_house, run_id, attempts=2)


# Ctrl-C takes the same way as SIGTERM
@pytest.mark.parametrize(
    "number", [pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGINT)] + [signal.SIGKILL]
)
def test_nothing_is_left_running_when_serve_ends(tmp_path: Path, number: signal.Signals) -> None:
    with running_house(tmp_path, **SHORT, THAW_SPARE_TRAINER="true") as house:
        run_id = queue_run(house.database, house.settings, LONG)
        wait_for_epoch(house, run_id, 1)
        below = house.processes()
        assert any("worker.training" in command for command in below.values())
        os.kill(house.process.pid, number)
        began = time.monotonic()
        code = house.process.wait(15)
        wait_until(lambda: not still_alive(below), 3, f"left running: {still_alive(below)}")
        assert time.monotonic() - began < 15
        if number != signal.SIGKILL:
            assert code == 0
            with house.database.read() as session:
                run = session.get_one(Run, run_id)
            assert (run.status, run.failures) == (RunStatus.QUEUED, 0), "a drain spends no attempt"
