"""The lease as the supervisor holds it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.database import database_now
from core.errors import Fenced
from core.leases import RUN_LIFE, claim
from core.runs import cancel_run
from core.tables import Run
from tests.worker.tiny_dataset import queue_run
from tests.worker.workplaces import workplace
from worker.hold import Hold
from worker.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A workplace with a very short lease."""
    with workplace(tmp_path, database_address, "train", lease_seconds=1) as made:
        yield made


@pytest.fixture
def hold(place: Workplace) -> Hold:
    """A claimed run."""
    queue_run(place.database, place.settings)
    with place.database.write() as session:
        held = claim(session, RUN_LIFE, "me", 1)
    assert held is not None
    return Hold(place, held)


def seconds_left(place: Workplace, hold: Hold) -> float:
    with place.database.read() as session:
        run = session.get_one(Run, hold.claim.id)
        now = session.scalar(database_now().select())
    assert run.lease_expires_at is not None
    assert now is not None
    return run.lease_expires_at - now


def test_the_lease_is_renewed_when_it_is_time_and_not_before(place: Workplace, hold: Hold) -> None:
    hold.keep()
    assert hold.renewals == 0
    time.sleep(0.6)
    assert seconds_left(place, hold) < 0.5
    hold.keep()
    assert hold.renewals == 1
    assert seconds_left(place, hold) > 0.7


def test_a_cancel_is_heard_with_the_next_renewal(place: Workplace, hold: Hold) -> None:
    with place.database.write() as session:
        cancel_run(session, session.get_one(Run, hold.claim.id))
    time.sleep(0.25)
    hold.keep()
    assert hold.cancelled


def test_a_database_that_comes_back_within_the_lease_costs_nothing(hold: Hold) -> None:
    tries = 0

    def call(_: Session) -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OperationalError("UPDATE", {}, Exception("database is locked"))
        return "written"

    assert hold.write(call) == "written"


def test_a_database_that_is_away_for_a_whole_lease_means_fenced(hold: Hold) -> None:
    def call(_: Session) -> Any:
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    began = time.monotonic()
    with pytest.raises(Fenced, match="away for a whole lease"):
        hold.write(call)
    assert 0.5 < time.monotonic() - began < 5
