"""The migrations make exactly the tables that the code expects, on SQLite and on PostgreSQL."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import migrations
from core.database import Database
from core.tables import Base
from tests.postgres import Postgres

pytestmark = pytest.mark.both_databases


def test_migrations_make_the_tables_of_the_code(database: Database) -> None:
    with database.writer.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    assert differences == []


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    migrations.upgrade(database)
    assert database.alive()


def test_two_servers_that_start_at_once_take_turns(postgres: Postgres) -> None:
    address = postgres.create()
    opened = [Database(address) for _ in range(2)]
    errors: list[Exception] = []

    def upgrade(database: Database) -> None:
        try:
            migrations.upgrade(database)
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            errors.append(error)

    threads = [threading.Thread(target=upgrade, args=(one,)) for one in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in opened:
        one.close()
    assert errors == []
