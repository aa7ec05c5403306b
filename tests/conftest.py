"""Fixtures that every room's tests share: a real database made by the migrations, one copy per test.

Tests whose truth depends on the database run on SQLite and on PostgreSQL: `pytestmark = pytest.mark.both_databases`.
All others that use one run on SQLite, and `make test-slow` runs them on PostgreSQL.
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
    """Run a test that uses a database once on each; on PostgreSQL among the slow ones unless it is marked `both_databases`."""
    if "database_address" not in metafunc.fixturenames:
        return
    both, only_sqlite = (metafunc.definition.get_closest_marker(name) for name in ("both_databases", "sqlite_only"))
    server = pytest.param("postgresql", marks=() if both else pytest.mark.slow)
    metafunc.parametrize("database_address", ["sqlite"] if only_sqlite else ["sqlite", server], indirect=True)


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


@pytest.fixture(autouse=True)
def _server_first(request: pytest.FixtureRequest) -> None:
    """PostgreSQL starts before the test replaces anything, such as what starts processes."""
    chosen = getattr(request.node, "callspec", None)
    if chosen and chosen.params.get("database_address") == "postgresql":
        request.getfixturevalue("migrated_address")


@pytest.fixture
def database_address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """`DATABASE_URL` of an empty database of the newest schema: SQLite in `tmp_path`, or PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "thaw.sqlite3"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite+pysqlite:///{path}"
        return
    address: str = request.getfixturevalue("migrated_address")
    yield address
    request.getfixturevalue("postgres").empty(address)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """A setting for a module's one house: None for SQLite in its data folder, or a new database of PostgreSQL without tables."""
    return request.getfixturevalue("postgres").create() if request.param == "postgresql" else None


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
