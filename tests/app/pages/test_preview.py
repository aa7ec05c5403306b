"""The preview of the new-run page: the form as it stands, drawn nine times."""

import re

import pytest
from starlette.testclient import TestClient

from app.dependencies import House
from app.pages.new_run import rounded_duration
from app.run_form import form_values
from core import accounts
from core.catalog import picture_by_turn
from core.config import Settings
from core.datasets import find_version
from core.presets import PRESETS
from core.tables import Split, User
from tests.app.answering import answering
from tests.app.people import Belongings, Caller, belongings

FORM = form_values(PRESETS["standard"].config.model_dump(mode="json"))
ORIGIN = {"Origin": "http://localhost"}


@pytest.fixture
def owned(house: House, bob: Caller) -> Belongings:
    """Bob's things."""
    return belongings(house, bob.user)


@pytest.fixture
def page(house: House, browser: TestClient, bob: Caller, owned: Belongings) -> TestClient:
    """Bob's browser."""
    assert owned.version_id
    with house.database.write() as session:
        user = session.get_one(User, bob.user.id)
        browser.cookies.set("thaw_session", accounts.open_browser_session(session, user, days=1))
    return browser


def test_the_form_as_it_stands_is_drawn_nine_times(page: TestClient, owned: Belongings, settings: Settings) -> None:
    form = FORM | {"version_id": owned.version_id, "augmentation.shift": "0.1, 0.2", "augmentation.shear_degrees": "9"}
    with answering(settings, lambda _: {"pictures": ["aGk="] * 9}) as asked:
        answer = page.post("/runs/preview", data=form, headers=ORIGIN)
    assert answer.text.count("<img") == 9
    assert "<html" not in answer.text
    assert (asked[0]["augmentation"]["shift"], asked[0]["augmentation"]["shear_degrees"]) == ([0.1, 0.2], 9)


def test_what_is_wrong_elsewhere_in_the_form_does_not_matter(
    page: TestClient, owned: Belongings, settings: Settings
) -> None:
    form = FORM | {"version_id": owned.version_id, "batch_size": "many", "frozen.epochs": ""}
    with answering(settings, lambda _: {"pictures": ["aGk="] * 9}):
        assert page.post("/runs/preview", data=form, headers=ORIGIN).text.count("<img") == 9


def test_a_wrong_value_and_an_absent_worker_are_sentences(
    page: TestClient, owned: Belongings, settings: Settings
) -> None:
    form = FORM | {"version_id": owned.version_id}
    assert "Received: 2" in page.post("/runs/preview", data=form | {"augmentation.zoom": "2"}, headers=ORIGIN).text
    with answering(settings, lambda _: {"error": "The file is gone."}):
        assert "No preview now: The file is gone." in page.post("/runs/preview", data=form, headers=ORIGIN).text


def test_the_next_turn_shows_another_training_picture(house: House, owned: Belongings, bob: Caller) -> None:
    with house.database.read() as session:
        version = find_version(session, bob.user.id, owned.version_id)
        places = [picture_by_turn(session, version, turn) for turn in range(8)]
    assert {place.split for place in places} == {Split.TRAIN}
    assert places[0].image_id != places[1].image_id
    assert len({place.image_id for place in places}) == 6  # all that there are


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (9.4, "9 s"), (33, "35 s"), (79, "1:20"), (300, "5:00"), (830, "14 min")]
)
def test_an_estimate_has_no_more_digits_than_it_deserves(seconds: float, words: str) -> None:
    assert rounded_duration(seconds) == words


def test_a_card_is_whole_without_an_estimate(page: TestClient, owned: Belongings) -> None:
    asked = page.get("/runs/new/estimate", params={"version_id": owned.version_id, "preset": "nonsense"})
    assert (asked.status_code, 'data-status="failed"' in asked.text) == (200, True)
    begun = page.get("/runs/new/estimate", params={"version_id": owned.version_id, "preset": "quick"})
    assert 'data-status="measuring"' in begun.text


def test_what_the_form_asks_for_can_be_estimated(page: TestClient, owned: Belongings, settings: Settings) -> None:
    form = FORM | {"version_id": owned.version_id, "preset": "own", "batch_size": "8"}
    with answering(settings, lambda _: {"error": "not now"}, 2) as asked:
        begun = page.post("/runs/new/estimate", data=form, headers=ORIGIN)
        recipe = page.post("/runs/new/estimate", data=form | {"preset": "keras-guide"}, headers=ORIGIN)
    begun_as = [re.search(r'data-asked="([0-9a-f-]{36})"', one.text) for one in (begun, recipe)]
    assert all(begun_as)
    for one in begun_as:
        found = page.get("/runs/new/estimate", params={"asked": one[1] if one else ""})
        assert ('data-status="failed"' in found.text, "not now" in found.text) == (True, True)
    assert [(one["config"]["batch_size"], one["config"]["backbone"]) for one in asked] == [
        (8, "efficientnet_lite0"),
        (32, "xception"),
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": "0"}, "batch_size"),
        ({"preset": "nonsense"}, "There is no preset"),
        ({"preset": "hands-on-ml-reuse"}, "model"),
        ({"version_id": "gone"}, "gone"),
        ({"base": "gone"}, "gone"),
    ],
    ids=["a field", "no preset", "a recipe without its model", "no version", "no run to start from"],
)
def test_settings_that_cannot_run_are_not_estimated_and_the_sentence_says_why(
    wrong: dict[str, str], words: str, page: TestClient, owned: Belongings
) -> None:
    form = FORM | {"version_id": owned.version_id, "preset": "own"} | wrong
    found = page.post("/runs/new/estimate", data=form, headers=ORIGIN)
    assert (found.status_code, 'data-status="failed"' in found.text) == (200, True)
    assert words in found.text
