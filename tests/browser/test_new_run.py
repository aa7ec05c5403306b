"""The new-run page in a real browser: the preview follows the settings, the cards say how long."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from app.main import create_app
from core.estimates import SPEEDS_LAST, speeds_name
from tests.app.answering import answering
from tests.app.pages.furnished import Furnished, furnish
from tests.app.server import serving
from tests.broker import embedded_valkey
from tests.browser.watched import watched_window
from tests.core.test_estimates import SPEEDS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Furnished]:
    """A furnished house with a real broker."""
    with embedded_valkey() as url:
        furnished = furnish(tmp_path)
        object.__setattr__(
            furnished, "settings", furnished.settings.model_copy(update={"redis_url": url, "predict_timeout": 5})
        )
        yield furnished


def test_the_preview_follows_the_settings_and_the_cards_say_how_long(chromium: Browser, house: Furnished) -> None:
    web = create_app(house.settings)
    numbers = itertools.count()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question["kind"] == "estimate":
            speeds = {**SPEEDS, "phases": SPEEDS["phases"][: len(question["config"]["phases"])]}
            web.state.house.queue.keep(speeds_name(question["key"]), speeds, SPEEDS_LAST)
            return {"speeds": speeds}
        next(numbers)
        return {"pictures": [ONE_PIXEL] * 9}

    with serving(web) as address, answering(house.settings, answer, 6) as asked, watched_window(chromium) as window:
        window.context.add_cookies([{"name": "thaw_session", "value": house.cookie, "url": address}])
        page = window.page
        page.goto(f"{address}/runs/new?version_id={house.version}")
        for card in page.locator("[data-estimate]").all():
            expect(card).to_contain_text("about", timeout=10_000)
        assert next(numbers) == 0  # nothing is drawn while the panel is closed
        page.get_by_text("Every setting").click()
        expect(page.locator("[data-preview] img")).to_have_count(9)
        page.get_by_label("Zoom").fill("0.5")
        page.wait_for_timeout(1000)
        page.get_by_label("Batch size").fill("16")  # not shown in the pictures: nothing is asked
        page.wait_for_timeout(1000)
        page.get_by_role("button", name="How long?").click()
        expect(page.locator("[data-estimate-said]")).to_contain_text("about", timeout=10_000)
        page.get_by_label("Batch size").fill("8")
        expect(page.locator("[data-estimate-said]")).to_be_empty()
        page.get_by_label("Batch size").fill("none")
        page.get_by_role("button", name="How long?").click()
        expect(page.locator("[data-estimate-said]")).to_contain_text("batch_size")
    timed = [one["config"]["batch_size"] for one in asked if one["kind"] == "estimate"]
    assert timed[-1] == 16
    zooms = [one["augmentation"]["zoom"] for one in asked if one["kind"] == "augment"]
    assert zooms == [0.0, 0.5], json.dumps(zooms)
