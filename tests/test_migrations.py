"""The migrations make exactly the tables that the code expects, on SQLite."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import migrations
from core.database import Database
from core.tables import Base


def test_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    database = Database(f"sqlite+pysqlite:///{tmp_path / 'thaw.sqlite3'}")
    migrations.upgrade(database)
    with database.writer.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    database.close()
    assert differences == []


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite+pysqlite:///{tmp_path / 'thaw.sqlite3'}")
    migrations.upgrade(database)
    migrations.upgrade(database)
    assert database.alive()
    database.close()
