"""The whole story in Chromium, over a real server with real workers: upload a folder, train, see the curve move, read the test score,
predict, download. Anything in the console fails it, refused content above all.
"""

import io
import random
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.watched import watched_window
from tests.end_to_end.house import running_house

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("story"), pytest.mark.timeout(420)]
COLOURS = {"blue": (60, 90, 200), "green": (70, 170, 80), "red": (200, 70, 60)}
EACH = 24
FROZEN, TUNED = 30, 10
# counts every number of finished epochs that the page has shown
NOTE_COUNTS = """
window.counts = new Set();
new MutationObserver(() => counts.add(document.querySelectorAll('[data-metrics] tbody tr').length))
  .observe(document, { childList: true, subtree: true });
"""


def folder_of_pictures(folder: Path) -> Path:
    """Three classes that are easy to tell apart, a file that is no picture, one that is cut in half."""
    chance = random.Random(3)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            picture = Image.new(
                "RGB", (72, 60), tuple(min(255, max(0, part + chance.randint(-40, 40))) for part in colour)
            )
            picture.save(folder / name / f"{number:02}.jpg")
    whole = (folder / "red" / "00.jpg").read_bytes()
    (folder / "red" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_from_a_folder_to_a_download(chromium: Browser, tmp_path: Path) -> None:
    pictures = folder_of_pictures(tmp_path / "colours")
    with running_house(tmp_path / "house") as house, watched_window(chromium) as window:
        page = window.page
        page.add_init_script(NOTE_COUNTS)
        page.set_default_timeout(120_000)
        page.goto(house.start_link())
        expect(page.locator("h1")).to_have_text("Teach a network to tell your pictures apart")
        upload(page, pictures)
        train(page)
        judge(page)
        predict(page, pictures)
        download(page, tmp_path)


def upload(page: Page, pictures: Path) -> None:
    """The folder picker; then the receipt."""
    page.locator("input[data-folder]").set_input_files(pictures)
    page.wait_for_url("**/datasets/*")
    expect(page.locator("h1")).to_have_text("colours")
    expect(page.locator("#receipt")).to_be_visible(timeout=90_000)
    expect(page.locator("#receipt .reading").filter(has_text="refused").locator("dd")).to_have_text("1")
    expect(page.locator("#receipt")).to_contain_text("Not a picture")
    expect(page.locator(".thumb img").first).to_have_js_property("complete", value=True)
    expect(page.locator("tfoot .strong, tfoot td.n").first).to_have_text(str(3 * EACH))


def train(page: Page) -> None:
    """Own settings: a tiny network from scratch in two phases; the page follows it without being loaded again."""
    page.get_by_role("link", name="Train", exact=True).first.click()
    page.locator("#own-settings > summary").click()
    page.locator('[name="backbone"]').select_option("tiny_cnn")
    page.locator('[name="weights"]').select_option("none")
    page.locator('[name="image_size"]').fill("32")
    page.locator('[name="frozen.epochs"]').fill(str(FROZEN))
    page.locator('[name="frozen.optimizer.name"]').select_option("adam")
    page.locator('[name="frozen.features"]').select_option("live")
    page.locator('[name="frozen.optimizer.learning_rate"]').fill("0.01")
    page.locator('[name="frozen.early_stopping.patience"]').fill("")
    page.locator('[name="fine_tune.epochs"]').fill(str(TUNED))
    page.locator('[name="fine_tune.unfreeze_from"]').fill("")
    page.locator('[name="fine_tune.features"]').select_option("live")
    page.locator('[name="fine_tune.views"]').fill("1")
    page.locator('[name="name"]').fill("colours, tiny")
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url("**/runs/0*")
    expect(page.locator("#run-progress")).to_be_visible()
    page.evaluate("window.stayed = true")
    expect(page.locator("[data-plot] canvas").first).to_be_visible(timeout=120_000)
    expect(page.locator("#result")).to_be_visible(timeout=240_000)
    assert page.evaluate("window.stayed"), "the page was loaded again"
    counts = page.evaluate("[...counts].filter((one) => one > 0)")
    assert len(counts) > 3, f"the curve did not move: {counts}"
    expect(page.locator("[data-metrics] tbody tr")).to_have_count(FROZEN + TUNED)


def judge(page: Page) -> None:
    """The test score has its interval; a cell of the matrix shows its pictures; after a reload it is all the same."""
    shown = page.locator("#result").inner_text()
    assert "95 % interval" in shown
    page.reload()
    assert page.locator("#result").inner_text() == shown
    page.locator(".matrix [data-right] a").first.click()
    expect(page.locator("#cell .thumb img").first).to_be_visible()
    expect(page.locator("#network")).to_contain_text("Fine-tune phase")


def predict(page: Page, pictures: Path) -> None:
    """Two pictures and a file that is none: bars for the two, a sentence for the third."""
    page.get_by_role("link", name="Try the model").click()
    page.wait_for_url("**/models/*")
    chosen = [pictures / "red" / "01.jpg", pictures / "blue" / "02.jpg", pictures / "notes.txt"]
    page.locator("input[name=images]").set_input_files(chosen)
    expect(page.locator("[data-answer]")).to_have_count(3, timeout=60_000)
    expect(page.locator("[data-answer] .answer__class")).to_have_count(2)
    expect(page.locator("[data-answer] .probs li")).to_have_count(6)
    expect(page.locator("[data-answer] .error")).to_have_count(1)


def download(page: Page, folder: Path) -> None:
    """The SavedModel is a zip with everything that the page promises."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download SavedModel", exact=True).click()
    target = folder / "model.zip"
    waiting.value.save_as(target)
    names = zipfile.ZipFile(io.BytesIO(target.read_bytes())).namelist()
    for wanted in ("saved_model.pb", "labels.json", "model_card.md", "verify.py"):
        assert any(name.endswith(wanted) for name in names), f"{wanted} is not in {names[:20]}"
