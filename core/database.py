"""Engine, sessions, transactions.

SQLite goes through `pysqlite3` (many systems ship a SQLite that can corrupt a WAL database written by several processes).
Writers take the lock at BEGIN (`BEGIN IMMEDIATE`) and sync fully; readers never block. PostgreSQL uses the same code.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Float

from core.config import Settings

# Imported here, not where it is used: TensorFlow carries an old SQLite of its own, whose symbols win when it is loaded first.
try:
    import pysqlite3.dbapi2 as _sqlite  # only published for Linux
except ImportError:
    import sqlite3 as _sqlite

# the first versions of their lines in which a WAL database survives several writing processes
SAFE_SQLITE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
_AFTER_COMMIT = "after_commit_calls"


class database_now(FunctionElement[float]):  # noqa: N801 - reads like SQL's own functions
    """The database's clock, seconds since 1970 as a float: leases are compared by one clock only."""

    type = Float()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: SQLCompiler, **_: Any) -> str:
    # not unixepoch('now'): that is fixed while one statement runs, which is what we want, but only subsec gives fractions
    return "unixepoch('now', 'subsec')"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: database_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def sqlite_module() -> Any:
    """The DB-API module for SQLite: pysqlite3 where its wheel exists, else Python's own when that is new enough.

    Raises:
        RuntimeError: this Python carries a SQLite that is not safe for several processes.
    """
    version = tuple(int(part) for part in _sqlite.sqlite_version.split("."))
    if not is_safe(version):
        message = (
            f"This process uses SQLite {_sqlite.sqlite_version}, which can corrupt a database that several processes write. "
            f"Use a Python with SQLite 3.51.3 or later, or set DATABASE_URL to PostgreSQL. ({sys.version})"
        )
        raise RuntimeError(message)
    return _sqlite


def is_safe(version: tuple[int, ...]) -> bool:
    """True for a SQLite that several processes may write with: 3.51.3 on, or a patched 3.50 or 3.44."""
    return version >= SAFE_SQLITE[-1] or any(version[:2] == safe[:2] and version >= safe for safe in SAFE_SQLITE)


def full_address(address: str) -> str:
    """A database address with its driver: `postgres://` and `postgresql://`, as hosts hand them out, mean psycopg 3."""
    for scheme in ("postgres://", "postgresql://"):
        if address.startswith(scheme):
            return "postgresql+psycopg://" + address.removeprefix(scheme)
    return address


class Database:
    """One engine for reading and one for writing over the same database."""

    def __init__(self, address: str) -> None:
        self.address = address = full_address(address)
        self.is_sqlite = address.startswith("sqlite")
        self.writer = self._engine(writes=True)
        self.reader = self._engine(writes=False) if self.is_sqlite else self.writer
        self._write = sessionmaker(self.writer, expire_on_commit=False)
        self._read = sessionmaker(self.reader, expire_on_commit=False)

    def _engine(self, *, writes: bool) -> Engine:
        if not self.is_sqlite:
            return _server_engine(self.address)
        engine = create_engine(
            self.address, module=sqlite_module(), connect_args={"timeout": 30, "check_same_thread": False}
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # transactions are ours, see "begin" below
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute(f"PRAGMA synchronous={'FULL' if writes else 'NORMAL'}")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA busy_timeout=30000")
            if not writes:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def new_session(self, *, writes: bool) -> Session:
        """A session whose owner commits, rolls back and closes it."""
        return self._write() if writes else self._read()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One writing transaction: commits at the end, rolls back on any error. Calls of `after_commit` follow."""
        with self._write() as session:
            yield session
            commit(session)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One reading transaction."""
        with self._read() as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """One reading transaction in which every query sees the same moment, as on SQLite each one does anyway."""
        with self._read() as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def alive(self) -> bool:
        """True when the database answers."""
        with self.read() as session:
            return session.execute(text("SELECT 1")).scalar() == 1

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.reader.dispose()


def _server_engine(address: str) -> Engine:
    """An engine for PostgreSQL.

    Raises:
        RuntimeError: its driver is not installed.
    """
    try:
        engine = create_engine(address, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f'The database address needs the Python package "{error.name}". Install Thaw with its extra `postgres`.'
        ) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        from psycopg.types.string import StrDumper  # noqa: PLC0415 - an extra: not installed where SQLite is used

        class WithoutNul(StrDumper):
            """PostgreSQL's text has no NUL; file names, logs and addresses that people send may."""

            def dump(self, obj: str) -> Any:
                return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

        connection.adapters.register_dumper(str, WithoutNul)

    return engine


def open_database(settings: Settings) -> Database:
    """The database of these settings; makes the data folder when it is SQLite."""
    if settings.database_url is None:
        settings.folder.mkdir(parents=True, exist_ok=True)
    return Database(settings.database_address)


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Have `call` made once this transaction is committed (ring a queue, wake watchers); never when it is rolled back."""
    session.info.setdefault(_AFTER_COMMIT, []).append(call)


def commit(session: Session) -> None:
    """Commit, then make the calls left by `after_commit`. Every boundary commits through here."""
    session.commit()
    for call in session.info.pop(_AFTER_COMMIT, []):
        call()
