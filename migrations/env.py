"""Alembic's entry: runs on the connection it is given, else on the database of the settings."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.engine import Connection

from core.config import read_settings
from core.database import open_database
from core.tables import Base, UtcDateTime


def render_item(kind: str, thing: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write our own column types into migrations as the plain types they are stored as."""
    if kind == "type" and isinstance(thing, UtcDateTime):
        autogen_context.imports.add("import sqlalchemy as sa")
        return "sa.DateTime(timezone=True)"
    return False


def migrate(connection: Connection) -> None:
    """Run the migrations on one connection, in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    database = context.config.attributes.get("database") or open_database(read_settings())
    with database.writer.begin() as own:
        migrate(own)
