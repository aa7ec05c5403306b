"""The migrations make exactly the tables that the code expects, on SQLite and on PostgreSQL."""

import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

import migrations
from core.database import Database
from core.tables import Base, DatasetVersion, VersionIssue, Weights
from tests.core.rows import person, record_issues, version
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


def test_code_before_near_checks_finds_no_issue_that_it_has_no_words_for(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session))
        record_issues(session, made)
        session.add(VersionIssue(version_id=made.id, kind="found_later", number=0))
        kinds = set(session.scalars(select(VersionIssue.kind))) - {"found_later"}
        assert kinds
        counts = made.issues
        made.issues = {**counts, "found_later": 1}
    try:
        downgrade(database, "0008")
        with database.read() as session:
            assert set(session.scalars(select(VersionIssue.kind))) == kinds
            left = session.scalars(select(DatasetVersion.issues)).one()
            assert left == {kind: count for kind, count in counts.items() if kind != "found_later"}
    finally:
        migrations.upgrade(database)  # PostgreSQL's is the next test's too


def test_arrays_without_a_place_that_were_listed_are_counted(database: Database) -> None:
    with database.write() as session:
        listed = {"backbone": "tiny_cnn", "filename": "a.h5", "size_bytes": 1, "unexpected": ["top/kernel", "top/bias"]}
        weights = Weights(owner_id=person(session).id, **listed)
        session.add(weights)
    try:
        downgrade(database, "0010")
    finally:
        migrations.upgrade(database)
    with database.read() as session:
        assert session.get_one(Weights, weights.id).unexpected_count == 2


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema back to a revision."""
    with database.writer.begin() as connection:
        config = migrations.alembic_config(database)
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


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
