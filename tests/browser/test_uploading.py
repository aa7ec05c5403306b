"""Sending files from the browser: a dropped folder, a connection that breaks, stopping."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import select

from core.database import open_database
from core.tables import Dataset, Upload, UploadFile, UploadStatus
from tests.browser.conftest import Served
from tests.browser.watched import watched_window

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def folder_of(folder: Path, count: int) -> Path:
    """Files in subfolders; what is in them does not matter before a worker looks."""
    for number in range(count):
        place = folder / "bees & ants" / ("Ameisen" if number % 2 else "蜂")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03}.jpg").write_bytes(b"\xff\xd8" + bytes([number % 256]) * 500)
    return folder / "bees & ants"


def drop(page: Page, selector: str, path: Path) -> None:
    """Drop a real folder, as a hand would."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send(
            "Input.dispatchDragEvent",
            {"type": kind, "x": box["x"] + 40, "y": box["y"] + 20, "data": data},
        )


def stored(served: Served, dataset_id: str) -> tuple[str, UploadStatus, set[str]]:
    """Name of a dataset, status of its one upload, paths of its files."""
    database = open_database(served.house.settings)
    with database.read() as session:
        upload = session.scalars(select(Upload).where(Upload.dataset_id == dataset_id)).one()
        paths = set(session.scalars(select(UploadFile.path).where(UploadFile.upload_id == upload.id)))
        name = session.get_one(Dataset, dataset_id).name
    database.close()
    return name, upload.status, paths


def test_a_dropped_folder_arrives_whole_with_its_paths(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 230)  # more than a reader gives at once, and three batches
    with watched_window(chromium) as window:
        window.context.add_cookies([served.cookie()])
        window.page.goto(served.address + "/datasets")
        drop(window.page, ".drop", folder)
        window.page.wait_for_url("**/datasets/0*")
    name, status, paths = stored(served, window.page.url.rsplit("/", 1)[1])
    assert (name, status) == ("bees & ants", UploadStatus.RECEIVED)
    assert paths == {str(one.relative_to(tmp_path)) for one in folder.rglob("*.jpg")}


def test_a_batch_is_sent_again_when_the_connection_breaks(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 150)
    broken: list[str] = []

    def twice_broken(route: Route) -> None:
        if len(broken) < 2:
            broken.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.continue_()

    with watched_window(chromium, allowed=("ERR_CONNECTION_RESET",)) as window:
        window.context.add_cookies([served.cookie()])
        window.page.route("**/api/v1/uploads/*/files", twice_broken)
        window.page.goto(served.address + "/datasets")
        window.page.locator("input[data-folder]").set_input_files(folder)
        window.page.wait_for_url("**/datasets/0*")
        assert len(broken) == 2
    assert len(stored(served, window.page.url.rsplit("/", 1)[1])[2]) == 150


def test_a_refusal_is_a_sentence_and_can_be_tried_again(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    answer = {"status": 507, "content_type": "application/problem+json", "body": '{"detail": "The disk is full."}'}
    with watched_window(chromium, allowed=("507",)) as window:
        window.context.add_cookies([served.cookie()])
        window.page.goto(served.address + "/datasets")
        window.page.route("**/api/v1/uploads/*/files", lambda route: route.fulfill(**answer))  # type: ignore[arg-type]
        window.page.locator("input[data-folder]").set_input_files(folder)
        expect(window.page.locator("[data-sending-error]")).to_have_text("The disk is full.")
        window.page.unroute("**/api/v1/uploads/*/files")
        window.page.get_by_role("button", name="Try again").click()
        window.page.wait_for_url("**/datasets/0*")
    assert len(stored(served, window.page.url.rsplit("/", 1)[1])[2]) == 3


def test_stopping_leaves_nothing_behind(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    with watched_window(chromium, allowed=("ERR_FAILED", "ERR_ABORTED")) as window:
        window.context.add_cookies([served.cookie()])
        window.page.goto(served.address + "/datasets")
        before = window.page.locator("article").count()
        window.page.route("**/api/v1/uploads/*/files", lambda _route: None)  # never answered
        window.page.locator("input[data-folder]").set_input_files(folder)
        expect(window.page.locator("[data-sending-words]")).to_be_visible()
        window.page.wait_for_timeout(300)
        with window.page.expect_response(lambda one: one.request.method == "DELETE"):
            window.page.get_by_role("button", name="Stop").click()
        expect(window.page.locator("[data-sending]")).to_be_hidden()
        window.page.goto(served.address + "/datasets")
        assert window.page.locator("article").count() == before


def test_a_run_page_catches_up_after_the_connection_was_lost(chromium: Browser, served: Served) -> None:
    from core import runs  # noqa: PLC0415
    from core.leases import Claim  # noqa: PLC0415
    from core.tables import Run  # noqa: PLC0415

    database = open_database(served.house.settings)
    with watched_window(chromium, allowed=("ERR_INTERNET_DISCONNECTED", "ERR_", "/thumbnail", "404")) as window:
        window.context.add_cookies([served.cookie()])
        window.page.goto(f"{served.address}/runs/{served.house.running}")
        window.page.wait_for_timeout(500)
        window.context.set_offline(True)
        window.page.evaluate("dispatchEvent(new Event('online'))")  # the stream is opened anew, and fails
        expect(window.page.locator("[data-offline]")).to_be_visible(timeout=15_000)
        with database.write() as session:
            held = Claim(served.house.running, session.get_one(Run, served.house.running).attempt)
            runs.record(session, held, runs.Report(log=["Said while nobody could hear it."]))
        window.context.set_offline(False)
        expect(window.page.locator("[data-log]")).to_contain_text("while nobody could hear it", timeout=20_000)
        expect(window.page.locator("[data-offline]")).to_be_hidden()
    database.close()
