"""Alembic migrations. `upgrade(database)` brings a database to the newest; every start calls it under the database's own lock."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from core.database import Database


def alembic_config(database: Database) -> Config:
    """Alembic's configuration for a database that is open already."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database"] = database
    return config


def newest_schema(database: Database) -> str | None:
    """The revision that `upgrade` brings a database to."""
    return ScriptDirectory.from_config(alembic_config(database)).get_current_head()


def upgrade(database: Database) -> None:
    """Bring the schema to the newest revision; does nothing when it is there already."""
    with database.writer.begin() as connection:
        if not database.is_sqlite:
            # SQLite's BEGIN IMMEDIATE is the lock already; on PostgreSQL two starting servers must take turns
            connection.execute(text("SELECT pg_advisory_xact_lock(7461)"))
        config = alembic_config(database)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
