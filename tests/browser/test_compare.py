"""Choosing runs in the list and comparing them; sorting a table; both better with scripts, neither in need of them."""

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Served
from tests.browser.test_pages import ALLOWED, visit
from tests.browser.watched import watched_window
from tests.end_to_end.house import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.mark.parametrize("scripts", [True, False])
def test_runs_chosen_in_the_list_are_compared(chromium: Browser, served: Served, scripts: bool) -> None:
    with watched_window(chromium, allowed=ALLOWED, scripts=scripts) as window:
        page = window.page
        window.context.add_cookies([served.cookie()])
        page.goto(f"{served.address}/runs?status=succeeded")
        for run in (served.house.quick, served.house.done):
            page.locator(f'input[value="{run}"]').check()
        page.get_by_role("button", name="Compare chosen runs").click()
        expect(page.locator("h1")).to_have_text("Compare two runs")
        expect(page.locator("#h-score + p")).to_contain_text("B is ahead of A")
        expect(page.locator("[data-plot] canvas")).to_have_count(2 if scripts else 0)


def test_another_pair_is_shown_without_a_new_page(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page, house = window.page, served.house
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/compare?id={house.done}&id={house.quick}&id={house.running}")
        page.evaluate("window.stayed = true")
        page.locator("#pair").select_option("BC")
        expect(page.locator("#disagreements")).to_contain_text("Both runs must have ended well")
        assert page.evaluate("window.stayed")
        assert "pair=BC" in page.url


def test_thaws_stand_at_one_place_and_a_long_frozen_phase_leaves_room(chromium: Browser, served: Served) -> None:
    share = """() => {
      const chart = document.querySelector("[data-plot=accuracy]").chart, [xs, first] = chart.data;
      const known = xs.filter((_, i) => first[i] !== null);
      return [known.at(-9) / chart.scales.x.max, known.length];
    }"""
    with watched_window(chromium, allowed=ALLOWED) as window:
        page, house = window.page, served.house
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/compare?id={house.done}&id={house.quick}")
        expect(page.locator(".plot__says").first).to_contain_text("Epoch +8: A 95.5 %, B")
        last_frozen, epochs = page.evaluate(share)
        assert (last_frozen, epochs) == (pytest.approx(13.5 / 22), 22)
        # as after a logistic regression of many iterations; the table is read anew with the theme
        page.evaluate("""() => {
          const body = document.querySelector("[data-metrics] tbody"), first = body.querySelector("tr");
          for (let i = 0; i < 80; i += 1) body.prepend(first.cloneNode(true));
          const heads = [...document.querySelectorAll("th[data-thaw]")];
          for (const one of heads) if (one.dataset.thaw) one.dataset.thaw = Number(one.dataset.thaw) + 80;
        }""")
        page.locator("[data-theme-toggle]").click()
        wait_until(lambda: page.evaluate(share)[1] == 102, 10, "the curves are drawn anew")
        expect(page.locator(".plot__says").first).to_contain_text("Epoch +8: A 95.5 %, B")
        last_frozen, _ = page.evaluate(share)
        assert 0.48 < last_frozen < 0.5


def test_classes_are_sorted_in_place(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page = window.page
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/{served.house.done}")
        page.evaluate("window.stayed = true")
        page.locator("#classes a.sort").first.click()
        expect(page.locator("#classes tbody th").first).to_have_text("Avocado")
        expect(page.locator("#classes th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
        page.locator("#classes a.sort").first.click()
        expect(page.locator("#classes tbody th").first).to_contain_text("Lemon")
        assert page.evaluate("window.stayed")


def test_a_deleted_run_is_brought_back_by_one_button(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page, address = window.page, f"/runs/{served.house.elsewhere}"
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"{address}/delete")
        page.get_by_role("button", name="Delete run").click()
        expect(page.locator(f'tbody a[href="{address}"]')).to_have_count(0)
        page.get_by_role("button", name="Undo").click()
        page.wait_for_url(f"**{address}")


def test_back_shows_what_was_before_and_a_jump_within_the_page_loads_nothing(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        page = window.page
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/{served.house.done}")
        page.evaluate("window.stayed = true")
        page.locator('.jump a[href="#mistakes"]').click()
        page.wait_for_url("**#mistakes")
        page.wait_for_timeout(200)
        assert page.evaluate("window.stayed")
        page.locator("#classes a.sort").nth(1).click()
        page.wait_for_url("**classes=support**")
        page.go_back()
        expect(page.locator("#classes th[aria-sort]")).to_contain_text("Recall")
        assert "classes=" not in page.url
