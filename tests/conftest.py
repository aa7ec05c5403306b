"""Fixtures that every room's tests share: a real database made by the migrations, one copy per test.

Tests whose truth depends on the database run on SQLite and on PostgreSQL: `pytestmark = pytest.mark.both_databases`.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations
from core.database import Database
from tests.postgres import Postgres, running_postgres
from tests.s3 import Bucket, new_bucket, running_s3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked `both_databases` once on each, when it uses one."""
    marked = metafunc.definition.get_closest_marker("both_databases") is not None
    if marked and "database_address" in metafunc.fixturenames:
        metafunc.parametrize("database_address", ["sqlite", "postgresql"], indirect=True)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this test process."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_address(postgres: Postgres) -> str:
    """A PostgreSQL database with every table; each test that uses it finds it empty."""
    address = postgres.create()
    database = Database(address)
    migrations.upgrade(database)
    database.close()
    return address


@pytest.fixture
def database_address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """`DATABASE_URL` of an empty database of the newest schema: SQLite, or PostgreSQL where the test asks for it."""
    if getattr(request, "param", "sqlite") == "sqlite":
        path = tmp_path / "thaw.sqlite3"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite+pysqlite:///{path}"
        return
    address: str = request.getfixturevalue("migrated_address")
    yield address
    request.getfixturevalue("postgres").empty(address)


@pytest.fixture
def database(database_address: str) -> Iterator[Database]:
    """An empty database of the newest schema."""
    opened = Database(database_address)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server of this test process."""
    with running_s3() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    """An empty bucket."""
    return new_bucket(s3_endpoint)
