"""The main flow without a mouse: every step is reached by Tab, is seen to be reached, and works by Enter or Space."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Served
from tests.browser.test_pages import ALLOWED, visit
from tests.browser.watched import watched_window

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MOST_TABS = 160
# the ring is on the element itself, or on the label or card around a control that is not seen
RING = """() => { let one = document.activeElement;
  for (let i = 0; i < 3 && one; i++, one = one.parentElement) {
    const style = getComputedStyle(one);
    if (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) return true;
  }
  return false; }"""


def tab_to(page: Page, wanted: str, key: str = "Tab") -> None:
    """Press Tab until an element that matches the selector has the focus; every stop on the way must show it."""
    for _ in range(MOST_TABS):
        page.keyboard.press(key)
        assert page.evaluate(RING), "nobody sees where the focus is: " + focused(page)
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"{wanted} is not reached by {MOST_TABS} tabs; the last was {focused(page)}")


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.outerHTML.slice(0, 160)"))


def test_the_first_stop_skips_to_the_content(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        window.context.add_cookies([served.cookie()])
        visit(window, served, "/")
        window.page.keyboard.press("Tab")
        expect(window.page.locator(".skip")).to_be_focused()
        expect(window.page.locator(".skip")).to_be_in_viewport()
        window.page.keyboard.press("Enter")
        window.page.wait_for_url("**/#main")
        tab_to(window.page, "*")
        expect(window.page.locator("main input[type=file][data-folder]")).to_be_focused()
        tab_to(window.page, "main input[type=file]:not([data-folder])")


def test_pages_are_reached_and_a_run_is_started_without_a_mouse(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page = window.page
        window.context.add_cookies([served.cookie()])
        visit(window, served, "/")
        tab_to(page, 'nav a[href="/datasets"]')
        page.keyboard.press("Enter")
        page.wait_for_url("**/datasets")
        tab_to(page, f'main a[href="/datasets/{served.house.dataset}"]')
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/datasets/{served.house.dataset}")
        tab_to(page, "a.btn--primary")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/new?*")
        tab_to(page, "input[name=preset]")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("input[name=preset]:focus")).to_be_checked()
        tab_to(page, "#own-settings > summary")
        page.keyboard.press("Enter")
        expect(page.locator("#own-settings")).to_have_attribute("open", "")
        tab_to(page, 'button.btn--primary[type="submit"]')
        page.keyboard.press("Enter")
        expect(page.locator("#run-badge")).to_contain_text("Queued")


def test_a_cell_of_the_matrix_opens_by_enter_and_the_focus_goes_to_its_pictures(
    chromium: Browser, served: Served
) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page = window.page
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/{served.house.done}")
        tab_to(page, ".matrix [data-heat] a")
        page.keyboard.press("Enter")
        expect(page.locator("#cell h3").first).to_be_focused()
        assert "true=" in page.url


def test_the_tabs_of_a_model_work_by_arrow_keys(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page = window.page
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/models/{served.house.model}")
        tab_to(page, '[role="tab"][aria-selected="true"]')
        page.keyboard.press("ArrowRight")
        expect(page.locator('[role="tab"]').nth(1)).to_be_focused()
        expect(page.locator("#use-py")).to_be_visible()
        expect(page.locator("#use-curl")).to_be_hidden()
