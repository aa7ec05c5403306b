"""Claim, fence, expire: the rules that keep a run from being lost or doubled."""

import threading

import pytest

from core import leases, runs
from core.database import Database
from core.errors import Fenced
from core.leases import RUN_LIFE, Claim
from core.tables import Run, RunStatus
from core.training_config import parse_config
from tests.core.rows import RememberingQueue, person, version

pytestmark = pytest.mark.both_databases


def _queue_runs(database: Database, owner: str, count: int) -> list[str]:
    with database.write() as session:
        frozen = version(session, person(session, owner), name=owner)
        wish = runs.NewRun(parse_config({"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 32]}))
        queue = RememberingQueue()
        return [runs.create_runs(session, queue, frozen, wish)[0].id for _ in range(count)]  # type: ignore[arg-type]


def _claim(database: Database, seconds: float = 60.0) -> Claim | None:
    with database.write() as session:
        return leases.claim(session, RUN_LIFE, "a worker", seconds)


def _status(database: Database, run_id: str) -> RunStatus:
    with database.read() as session:
        return session.get_one(Run, run_id).status


def test_the_oldest_waiting_run_is_claimed_first(database: Database) -> None:
    first, second = _queue_runs(database, "local", 2)
    assert [_claim(database), _claim(database), _claim(database)] == [Claim(first, 1), Claim(second, 1), None]


def test_an_owner_with_fewer_running_runs_comes_before_older_rows(database: Database) -> None:
    mine = _queue_runs(database, "local", 2)
    others = _queue_runs(database, "other", 1)
    claims = [_claim(database) for _ in range(3)]
    assert [one.id for one in claims if one] == [mine[0], others[0], mine[1]]


def test_many_claimers_at_once_never_get_the_same_run(database: Database) -> None:
    _queue_runs(database, "local", 12)
    found: list[str] = []

    def take() -> None:
        while (claim := _claim(database)) is not None:
            found.append(claim.id)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 12


def test_a_worker_whose_lease_expired_is_fenced_at_its_next_write(database: Database) -> None:
    (run_id,) = _queue_runs(database, "local", 1)
    lost = _claim(database, seconds=-1)
    assert lost is not None
    with database.write() as session:
        assert leases.expired(session, RUN_LIFE) == [lost]
        assert leases.expire(session, RUN_LIFE, lost) == RunStatus.QUEUED
    again = _claim(database)
    assert again == Claim(run_id, 2)
    with pytest.raises(Fenced), database.write() as session:
        runs.record(session, lost, runs.Report(log=["from the past"]))
    with database.write() as session:
        runs.record(session, Claim(run_id, 2), runs.Report(log=["from the present"]))


def test_a_renewed_lease_does_not_expire(database: Database) -> None:
    _queue_runs(database, "local", 1)
    held = _claim(database, seconds=-1)
    assert held is not None
    with database.write() as session:
        leases.renew(session, RUN_LIFE, held, 60)
        assert leases.expired(session, RUN_LIFE) == []
        assert leases.expire(session, RUN_LIFE, held) is None


def test_three_losses_without_an_epoch_between_mean_failed(database: Database) -> None:
    (run_id,) = _queue_runs(database, "local", 1)
    for expected in (RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.FAILED):
        lost = _claim(database, seconds=-1)
        assert lost is not None
        with database.write() as session:
            assert leases.expire(session, RUN_LIFE, lost) == expected
    assert _status(database, run_id) == RunStatus.FAILED


def test_a_finished_epoch_forgives_earlier_losses(database: Database) -> None:
    (run_id,) = _queue_runs(database, "local", 1)
    for _ in range(5):
        lost = _claim(database, seconds=-1)
        assert lost is not None
        with database.write() as session:
            epoch = runs.MetricValue("frozen", 0, 1, "train", "loss", 0.5)
            runs.record(session, lost, runs.Report(metrics=[epoch]))
            leases.expire(session, RUN_LIFE, lost)
    assert _status(database, run_id) == RunStatus.QUEUED


def test_an_expired_lease_with_a_cancel_request_becomes_cancelled(database: Database) -> None:
    (run_id,) = _queue_runs(database, "local", 1)
    lost = _claim(database, seconds=-1)
    assert lost is not None
    with database.write() as session:
        runs.cancel_run(session, session.get_one(Run, run_id))
    with database.write() as session:
        assert leases.expire(session, RUN_LIFE, lost) == RunStatus.CANCELLED


def test_a_drained_run_waits_again_without_a_failure_counted(database: Database) -> None:
    (run_id,) = _queue_runs(database, "local", 1)
    held = _claim(database)
    assert held is not None
    with database.write() as session:
        runs.give_back(session, held, "The worker is restarting")
    with database.read() as session:
        run = session.get_one(Run, run_id)
        assert (run.status, run.failures, run.lease_owner) == (RunStatus.QUEUED, 0, None)


def test_a_waiting_row_is_rung_for_once_per_interval(database: Database) -> None:
    _queue_runs(database, "local", 3)
    with database.write() as session:
        assert leases.to_ring(session, RUN_LIFE, 30) == 0  # just rung when they were queued
        assert leases.to_ring(session, RUN_LIFE, -1) == 3
        assert leases.to_ring(session, RUN_LIFE, 30) == 0
