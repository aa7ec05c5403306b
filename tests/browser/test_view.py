"""A picture opens large in a dialog: by mouse and keys, with its neighbours, while it loads, and when nobody makes it."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import delete, select

from app.main import create_app
from app.vendor_files import fetch_for_tests
from core.database import Database, database_now
from core.tables import WorkerRow
from tests.app.answering import answering
from tests.app.server import serving
from tests.broker import embedded_valkey
from tests.browser.conftest import Served
from tests.browser.test_axe import serious
from tests.browser.test_pages import ALLOWED, visit
from tests.browser.watched import watched_window
from tests.end_to_end.house import wait_until
from tests.worker.ingest.corpus import pixels
from worker.ingest.thumbnails import display

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
LARGE = 'Array.from(document.querySelectorAll("#view img"), (one) => [one.naturalWidth, one.naturalHeight])'
WIDER = "document.querySelector('.view__in').scrollWidth - document.querySelector('#view').clientWidth"


@pytest.fixture(scope="module")
def asked_house(served: Served) -> Iterator[Served]:
    """The furnished house once more, with a broker at which questions can be answered."""
    with embedded_valkey() as url:
        settings = served.house.settings.model_copy(update={"redis_url": url, "predict_timeout": 3})
        with serving(create_app(settings)) as address:
            served.house.settings, before = settings, served.house.settings
            yield Served(served.house, address)
            served.house.settings = before


def large(_: dict[str, Any]) -> dict[str, Any]:
    return {"picture": base64.b64encode(display(pixels(1, width=2000, height=1500))).decode()}


def wait_for_large(page: Page) -> None:
    page.locator("#view [data-view-stage]:not([aria-busy]) img[src^='blob:']").wait_for()
    assert page.evaluate(LARGE) == [[1600, 1200]]


def test_a_picture_opens_large_with_its_neighbours_and_the_focus_returns(
    chromium: Browser, asked_house: Served
) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window, answering(asked_house.house.settings, large, 2) as asked:
        page, view = window.page, window.page.locator("#view")
        window.context.add_cookies([asked_house.cookie()])
        visit(window, asked_house, f"/datasets/{asked_house.house.dataset}")
        links = page.locator("a[data-view]")
        links.nth(1).focus()
        page.keyboard.press("Enter")
        wait_for_large(page)
        expect(view.locator("h2")).to_have_text("Avocado")
        expect(view.locator("[data-view-file]")).to_contain_text("IMG_0001.jpg, 640 \u00d7 480, validation")
        expect(view.locator("img")).to_have_attribute("alt", "Avocado")
        expect(view.locator("[data-view-place]")).to_have_text(f"2 of {links.count()}")
        original = links.nth(1).get_attribute("href")
        download = view.get_by_role("link", name="Download the original")
        assert download.get_attribute("href") == f"{asked_house.address}{original}"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(view.locator("[data-view-place]")).to_have_text(f"1 of {links.count()}")
        expect(view.locator("[data-view-back]")).to_have_attribute("aria-disabled", "true")
        wait_for_large(page)
        problems = serious(window, (fetch_for_tests() / "axe.min.js").read_text(encoding="utf-8"))
        assert problems == []
        page.keyboard.press("Escape")
        expect(view).to_be_hidden()
        expect(links.nth(1)).to_be_focused()
        links.nth(1).click()  # kept by the browser: nobody is asked again
        wait_for_large(page)
    assert len(asked) == 2


def test_nobody_makes_it_and_a_second_try_does(chromium: Browser, asked_house: Served) -> None:
    with watched_window(chromium, width=390, dark=True, allowed=(*ALLOWED, "/display", "status of 503")) as window:
        page, view = window.page, window.page.locator("#view")
        window.context.add_cookies([asked_house.cookie()])
        visit(window, asked_house, f"/runs/{asked_house.house.done}")
        page.locator("a.mistake__pic").first.click()
        expect(view.locator("h2")).to_contain_text("said ")
        expect(view.get_by_role("status")).to_have_text("Loading the large picture …")
        wait_until(lambda: page.evaluate(LARGE) == [[240, 240]], 2, "the thumbnail stands there meanwhile")
        expect(view.get_by_role("status")).to_contain_text("did not answer in time")
        assert page.evaluate(WIDER) <= 0
        with answering(asked_house.house.settings, large):
            view.get_by_role("button", name="Try again").click()
            wait_for_large(page)
        expect(view.get_by_role("button", name="Try again")).to_be_hidden()
        expect(view.get_by_role("button", name="Close")).to_be_focused()
        page.mouse.click(5, 5)
        expect(view).to_be_visible()
        view.get_by_role("button", name="Close").click()
        expect(page.locator("a.mistake__pic").first).to_be_focused()


@pytest.fixture
def predictor(asked_house: Served) -> Iterator[None]:
    """A prediction worker of the furnished house lives; its own has been away too long."""
    database = Database(asked_house.house.settings.database_address)
    with database.write() as session:
        now = session.scalars(select(database_now())).one()
        session.add(WorkerRow(id="alive", queues=["predict"], devices=[], busy=False, heartbeat_at=now))
    yield
    with database.write() as session:
        session.execute(delete(WorkerRow).where(WorkerRow.id == "alive"))
    database.close()


@pytest.mark.usefixtures("predictor")
def test_keys_of_the_label_desk_rest_while_a_picture_is_open(chromium: Browser, asked_house: Served) -> None:
    allowed = (*ALLOWED, "/display", "status of 503")  # one picture is answered, not the one that is skipped to
    with watched_window(chromium, allowed=allowed) as window, answering(asked_house.house.settings, large):
        page = window.page
        window.context.add_cookies([asked_house.cookie()])
        visit(window, asked_house, f"/datasets/{asked_house.house.dataset}/label-desk?version=1")
        before = page.url
        wait_until(
            lambda: "/display" in str(page.locator(".desk__picture img").get_attribute("src")), 10, "it is sharp"
        )
        page.locator(".desk__picture a").click()
        wait_for_large(page)
        page.locator("#view h2").click()
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("s")
        page.wait_for_timeout(200)
        assert page.url == before
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        page.wait_for_url("**at=*")


def test_without_scripts_a_picture_is_a_link_to_its_original(chromium: Browser, asked_house: Served) -> None:
    with watched_window(chromium, scripts=False, allowed=ALLOWED) as window:
        window.context.add_cookies([asked_house.cookie()])
        visit(window, asked_house, f"/datasets/{asked_house.house.dataset}")
        expect(window.page.locator("#view")).to_be_hidden()
        assert str(window.page.locator("a[data-view]").first.get_attribute("href")).endswith("/original")
