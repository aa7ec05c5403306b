"""The web application over a real database and a real Valkey, and people who use it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.dependencies import House
from app.main import create_app
from core import accounts
from core.config import Settings
from core.database import Database
from tests.app.people import Caller, caller
from tests.broker import embedded_valkey


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """One Valkey for all tests."""
    with embedded_valkey() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, database: Database) -> Settings:
    """Settings over a migrated database in a folder of this test alone."""
    assert not database.is_sqlite or database.address.endswith(f"{tmp_path}/thaw.sqlite3")
    return Settings(
        data_dir=tmp_path,
        database_url=None if database.is_sqlite else database.address,
        redis_url=redis_url,
        disk_reserve_bytes=0,
        sweep_seconds=600,
        predict_timeout=3,
    )


@pytest.fixture
def web(settings: Settings) -> Iterator[FastAPI]:
    """The application without its background threads: most tests need none, and they take a second to stop."""
    app = create_app(settings)
    yield app
    app.state.house.queue.close()
    app.state.house.database.close()


@pytest.fixture
def house(web: FastAPI) -> House:
    """What the application holds."""
    held: House = web.state.house
    return held


@pytest.fixture
def ada(web: FastAPI, house: House) -> Caller:
    """Somebody with a token."""
    return caller(web, house, "ada")


@pytest.fixture
def bob(web: FastAPI, house: House) -> Caller:
    """Somebody else with a token."""
    return caller(web, house, "bob")


@pytest.fixture
def nobody(web: FastAPI) -> TestClient:
    """A client without token or cookie."""
    return TestClient(web, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def browser(web: FastAPI, house: House) -> TestClient:
    """Ada's browser: a cookie, and what browsers send from Thaw's own pages."""
    person = caller(web, house, "ada")
    with house.database.write() as session:
        secret = accounts.open_browser_session(session, person.user, days=1)
    client = TestClient(web, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)
    client.cookies.set("thaw_session", secret)
    return client
