"""Every page in a real browser: nothing in the console, nothing that scrolls sideways, at both widths and in both themes."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.app.test_templates import whole_pages
from tests.browser.conftest import Served
from tests.browser.watched import Watched, watched_window

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
# pictures beyond the first dozen of a class have no thumbnail in the furnished house; the heads are not 404 pages
ALLOWED = ("/thumbnail", "status of 404")
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def visit(window: Watched, served: Served, path: str) -> None:
    """Open a page and wait until its scripts have started; event streams never let the network go idle."""
    window.page.goto(served.address + path, wait_until="load")
    window.page.wait_for_timeout(60)


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_scrolls_sideways_or_complains(chromium: Browser, served: Served, width: int) -> None:
    with watched_window(chromium, width=width, dark=width == 390, allowed=ALLOWED) as window:
        window.context.add_cookies([served.cookie()])
        for path in [*whole_pages(served.house), "/login?next=/"]:
            visit(window, served, path)
            assert window.page.evaluate(WIDER) <= 0, f"{path} is wider than {width} px"


def test_the_theme_button_goes_round_and_is_remembered_without_a_flash(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        window.context.add_cookies([served.cookie()])
        visit(window, served, "/system")
        button = window.page.locator("[data-theme-toggle]")
        button.click()
        button.click()
        expect(window.page.locator("html")).to_have_attribute("data-theme", "dark")
        answer = window.context.request.get(served.address + "/system")
        assert 'data-theme="dark"' in answer.text()
        button.click()
        expect(window.page.locator("html")).not_to_have_attribute("data-theme", "dark")


def test_a_cell_of_the_matrix_opens_its_pictures_without_a_new_page(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/{served.house.done}")
        window.page.evaluate("window.stayed = true")
        window.page.locator(".matrix [data-heat] a").first.click()
        expect(window.page.locator("#cell h3").first).to_contain_text("said")
        assert window.page.evaluate("window.stayed")
        assert "true=" in window.page.url


def test_the_curves_are_drawn_from_the_table(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/{served.house.done}")
        expect(window.page.locator("[data-plot] canvas")).to_have_count(2)
        expect(window.page.locator(".plot__says").first).to_contain_text("Epoch 22: validation")


ROOM_OF_EACH_PHASE = """() => {
  const place = document.querySelector("[data-plot=accuracy]"), chart = place.chart, xs = chart.data[0];
  const rows = [...document.querySelectorAll("[data-metrics] tbody tr")].map((row) => row.dataset.phase);
  const edge = rows.indexOf("fine_tune"), end = chart.scales.x.max;
  const boundary = (xs[edge - 1] + xs[edge]) / 2;
  return { frozen: edge, tuned: rows.length - edge, share: boundary / end, inside: xs.every((x) => x > 0 && x < end) };
}"""


def test_a_long_frozen_phase_leaves_the_fine_tuning_half_of_the_room(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=ALLOWED) as window:
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/{served.house.done}")
        plain = window.page.evaluate(ROOM_OF_EACH_PHASE)
        assert plain["share"] == pytest.approx(plain["frozen"] / (plain["frozen"] + plain["tuned"]), abs=0.01)
        # as after a logistic regression of many iterations: more rows in front of the thaw
        window.page.evaluate("""() => {
          const body = document.querySelector("[data-metrics] tbody"), first = body.querySelector("tr");
          for (const row of body.children) row.dataset.epoch = Number(row.dataset.epoch) + 80;
          for (let epoch = 80; epoch > 0; epoch -= 1) {
            const row = first.cloneNode(true);
            row.dataset.epoch = epoch;
            body.prepend(row);
          }
          document.querySelector("[data-curves]").dispatchEvent(new Event("metrics"));
        }""")
        stretched = window.page.evaluate(ROOM_OF_EACH_PHASE)
        assert stretched["frozen"] == plain["frozen"] + 80
        assert stretched["inside"]
        assert 0.45 < stretched["share"] < 0.57


# the browser's own measure (the Layout Instability API): 0.1 is what is called good for a whole visit
COUNT_SHIFTS = """() => {
  window.shifts = 0;
  const count = (list) => { for (const one of list.getEntries()) window.shifts += one.value; };
  new PerformanceObserver(count).observe({ type: "layout-shift" });
}"""


def test_a_running_run_is_brought_up_to_date_when_its_row_changes(chromium: Browser, served: Served) -> None:
    from core import runs  # noqa: PLC0415
    from core.database import open_database  # noqa: PLC0415
    from core.leases import Claim  # noqa: PLC0415
    from core.tables import Run  # noqa: PLC0415

    database = open_database(served.house.settings)
    with watched_window(chromium, allowed=ALLOWED) as window, database.read() as reading:
        window.context.add_cookies([served.cookie()])
        attempt = reading.get_one(Run, served.house.running).attempt
        visit(window, served, f"/runs/{served.house.running}")
        expect(window.page.locator("[data-metrics] tbody tr")).to_have_count(17)
        window.page.wait_for_timeout(500)
        window.page.evaluate(COUNT_SHIFTS)
        metric = runs.MetricValue("fine_tune", 1, 18, "validation", "accuracy", 0.987)
        progress = {
            "phase": "fine_tune",
            "phase_index": 1,
            "epoch": 19,
            "epochs_total": 28,
            "step": 1,
            "steps_total": 75,
        }
        with database.write() as session:
            held = Claim(served.house.running, attempt)
            runs.record(session, held, runs.Report(progress=progress, metrics=[metric], log=["Epoch 18 is over."]))
        expect(window.page.locator("[data-metrics] tbody tr")).to_have_count(18, timeout=10_000)
        expect(window.page.locator("#run-badge")).to_contain_text("epoch 19", timeout=10_000)
        expect(window.page.locator("[data-log]")).to_contain_text("Epoch 18 is over.")
        window.page.wait_for_timeout(200)
        assert window.page.evaluate("shifts") < 0.01, "what a person is looking at has jumped"
    database.close()


def test_wrong_settings_are_shown_at_their_field_and_nothing_typed_is_lost(chromium: Browser, served: Served) -> None:
    with watched_window(chromium, allowed=(*ALLOWED, "422")) as window:
        window.context.add_cookies([served.cookie()])
        visit(window, served, f"/runs/new?dataset_id={served.house.dataset}")
        window.page.locator("#own-settings > summary").click()
        window.page.locator('[name="head.dropout"]').fill("7")
        window.page.locator('[name="name"]').fill("my name")
        assert window.page.locator('[name="preset"][value="own"]').is_checked()
        window.page.locator('button[type="submit"]').click()
        field = window.page.locator('[name="head.dropout"]')
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value("7")
        expect(window.page.locator('[name="name"]')).to_have_value("my name")
        expect(window.page.locator("#f-head-dropout-h")).to_contain_text("0.9")


def test_without_scripts_a_folder_becomes_a_dataset(chromium: Browser, served: Served, tmp_path: Path) -> None:
    picture = tmp_path / "a.zip"
    picture.write_bytes(b"PK\x05\x06" + bytes(18))
    with watched_window(chromium, scripts=False) as window:
        window.context.add_cookies([served.cookie()])
        window.page.goto(served.address + "/datasets")
        window.page.locator("input[type=file]").nth(1).set_input_files(picture)
        window.page.locator("noscript button, .drop button[type=submit]").first.click()
        window.page.wait_for_url("**/datasets/*")
        expect(window.page.locator("h1")).to_have_text("a")
        expect(window.page.locator("#upload")).to_contain_text("waiting for a worker")
