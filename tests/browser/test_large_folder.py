"""A folder of very many files is sent without being held in memory, and goes on after a reload, a pause and a server that was restarted."""

import hashlib
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, CDPSession, Page, expect

from app.main import create_app
from tests.app.pages.furnished import Furnished
from tests.browser.conftest import Served
from tests.browser.test_uploading import open_datasets, received_archive
from tests.browser.watched import watched_window

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]
FILES = 20_000
EACH = 20_000  # bytes: 400 MB, thirteen pieces
MEGABYTE = 1_000_000
MOST_IN_PAGE = 40 * MEGABYTE  # a tenth of what is sent


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "photographs"
    tile = bytes(range(256)) * 100
    for number in range(FILES):
        place = folder / f"class {number % 20}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"IMG_{number:05}.jpg").write_bytes(number.to_bytes(8, "big") + tile[: EACH - 8])
    return folder


class Memory:
    """What a page holds on to, in bytes: JavaScript objects, what is behind files and blobs, and buffers; garbage does not count.

    Attributes:
        before: at the beginning.
        highest: the most that was seen.
    """

    def __init__(self, page: Page) -> None:
        self._session: CDPSession = page.context.new_cdp_session(page)
        self.highest = 0
        self.look()
        self.before = self.highest

    def look(self) -> None:
        """Count now."""
        self._session.send("HeapProfiler.collectGarbage")
        usage = self._session.send("Runtime.getHeapUsage")
        held = sum(int(usage[name]) for name in ("usedSize", "embedderHeapUsedSize", "backingStorageSize"))
        self.highest = max(self.highest, held)


def test_twenty_thousand_files_are_not_held_in_memory(chromium: Browser, served: Served, large: Path) -> None:
    with watched_window(chromium) as window:
        page = open_datasets(window, served)
        memory = Memory(page)
        page.locator("input[data-folder]").set_input_files(large)
        looks = 0
        while "/datasets/0" not in page.url:
            page.wait_for_timeout(200)
            if "/datasets/0" not in page.url:
                memory.look()
                looks += 1
        dataset_id = page.url.rsplit("/", 1)[1]
    assert looks > 5
    assert memory.highest - memory.before < MOST_IN_PAGE
    check_whole(served, dataset_id, large)


def check_whole(served: Served, dataset_id: str, large: Path) -> None:
    """Every file has arrived; of some every byte is looked at."""
    with tarfile.open(received_archive(served, dataset_id)) as archive:
        count = 0
        for one in archive:
            count += 1
            assert one.size == EACH
            if count % 500 == 1:
                body = archive.extractfile(one)
                assert body is not None
                on_disk = (large.parent / one.name).read_bytes()
                assert hashlib.sha256(body.read()).digest() == hashlib.sha256(on_disk).digest()
    assert count == FILES


@contextmanager
def serving(house: Furnished, port: int) -> Iterator[None]:
    """One more web server for a house."""
    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(create_app(house.settings), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()


def far(page: Page, size: int) -> None:
    """Wait until so many bytes are sent."""
    page.wait_for_function(
        "(size) => Object.values(localStorage).some((one) => JSON.parse(one).sent > size)", arg=size, timeout=120_000
    )


def test_a_large_folder_survives_a_pause_a_restart_of_the_server_and_a_reload(
    chromium: Browser, served: Served, large: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = Served(served.house, f"http://127.0.0.1:{port}")
    with watched_window(chromium, allowed=("ERR_", "50", "423")) as window:
        with serving(served.house, port):
            page = open_datasets(window, here)
            page.on("dialog", lambda dialog: dialog.accept())
            network = page.context.new_cdp_session(page)
            network.send("Network.enable")
            slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 40 * MEGABYTE}
            network.send("Network.emulateNetworkConditions", slow)
            page.locator("input[data-folder]").set_input_files(large)
            far(page, 40 * MEGABYTE)
            page.get_by_role("button", name="Pause").click()
            expect(page.locator("[data-sending-words]")).to_have_text("Paused")
            page.wait_for_timeout(1500)
            page.get_by_role("button", name="Go on").click()
            far(page, 100 * MEGABYTE)
        page.wait_for_timeout(1500)  # no server at all
        with serving(served.house, port):
            far(page, 180 * MEGABYTE)
            page.reload()
            expect(page.locator("[data-earlier]")).to_contain_text("“photographs” was interrupted")
            asked: list[tuple[str, int]] = []
            page.on("request", lambda one: asked.append((one.method, int(one.headers.get("upload-offset", 0)))))
            page.locator("input[data-folder]").set_input_files(large)
            page.wait_for_url("**/datasets/0*", timeout=120_000)
            dataset_id = page.url.rsplit("/", 1)[1]
    assert "POST" not in [method for method, _ in asked]
    assert next(offset for method, offset in asked if method == "PATCH") > 140 * MEGABYTE
    check_whole(here, dataset_id, large)
