"""A worker's place for tests: a migrated database, a broker that nobody runs, short leases."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core import database
from core.config import Settings
from core.queue import Queue
from core.runs import retry_run
from core.tables import Run
from core.training_config import parse_config
from tests.core.rows import RememberingQueue
from worker.supervisor import Supervisor
from worker.workplace import Workplace


@contextmanager
def workplace(
    folder: Path, address: str, queue: str, *, lease_seconds: float, spare_trainer: bool = True
) -> Iterator[Workplace]:
    """A place of one queue in `folder` over a migrated database, closed at the end."""
    settings = Settings(
        data_dir=folder,
        database_url=address,
        redis_url=f"unix://{folder}/nobody.sock",
        lease_seconds=lease_seconds,
        renew_seconds=0.2,
        disk_reserve_bytes=0,
        spare_trainer=spare_trainer,
    )
    made = Workplace(settings, (queue,))
    try:
        yield made
    finally:
        made.close()


def trained(place: Workplace, run_id: str) -> Run:
    """The run, after the supervisor has worked."""
    Supervisor(place).task()
    with place.database.read() as session:
        return session.get_one(Run, run_id)


def retried(place: Workplace, run: Run, **changes: Any) -> Run:
    """A retry of this run, after the supervisor has worked; `changes` to its settings."""
    with place.database.write() as session:
        config = parse_config(run.config).model_copy(update=changes)
        again = retry_run(session, cast("Queue", RememberingQueue()), session.get_one(Run, run.id), config)
    return trained(place, again.id)


def fill_disk(monkeypatch: pytest.MonkeyPatch, below: str, number: int) -> None:
    """No folder can be made below the folder `below`: the system refuses with this errno, as a full disk or quota does."""
    real = Path.mkdir

    def refused(path: Path, *given: Any, **named: Any) -> None:
        if path.parent.name == below:
            raise OSError(number, os.strerror(number))
        real(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", refused)


def lose_one_answer(monkeypatch: pytest.MonkeyPatch, verb: tuple[Any, str]) -> None:
    """The first transaction of a verb (a module and a name in it) is committed, and the database goes away before it says so."""
    call, commit = getattr(*verb), database.commit
    seen: list[Session] = []

    def noted(session: Session, *given: Any, **named: Any) -> Any:
        seen.append(session)
        return call(session, *given, **named)

    def committed(session: Session) -> None:
        commit(session)
        if seen == [session]:
            raise OperationalError("COMMIT", {}, Exception("the connection was lost"))

    monkeypatch.setattr(*verb, noted)
    monkeypatch.setattr(database, "commit", committed)
