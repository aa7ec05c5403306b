"""Fixtures that every room's tests share: a real database made by the migrations, one copy per test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations
from core.database import Database


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with every table and no row; copied, never written."""
    path = tmp_path_factory.mktemp("migrated") / "thaw.sqlite3"
    database = Database(f"sqlite+pysqlite:///{path}")
    migrations.upgrade(database)
    with database.writer.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    database.close()
    return path


@pytest.fixture
def database(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    """An empty database of the newest schema."""
    path = tmp_path / "thaw.sqlite3"
    shutil.copyfile(migrated_file, path)
    opened = Database(f"sqlite+pysqlite:///{path}")
    yield opened
    opened.close()
