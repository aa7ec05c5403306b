"""Every template, rendered through its real route with real rows, full and empty, under StrictUndefined."""

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app import templating
from app.main import create_app
from core.config import Settings
from core.tables import Prediction
from tests.app.pages.furnished import Furnished, empty_house, furnish

ORIGIN = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}


def visitor(settings: Settings, cookie: str | None) -> TestClient:
    """A browser at the door, signed in when it has a cookie."""
    cookies = {"thaw_session": cookie} if cookie else {}
    return TestClient(create_app(settings), base_url="http://localhost", cookies=cookies, follow_redirects=False)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Furnished:
    return furnish(tmp_path_factory.mktemp("furnished"), database_url=database_url)


@pytest.fixture(scope="module")
def browser(furnished: Furnished) -> Iterator[TestClient]:
    with visitor(furnished.settings, furnished.cookie) as client:
        yield client


@pytest.fixture(scope="module")
def rendered() -> Iterator[set[str]]:
    """Names of templates that were loaded while this module ran."""
    names: set[str] = set()
    environment = templating._environment
    original = environment.loader
    assert original is not None

    class Noting(type(original)):  # type: ignore[misc]
        def load(self, env, name, globals=None):  # type: ignore[no-untyped-def]  # noqa: A002
            names.add(name)
            return super().load(env, name, globals)

    environment.cache.clear()  # type: ignore[union-attr]
    environment.loader = Noting(templating.TEMPLATES)
    yield names
    environment.loader = original


class Tags(HTMLParser):
    """Checks that every tag is closed, and notes what the content policy would refuse."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "hr", "use", "rect", "line", "circle", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.problems += [f"{tag} has {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.problems.append(f"inline {tag}")
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "img" and "alt" not in given:
            self.problems.append("a picture without alt")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")


def checked(answer: httpx.Response, status: int = 200) -> str:
    """The text of an answer that is sound HTML."""
    assert answer.status_code == status, answer.text[:500]
    tags = Tags()
    tags.feed(answer.text)
    assert tags.problems == []
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids)), sorted(one for one in tags.ids if tags.ids.count(one) > 1)
    return answer.text


def addresses(f: Furnished) -> list[str]:
    """Every page of a furnished house."""
    return [
        "/", "/datasets", "/datasets?search=gro&sort=name", "/datasets?search=nothing-like-it",
        f"/datasets/{f.dataset}", f"/datasets/{f.dataset}?version=1&class_name=Kiwi&split=test", f"/datasets/{f.busy_dataset}",
        f"/datasets/{f.rejected_dataset}", f"/datasets/{f.empty_dataset}", f"/datasets/{f.dataset}/delete",
        f"/datasets/{f.dataset}/issues", f"/datasets/{f.dataset}/diff",
        f"/datasets/{f.dataset}/uploads/{f.upload}", f"/datasets/{f.dataset}/uploads/{f.upload}/receipt",
        f"/datasets/{f.dataset}/uploads/{f.upload}/receipt?outcome=refused", "/runs/new", f"/runs/new?dataset_id={f.dataset}",
        f"/runs/new?like={f.cancelled}", f"/runs/new?like={f.done}", "/runs", "/runs?status=failed&sort=name&search=huge",
        "/runs?status=queued&search=nothing-like-it", f"/runs/{f.done}", f"/runs/{f.done}?phase=frozen&true=0&said=1&classes=-f1",
        f"/runs/{f.running}", f"/runs/{f.running}/progress", f"/runs/{f.queued}", f"/runs/{f.failed}", f"/runs/{f.cancelled}",
        f"/runs/{f.done}/delete", f"/runs/compare?id={f.done}&id={f.quick}",
        f"/runs/compare?id={f.quick}&id={f.done}&id={f.running}&pair=BC", f"/runs/compare?id={f.done}&id={f.elsewhere}",
        f"/datasets/{f.dataset}/label-desk", f"/datasets/{f.dataset}/label-desk?version=1", f"/datasets/{f.dataset}/label-desk/test",
        "/models", "/models?sort=-test_accuracy", "/models?search=nothing-like-it", f"/models/{f.model}", f"/models/{f.model}/card",
        f"/models/{f.model}/delete", f"/models/{f.model}/downloads", f"/models/{f.model}/batches", "/system", "/account", "/weights",
    ]  # fmt: skip


def whole_pages(f: Furnished) -> list[str]:
    """Every address that a person sees in the bar; the others are parts that pages ask for."""
    parts = (f"/uploads/{f.upload}", "/progress", "/downloads", "/batches")
    return [one for one in addresses(f) if not one.endswith(parts)]


def test_every_page_of_a_furnished_house_is_sound(
    browser: TestClient, furnished: Furnished, rendered: set[str]
) -> None:
    for address in addresses(furnished):
        checked(browser.get(address))
    for path in (f"/datasets/{furnished.dataset}?cursor=bad", "/runs?status=odd", "/runs?sort=odd"):
        checked(browser.get(path), 422)
    checked(browser.get("/nothing/here"), 404)
    assert "home.html" in rendered


def test_every_page_of_an_empty_house_is_sound(tmp_path: Path, rendered: set[str]) -> None:
    settings, cookie = empty_house(tmp_path)
    with visitor(settings, cookie) as client:
        for address in ("/", "/datasets", "/runs", "/runs/new", "/models", "/system", "/account", "/weights"):
            checked(client.get(address))
    assert rendered


def test_the_login_page_is_sound(furnished: Furnished, rendered: set[str]) -> None:
    with visitor(furnished.settings, None) as client:
        assert "Sign in" in checked(client.get("/login"))
        wrong = client.post("/login", data={"username": "a", "password": "b"}, headers=ORIGIN | {"Host": "localhost"})
        assert "wrong" in checked(wrong, 401)
    assert "login.html" in rendered


def test_answers_of_the_model_are_sound_with_and_without_the_page(
    browser: TestClient, furnished: Furnished, rendered: set[str]
) -> None:
    files = [("images", ("a <b>.jpg", b"x", "image/jpeg"))]
    address = f"/models/{furnished.model}/predict"
    page = checked(browser.post(address, files=files, headers=ORIGIN))
    assert "did not answer in time" in page
    part = checked(browser.post(address, files=files, headers=ORIGIN | {"Thaw-Partial": "1"}))
    assert "<html" not in part
    assert "a &lt;b&gt;.jpg" in part
    assert "models/answers.html" in rendered


def test_the_estimate_of_a_card_is_sound(browser: TestClient, furnished: Furnished, rendered: set[str]) -> None:
    part = checked(browser.get(f"/runs/new/estimate?version_id={furnished.version}&preset=quick"))
    assert "<html" not in part
    assert 'data-status="' in part
    assert "runs/_estimate.html" in rendered


def test_where_it_looked_is_sound_also_when_nobody_answers(
    browser: TestClient, furnished: Furnished, rendered: set[str]
) -> None:
    with browser.app.state.house.database.read() as session:  # type: ignore[attr-defined]
        image_id = session.scalar(select(Prediction.image_id).where(Prediction.run_id == furnished.done))
    page = checked(browser.get(f"/runs/{furnished.done}/heatmaps/{image_id}"))
    assert "did not answer in time" in page
    assert "It looked like these training pictures" in page
    files = [("images", ("a <b>.jpg", b"x", "image/jpeg"))]
    page = checked(browser.post(f"/models/{furnished.model}/heatmap", files=files, headers=ORIGIN))
    assert "a &lt;b&gt;.jpg" in page
    assert {"runs/heatmap.html", "models/heatmaps.html"} <= rendered


def test_no_template_was_left_out(browser: TestClient, furnished: Furnished, rendered: set[str]) -> None:
    test_every_page_of_a_furnished_house_is_sound(browser, furnished, rendered)
    test_the_login_page_is_sound(furnished, rendered)
    test_answers_of_the_model_are_sound_with_and_without_the_page(browser, furnished, rendered)
    test_the_estimate_of_a_card_is_sound(browser, furnished, rendered)
    test_where_it_looked_is_sound_also_when_nobody_answers(browser, furnished, rendered)
    root = templating.TEMPLATES
    assert {str(one.relative_to(root)) for one in root.rglob("*.html")} - rendered == set()


def test_a_run_page_says_what_learns_in_each_phase_and_which_one_helped(
    browser: TestClient, furnished: Furnished
) -> None:
    page = html.unescape(re.sub(r"<[^>]+>", " ", browser.get(f"/runs/{furnished.done}").text))
    text = " ".join(page.split())
    assert re.search(r"Frozen phase 10,248 3,413,024 Fine-tune phase 2,599,226 824,046", text), text
    assert re.search(r"Layers in the frozen phase .*answer Dense .*10,248 yes Layers in the fine-tune phase", text), (
        text
    )
    assert re.search(r"[Ff]ine-tun\w+ (helped|did not|made)", text), text


def test_names_from_people_are_never_markup(browser: TestClient, furnished: Furnished) -> None:
    pages = [f"/datasets/{furnished.dataset}", f"/runs/{furnished.done}", f"/models/{furnished.model}"]
    receipt = f"/datasets/{furnished.dataset}/uploads/{furnished.upload}/receipt"
    for address in [*pages, receipt]:
        text = browser.get(address).text
        assert "<b>" not in text
        assert "<script>alert" not in text
