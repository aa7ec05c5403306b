"""SQLite as several processes need it: WAL, full sync for writers, the lock taken at BEGIN."""

import threading

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError

from core import database as module
from core.database import Database, after_commit, database_now
from core.tables import User
from tests.core.rows import person


@pytest.mark.sqlite_only
def test_writers_sync_fully_and_readers_cannot_write(database: Database) -> None:
    with database.write() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
    with database.read() as session, pytest.raises(OperationalError, match="readonly"):
        person(session)


@pytest.mark.both_databases
def test_all_that_a_snapshot_reads_is_of_one_moment(database: Database) -> None:
    with database.snapshot() as reading:
        assert reading.scalar(select(func.count()).select_from(User)) == 0
        with database.write() as session:
            person(session)
        assert reading.scalar(select(func.count()).select_from(User)) == 0
    with database.snapshot() as reading:
        assert reading.scalar(select(func.count()).select_from(User)) == 1


def test_the_sqlite_in_use_is_one_without_the_wal_bug() -> None:
    assert module.is_safe(tuple(int(part) for part in module.sqlite_module().sqlite_version.split(".")))


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 3), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((4, 0, 0), True),
    ],
)
def test_only_patched_sqlites_are_safe(version: tuple[int, ...], safe: bool) -> None:
    assert module.is_safe(version) is safe


@pytest.mark.sqlite_only
def test_read_then_write_transactions_never_fail_however_many_writers(database: Database) -> None:
    with database.write() as session:
        person(session)
    errors: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(25):
                with database.write() as session:
                    user = session.scalars(select(User)).one()
                    user.name = str(int(user.name) + 1 if user.name.isdigit() else 1)
        except OperationalError as error:
            errors.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.read() as session:
        assert session.scalars(select(User.name)).one() == "100"


@pytest.mark.both_databases
def test_calls_after_the_commit_are_not_made_when_it_is_rolled_back(database: Database) -> None:
    calls: list[str] = []
    with database.write() as session:
        after_commit(session, lambda: calls.append("committed"))
    with pytest.raises(ZeroDivisionError), database.write() as session:
        after_commit(session, lambda: calls.append("rolled back"))
        raise ZeroDivisionError
    assert calls == ["committed"]


@pytest.mark.both_databases
def test_the_databases_clock_has_fractions_of_a_second(database: Database) -> None:
    with database.read() as session:
        times = {session.execute(select(database_now())).scalar_one() for _ in range(50)}
    assert any(one != int(one) for one in times)
