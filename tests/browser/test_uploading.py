"""Sending files from the browser: a folder as one archive, a connection that breaks, a reload, pausing, stopping."""

import base64
import io
import tarfile
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import select

from core.database import open_database
from core.tables import Dataset, Upload, UploadFile, UploadStatus
from core.uploads import incoming_folder
from tests.browser.conftest import Served
from tests.browser.watched import Watched, watched_window

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


TUS = "**/api/v1/uploads/tus/**"


def received_archive(served: Served, dataset_id: str) -> Path:
    """The one archive that was sent, as the server has it."""
    database = open_database(served.house.settings)
    with database.read() as session:
        upload = session.scalars(select(Upload).where(Upload.dataset_id == dataset_id)).one()
        file = session.scalars(select(UploadFile).where(UploadFile.upload_id == upload.id)).one()
    database.close()
    return incoming_folder(served.house.settings, upload.id) / file.id


def entries(served: Served, dataset_id: str) -> dict[str, bytes]:
    """Path and bytes of every file of the one archive that was sent, read by the standard library."""
    with tarfile.open(received_archive(served, dataset_id)) as archive:
        return {one.name: extracted.read() for one in archive if (extracted := archive.extractfile(one))}


def on_disk(folder: Path) -> dict[str, bytes]:
    """The same of a folder."""
    return {str(one.relative_to(folder.parent)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def open_datasets(window: Watched, served: Served) -> Page:
    """The page with the drop zone."""
    window.context.add_cookies([served.cookie()])
    window.page.goto(served.address + "/datasets")
    return window.page


def test_a_dropped_folder_arrives_whole_with_its_paths(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 230)  # more than a reader gives at once
    with watched_window(chromium) as window:
        page = open_datasets(window, served)
        drop(page, ".drop", folder)
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
        assert page.evaluate("localStorage.length") == 0
    name, status, paths = stored(served, dataset_id)
    assert (name, status, paths) == ("bees & ants", UploadStatus.RECEIVED, {"folder.tar"})
    assert entries(served, dataset_id) == on_disk(folder)


def test_the_virtual_tar_is_the_same_in_slices_of_any_size(chromium: Browser, served: Served) -> None:
    script = """async (step) => {
        const { VirtualTar } = await import("/static/js/virtual-tar.js");
        const names = ["a/plain.txt", "b/" + "long ".repeat(30) + ".jpg", "c/\u00fc\u8702.jpg", "a/empty.jpg", "a/block.jpg"];
        const sizes = [5, 700, 1, 0, 512];
        const files = names.map((path, index) => ({ path, file: new File(["x".repeat(sizes[index])], "f", { lastModified: 1e12 }) }));
        const tar = new VirtualTar(files);
        let text = "";
        for (let at = 0; at < tar.size; at += step) {
            const bytes = new Uint8Array(await tar.slice(at, Math.min(tar.size, at + step)).arrayBuffer());
            if (bytes.length !== Math.min(step, tar.size - at)) throw new Error(`${bytes.length} at ${at}`);
            for (const one of bytes) text += String.fromCharCode(one);
        }
        return btoa(text);
    }"""
    with watched_window(chromium) as window:
        page = open_datasets(window, served)
        bodies = {step: base64.b64decode(page.evaluate(script, step)) for step in (100_000, 513, 512, 7)}
    assert len(set(bodies.values())) == 1
    with tarfile.open(fileobj=io.BytesIO(bodies[7])) as archive:
        found = {one.name: (one.size, one.mtime) for one in archive}
    assert found == {
        "a/plain.txt": (5, 1e9),
        f"b/{'long ' * 30}.jpg": (700, 1e9),
        "c/\u00fc\u8702.jpg": (1, 1e9),
        "a/empty.jpg": (0, 1e9),
        "a/block.jpg": (512, 1e9),
    }


def test_several_archives_and_a_manifest_make_one_upload(chromium: Browser, served: Served, tmp_path: Path) -> None:
    names = ("roses.zip", "tulips.zip", "manifest.csv")
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 1000)
    with watched_window(chromium) as window:
        page = open_datasets(window, served)
        page.locator("input[type=file]:not([data-folder])").set_input_files([tmp_path / name for name in names])
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
    assert stored(served, dataset_id)[1:] == (UploadStatus.RECEIVED, {"roses.zip", "tulips.zip", "unnamed.tar"})


def test_an_upload_goes_on_when_the_connection_breaks(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 150)
    broken: list[str] = []

    def twice_broken(route: Route) -> None:
        if len(broken) < 2 and route.request.method == "PATCH":
            broken.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.continue_()

    with watched_window(chromium, allowed=("ERR_CONNECTION_RESET",)) as window:
        page = open_datasets(window, served)
        page.route(TUS, twice_broken)
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_url("**/datasets/0*")
        assert len(broken) == 2
        dataset_id = page.url.rsplit("/", 1)[1]
    assert entries(served, dataset_id) == on_disk(folder)


def test_a_cut_and_a_reload_do_not_begin_anew(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 60)
    (folder / "large.jpg").write_bytes(bytes(range(256)) * 4 * 70_000)  # 70 MB: three pieces
    far_enough = "() => Object.values(localStorage).some((one) => JSON.parse(one).sent > 36e6)"
    with watched_window(chromium, allowed=("ERR_INTERNET_DISCONNECTED", "ERR_FAILED", "ERR_NETWORK")) as window:
        page = open_datasets(window, served)
        page.on("dialog", lambda dialog: dialog.accept())
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 12_000_000}
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", slow)
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_function(far_enough)
        network.send("Network.emulateNetworkConditions", {**slow, "offline": True})
        page.wait_for_timeout(1200)
        network.send("Network.emulateNetworkConditions", {**slow, "offline": False})
        page.reload()
        expect(page.locator("[data-earlier]")).to_contain_text("“bees & ants” was interrupted")
        methods: list[tuple[str, int]] = []
        page.on("request", lambda one: methods.append((one.method, int(one.headers.get("upload-offset", 0)))))
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
    assert next(offset for method, offset in methods if method == "PATCH") >= 32 << 20
    assert "POST" not in [method for method, _ in methods]
    assert entries(served, dataset_id) == on_disk(folder)


def test_a_server_that_is_away_for_a_moment_is_not_taken_for_one_that_has_forgotten(
    chromium: Browser, served: Served, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, 3)
    with watched_window(chromium, allowed=("ERR_ABORTED", "ERR_FAILED", "503")) as window:
        page = open_datasets(window, served)
        page.on("dialog", lambda dialog: dialog.accept())
        page.route(TUS, lambda route: None if route.request.method == "PATCH" else route.continue_())
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_function("() => Object.values(localStorage).some((one) => one.includes('/uploads/tus/'))")
        page.reload()
        page.unroute(TUS)
        busy = {
            "status": 503,
            "content_type": "application/problem+json",
            "body": '{"detail": "The database is busy."}',
        }
        page.route(TUS, lambda route: route.fulfill(**busy))  # type: ignore[arg-type]
        methods: list[str] = []
        page.on("request", lambda one: methods.append(one.method))
        page.locator("input[data-folder]").set_input_files(folder)
        expect(page.locator("[data-sending-error]")).to_contain_text("server answered 503")
        page.unroute(TUS)
        page.get_by_role("button", name="Try again").click()
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
    assert "POST" not in methods
    assert entries(served, dataset_id) == on_disk(folder)


def test_an_upload_that_is_gone_is_begun_anew(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    with watched_window(chromium, allowed=("ERR_ABORTED", "ERR_FAILED", "404")) as window:
        page = open_datasets(window, served)
        page.on("dialog", lambda dialog: dialog.accept())
        page.route(TUS, lambda route: None if route.request.method == "PATCH" else route.continue_())
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_function("() => Object.values(localStorage).some((one) => one.includes('/uploads/tus/'))")
        earlier = page.evaluate("JSON.parse(Object.values(localStorage)[0]).datasetId")
        page.reload()
        page.unroute(TUS)
        page.evaluate("(id) => fetch(`/api/v1/datasets/${id}`, { method: 'DELETE' })", earlier)
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
    assert dataset_id != earlier
    assert entries(served, dataset_id) == on_disk(folder)


def test_an_upload_can_be_paused(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    with watched_window(chromium, allowed=("ERR_ABORTED", "ERR_FAILED")) as window:
        page = open_datasets(window, served)
        page.route(TUS, lambda route: None if route.request.method == "PATCH" else route.continue_())
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_function("() => Object.keys(localStorage).length === 1")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("[data-sending-words]")).to_have_text("Paused")
        page.unroute(TUS)
        page.wait_for_timeout(300)
        page.get_by_role("button", name="Go on").click()
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
    assert entries(served, dataset_id) == on_disk(folder)


def test_a_file_that_changes_meanwhile_is_named(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    with watched_window(chromium, allowed=("ERR_",)) as window:
        page = open_datasets(window, served)
        page.route("**/api/v1/datasets", lambda route: (changed(folder), route.continue_()))
        page.locator("input[data-folder]").set_input_files(folder)
        expect(page.locator("[data-sending-error]")).to_contain_text("has changed since it was chosen", timeout=20_000)


def changed(folder: Path) -> None:
    """Change every file."""
    time.sleep(1.1)  # browsers compare times of whole seconds
    for one in folder.rglob("*.jpg"):
        one.write_bytes(b"other")


def test_a_refusal_is_a_sentence_and_can_be_tried_again(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    answer = {"status": 413, "content_type": "application/problem+json", "body": '{"detail": "The quota is reached."}'}
    with watched_window(chromium, allowed=("413",)) as window:
        page = open_datasets(window, served)
        page.route(TUS, lambda route: route.fulfill(**answer))  # type: ignore[arg-type]
        page.locator("input[data-folder]").set_input_files(folder)
        expect(page.locator("[data-sending-error]")).to_have_text("The quota is reached.")
        page.unroute(TUS)
        page.get_by_role("button", name="Try again").click()
        page.wait_for_url("**/datasets/0*")
        dataset_id = page.url.rsplit("/", 1)[1]
    assert entries(served, dataset_id) == on_disk(folder)


def test_stopping_leaves_nothing_behind(chromium: Browser, served: Served, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    with watched_window(chromium, allowed=("ERR_FAILED", "ERR_ABORTED")) as window:
        page = open_datasets(window, served)
        before = page.locator("article").count()
        page.route(TUS, lambda route: None if route.request.method == "PATCH" else route.continue_())
        page.locator("input[data-folder]").set_input_files(folder)
        page.wait_for_function("() => Object.keys(localStorage).length === 1")
        page.wait_for_timeout(300)
        with page.expect_response(lambda one: one.request.method == "DELETE" and "/datasets/" in one.url):
            page.get_by_role("button", name="Stop").click()
        expect(page.locator("[data-sending]")).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        page.unroute(TUS)
        page.goto(served.address + "/datasets")
        assert page.locator("article").count() == before


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
