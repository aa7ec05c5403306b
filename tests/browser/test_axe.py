"""axe-core over every page: nothing serious or critical, in both themes and at both widths."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from app.vendor_files import fetch_for_tests
from tests.app.test_templates import whole_pages
from tests.browser.conftest import Served
from tests.browser.test_pages import ALLOWED, visit
from tests.browser.watched import Watched, watched_window

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
RUN = """(rules) => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  const wanted = {resultTypes: ["violations"], ...(rules ? {runOnly: {type: "rule", values: rules}} : {})};
  return axe.run(document, wanted).then((found) => found.violations.map((one) => ({
    id: one.id, impact: one.impact, help: one.help, nodes: one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))})));
}"""
# what the theme can change; everything else is the same in both
COLOURS = ["color-contrast", "link-in-text-block"]


def serious(window: Watched, script: str) -> list[dict[str, Any]]:
    """What axe finds on the open page, in light and in dark, that is serious or critical."""
    # by evaluation, which the content policy does not meet: the page itself may load no script but ours
    window.page.evaluate(script)
    window.page.emulate_media(color_scheme="light")
    found: list[dict[str, Any]] = window.page.evaluate(RUN, None)
    window.page.emulate_media(color_scheme="dark")
    found += [one | {"theme": "dark"} for one in window.page.evaluate(RUN, COLOURS)]
    return [one for one in found if one["impact"] in {"serious", "critical"}]


@pytest.fixture(scope="module")
def axe() -> str:
    return (fetch_for_tests() / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.slow)])
def test_no_page_has_a_serious_fault(chromium: Browser, served: Served, axe: str, width: int) -> None:
    problems = {}
    with watched_window(chromium, width=width, allowed=ALLOWED) as window:
        visit(window, served, "/login?next=/")
        problems["/login"] = serious(window, axe)
        window.context.add_cookies([served.cookie()])
        for path in whole_pages(served.house):
            visit(window, served, path)
            problems[path] = serious(window, axe)
    assert {path: found for path, found in problems.items() if found} == {}


def test_axe_does_find_a_fault_where_there_is_one(chromium: Browser, axe: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    style = (
        "html { color-scheme: light dark; background: light-dark(white, #111) } p { color: light-dark(black, #222) }"
    )
    body = f'<style>{style}</style><main><h1>Bad</h1><input><img src="x"><p>Unreadable in the dark.</p></main>'
    bad.write_text(f'<!doctype html><html lang="en"><title>bad</title>{body}')
    with watched_window(chromium, allowed=("ERR_FILE_NOT_FOUND",)) as window:
        window.page.goto(bad.as_uri())
        found = serious(window, axe)
    assert {one["id"] for one in found} >= {"label", "image-alt"}
    assert [one["id"] for one in found if one.get("theme")] == ["color-contrast"]
