"""Whose checkpoints are kept, and who may go on from them."""

from datetime import timedelta

import pytest

from core.checkpoints import KEPT_FOR, goes_on_from, keeps_checkpoints
from core.database import Database
from core.tables import RunStatus, utc_now
from tests.core.rows import ended_run, person, version

pytestmark = pytest.mark.both_databases


@pytest.mark.parametrize("kind", [None, "crash", "export", "out_of_memory", "data", "weights", "config"])
def test_only_a_full_disk_leaves_checkpoints_to_go_on_from(database: Database, kind: str | None) -> None:
    with database.write() as session:
        on = version(session, person(session))
        full, other = ended_run(session, on, "disk_full"), ended_run(session, on, kind)
        assert keeps_checkpoints(session, full)
        assert not keeps_checkpoints(session, other)
        assert goes_on_from(session, ended_run(session, on, "crash", full)) == [full.id]
        assert goes_on_from(session, ended_run(session, on, "crash", other)) == []
        full.status = RunStatus.CANCELLED
        assert not keeps_checkpoints(session, full)


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.RUNNING])
def test_a_run_that_has_not_ended_keeps_its_checkpoints(database: Database, status: RunStatus) -> None:
    with database.write() as session:
        run = ended_run(session, version(session, person(session)), "crash")
        run.status, run.failure, run.finished_at = status, None, None
        assert keeps_checkpoints(session, run)


def test_a_retry_goes_on_from_the_whole_line_of_runs_that_a_full_disk_ended(database: Database) -> None:
    with database.write() as session:
        on = version(session, person(session))
        first = ended_run(session, on, "disk_full")
        second = ended_run(session, on, "disk_full", first)
        third = ended_run(session, on, "crash", second)
        assert goes_on_from(session, third) == [second.id, first.id]
        assert goes_on_from(session, ended_run(session, on, "disk_full", third)) == [], (
            "what made it crash may be in them"
        )
        session.delete(first)
        session.flush()
        assert goes_on_from(session, third) == [second.id]


def test_checkpoints_are_spent_once_a_retry_or_a_retry_of_one_has_succeeded(database: Database) -> None:
    with database.write() as session:
        on = version(session, person(session))
        first, strange = ended_run(session, on, "disk_full"), ended_run(session, on, "disk_full")
        second = ended_run(session, on, "disk_full", first)
        ended_run(session, on, "crash", second)
        assert keeps_checkpoints(session, first)
        ended_run(session, on, None, second)
        assert [keeps_checkpoints(session, run) for run in (first, second, strange)] == [False, False, True]


def test_checkpoints_are_spent_after_a_week(database: Database) -> None:
    with database.write() as session:
        run = ended_run(session, version(session, person(session)), "disk_full")
        run.finished_at = utc_now() - KEPT_FOR + timedelta(minutes=1)
        assert keeps_checkpoints(session, run)
        run.finished_at = utc_now() - KEPT_FOR - timedelta(minutes=1)
        assert not keeps_checkpoints(session, run)
    assert KEPT_FOR.days == 7, "sentences say a week"
