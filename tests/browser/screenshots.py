"""`make screenshots`: pictures of every page, to look at and for the documents.

Without arguments every page of a furnished house, at both widths and in both themes, into `build/screenshots`.
With `--docs FOLDER` (class folders of photographs) a real server is started and trains on them (`standard` and `quick`); the pictures of
README and guide go to `docs/images`.
"""

import argparse
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from app.main import create_app
from app.vendor_files import fetch
from tests.app.pages.furnished import Furnished, furnish
from tests.app.server import serving
from tests.app.test_templates import whole_pages
from tests.browser.watched import running_chromium
from tests.end_to_end.house import House, running_house, wait_until

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = ROOT / "build" / "screenshots"
DOCS = ROOT / "docs" / "images"
WIDTHS = (1280, 390)
DOCS_HEIGHT = 1400
MOST_BYTES = 300_000
PATIENCE_SECONDS = 1800.0


@contextmanager
def window(browser: Browser, width: int, *, dark: bool = False) -> Iterator[BrowserContext]:
    """A browser window of this width."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    yield context
    context.close()


def open_page(page: Page, address: str) -> None:
    """Open it and wait for its scripts, curves and every picture."""
    page.goto(address, wait_until="load")
    page.evaluate("for (const one of document.images) one.loading = 'eager'")
    # asked again and again from here: what waits inside the page would be refused by the content policy
    wait_until(lambda: page.evaluate("[...document.images].every((one) => one.complete)"), 60, f"pictures of {address}")
    page.wait_for_timeout(250)


def furnished_pages(house: Furnished) -> dict[str, str]:
    """Every whole page: a name for its file, and its path."""
    ids = {value: name for name, value in vars(house).items() if isinstance(value, str)}
    found = {}
    for path in whole_pages(house):
        named = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", lambda match: ids.get(match[0], "x"), path)
        found[re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-") or "home"] = path
    return found


def shoot_everything() -> None:
    """All pages of a furnished house."""
    EVERYTHING.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_chromium() as browser:
        house = furnish(Path(folder))
        with serving(create_app(house.settings)) as address:
            for width in WIDTHS:
                for dark in (False, True):
                    with window(browser, width, dark=dark) as context:
                        _shoot_furnished(context, house, address, f"{width}-{'dark' if dark else 'light'}")


def _shoot_furnished(context: BrowserContext, house: Furnished, address: str, kind: str) -> None:
    page = context.new_page()
    open_page(page, f"{address}/login")
    page.screenshot(path=EVERYTHING / f"login-{kind}.png")
    context.add_cookies([{"name": "thaw_session", "value": house.cookie, "url": address}])
    for name, path in furnished_pages(house).items():
        open_page(page, address + path)
        page.screenshot(path=EVERYTHING / f"{name}-{kind}.png", full_page=True)


def shoot_docs(photographs: Path) -> None:
    """The pictures of the documents, from real runs on these photographs."""
    DOCS.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        running_house(Path(name) / "house") as house,
        running_chromium() as browser,
        window(browser, WIDTHS[0]) as context,
    ):
        page = context.new_page()
        page.goto(house.start_link())
        _tell_the_story(house, page, photographs)


def _tell_the_story(house: House, page: Page, photographs: Path) -> None:
    open_page(page, house.address)
    keep(page, "home-empty")
    dataset = _upload(house, photographs)
    quick = _train(house, dataset, "quick")
    _wait(house, quick)
    standard = _train(house, dataset, "standard")
    _wait(house, standard, lambda run: run["progress"]["phase"] == "fine_tune" and (run["progress"]["step"] or 0) > 0)
    time.sleep(4)
    open_page(page, f"{house.address}/runs/{standard}")
    page.wait_for_timeout(1500)
    keep(page, "run")
    open_page(page, house.address)
    keep(page, "home")
    _wait(house, standard)
    model = house.client.get(f"/api/v1/runs/{standard}").json()["model_id"]
    for name, path in {
        "dataset": f"/datasets/{dataset}",
        "new-run": f"/runs/new?dataset_id={dataset}",
        "run-done": f"/runs/{standard}",
        "compare": f"/runs/compare?id={standard}&id={quick}",
    }.items():
        open_page(page, house.address + path)
        page.wait_for_timeout(1500)
        if name == "new-run":  # estimates come one by one
            wait_until(lambda: page.query_selector("form[data-timed]"), PATIENCE_SECONDS, "the times on the cards")
        keep(page, name)
    _shoot_model(house, page, model, photographs)


def _shoot_model(house: House, page: Page, model: str, photographs: Path) -> None:
    pictures = [next(iter(sorted(one.iterdir()))) for one in sorted(photographs.iterdir()) if one.is_dir()]

    def answers() -> bool:
        asked = house.client.post(f"/api/v1/models/{model}/predict", files={"images": pictures[0].read_bytes()})
        return asked.status_code == 200

    wait_until(answers, PATIENCE_SECONDS, "the prediction worker has the model")
    open_page(page, f"{house.address}/models/{model}")
    page.set_input_files("[data-predict] input[type=file]", pictures[1:4])
    page.wait_for_selector("[data-answer]", timeout=120_000)
    page.wait_for_timeout(500)
    keep(page, "model")


def _upload(house: House, photographs: Path) -> str:
    dataset = str(house.client.post("/api/v1/datasets", json={"name": "Groceries"}).json()["id"])
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for one in sorted(photographs.rglob("*")):
            if one.is_file():
                archive.write(one, one.relative_to(photographs.parent).as_posix())
    address = f"/api/v1/datasets/{dataset}/uploads?filename=groceries.zip"
    headers = {"Content-Type": "application/zip"}
    upload = house.client.post(address, content=packed.getvalue(), headers=headers).json()["id"]

    def ready() -> bool:
        return bool(house.client.get(f"/api/v1/uploads/{upload}").json()["status"] == "ready")

    wait_until(ready, PATIENCE_SECONDS, "the pictures are checked")
    return dataset


def _train(house: House, dataset: str, preset: str) -> str:
    answer = house.client.post("/api/v1/runs", json={"dataset_id": dataset, "preset": preset})
    return str(answer.json()["id"])


def _wait(house: House, run: str, until=lambda run: run["status"] == "succeeded") -> None:  # type: ignore[no-untyped-def]
    wait_until(lambda: until(house.client.get(f"/api/v1/runs/{run}").json()), PATIENCE_SECONDS, f"run {run}")


def keep(page: Page, name: str) -> None:
    """Write one picture for the documents: the top of the page, with few colours when it would be too large."""
    picture = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, DOCS_HEIGHT)))
    path = DOCS / f"{name}.png"
    for colours in (None, 256, 128, 64):
        picture_now = picture if colours is None else picture.quantize(colours, method=Image.Quantize.MEDIANCUT)
        picture_now.save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            return


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="class folders of photographs to train on")
    asked = parser.parse_args()
    fetch()
    if asked.docs is None:
        shoot_everything()
    else:
        shoot_docs(asked.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
