"""A browser, and a furnished house served on a free port. Everything here is skipped where there is no Chromium.

Both end with this package: Playwright keeps an event loop running in its thread, and no other test must find one there.
"""

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from playwright.sync_api import Browser

from app.main import create_app
from app.vendor_files import fetch
from tests.app.pages.furnished import Furnished, furnish
from tests.browser.watched import chromium_path, running_chromium


@dataclass(frozen=True)
class Served:
    """A furnished house and its address."""

    house: Furnished
    address: str

    def cookie(self) -> dict[str, str]:
        """Of its one user, as Playwright takes it."""
        return {"name": "thaw_session", "value": self.house.cookie, "url": self.address}


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    if chromium_path() is None:
        pytest.skip("there is no Chromium on this machine")
    fetch()
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    house = furnish(tmp_path_factory.mktemp("served"))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(house.settings), log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield Served(house, f"http://127.0.0.1:{listening.getsockname()[1]}")
    server.should_exit = True
    thread.join(timeout=10)
    listening.close()
