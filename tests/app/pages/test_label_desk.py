"""The label desk's pages and routes: decide by plain forms, make the next version, train again, see the gain; test without opinions."""

import re

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from starlette.testclient import TestClient

from app.dependencies import House
from core import label_desk
from core.leases import LABEL_CHECK_LIFE, claim
from core.tables import DatasetVersion, Prediction, Run, RunStatus, Split, User
from tests.app.people import Caller
from tests.app.test_templates import checked
from tests.core.test_label_desk import checked as check_finds
from tests.core.test_label_desk import images, make_version

pytestmark = pytest.mark.both_databases

ORIGIN = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}


class Desk:
    """A version of Ada's with two likely errors, and her browser."""

    def __init__(self, house: House, browser: TestClient) -> None:
        self.house, self.browser = house, browser
        with house.database.write() as session:
            ada = session.scalars(select(User).where(User.name == "ada")).one()
            version = make_version(session, ada)
        self.version, self.dataset_id = version, version.dataset_id
        with house.database.read() as session:
            self.ids = images(session, version)
        self.address = f"/datasets/{self.dataset_id}/label-desk"

    def find(self) -> None:
        """The search is done."""
        with self.house.database.write() as session:
            version = session.get_one(DatasetVersion, self.version.id)
            check_finds(
                session,
                version,
                [
                    (self.ids["cat/0.png"], 0, 1, True),
                    (self.ids["dog/1.png"], 1, 2, True),
                    (self.ids["fox/6.png"], 2, 0, False),
                ],
            )

    def page(self, more: str = "") -> str:
        """The desk, sound HTML."""
        return checked(self.browser.get(f"{self.address}{more}"))

    def press(self, where: str, **form: str) -> str:
        """Send a form; the address it leads to."""
        answer = self.browser.post(f"{self.address}/{where}", data=form, headers=ORIGIN)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])


@pytest.fixture
def desk(house: House, browser: TestClient) -> Desk:
    return Desk(house, browser)


def test_a_search_is_asked_for_watched_and_stopped(desk: Desk) -> None:
    assert "Look for label errors" in desk.page()
    desk.press("check", version="1")
    assert "data-refresh" in desk.page()
    with desk.house.database.write() as session:
        assert claim(session, LABEL_CHECK_LIFE, "tests", 60) is not None
    assert "Looking for label errors" in desk.page()
    desk.press("stop", version="1")
    with desk.house.database.read() as session:
        check = label_desk.find_check(session, desk.version)
        assert check is not None
        assert check.cancel_requested_at is not None


def test_labels_are_decided_one_by_one_and_make_the_next_version(desk: Desk) -> None:
    desk.find()
    page = desk.page()
    assert "Is this “cat”?" in page
    assert 'data-key="c"' in page
    assert "0 of 2 likely errors decided" in page
    skipped = re.search(r'href="([^"]+at=1)"', page)
    assert skipped
    assert "Is this “dog”?" in checked(desk.browser.get(skipped[1].replace("&amp;", "&")))
    first = {"version": "1", "image_id": desk.ids["cat/0.png"]}
    assert desk.press("decide", **first, class_name="dog") == f"{desk.address}?version=1"
    page = desk.page()
    assert "Is this “dog”?" in page
    assert "1 of 2 likely errors decided" in page
    desk.press("decide", version="1", image_id=desk.ids["dog/1.png"], decision="dismiss")
    assert "beyond the likely errors" in desk.page()
    desk.press("decide", **first, decision="forget")
    assert "Is this “cat”?" in desk.page()
    desk.press("decide", **first, class_name="fox")
    assert desk.press("apply", version="1") == f"{desk.address}?version=2"
    assert "Against version 1" in desk.page("?version=2")
    refused = desk.browser.post(f"{desk.address}/apply", data={"version": "2"}, headers=ORIGIN)
    assert refused.status_code == 409
    assert "waits to go to another class" in refused.text


def test_the_gain_is_shown_once_both_runs_have_ended_on_the_same_test(desk: Desk) -> None:
    desk.press("decide", version="1", image_id=desk.ids["cat/0.png"], class_name="dog")
    desk.press("apply", version="1")
    assert "Train again" in desk.page("?version=2")
    desk.press("train", version="2")
    assert "have ended" in desk.page("?version=2")
    tested = [desk.ids[f"{name}/{number}.png"] for name in ("cat", "dog", "fox") for number in (8, 9)]
    with desk.house.database.write() as session:
        runs = session.scalars(select(Run).order_by(Run.id)).all()
        assert [run.preset for run in runs] == ["quick", "quick"]
        for at, run in enumerate(runs):
            run.status, run.summary, run.test_accuracy = RunStatus.SUCCEEDED, {"chosen_phase": "frozen"}, (4 + at) / 6
            for place, image_id in enumerate(tested):
                said = place // 2 if place < 4 + at else 0
                values = {"true_label": place // 2, "predicted_label": said, "confidence": 1.0, "true_probability": 1.0}
                row = {"run_id": run.id, "phase": "frozen", "split": Split.TEST, "image_id": image_id, **values}
                session.add(Prediction(**row, probabilities=[]))
    page = desk.page("?version=2")
    assert "67 % → 83 %" in page
    assert "1 gained, 0 lost; no difference is shown" in page


def test_the_test_is_reviewed_without_any_models_opinion(desk: Desk) -> None:
    desk.find()
    page = desk.page("/test")
    assert "Is this “cat”?" in page
    assert "suggested" not in page
    assert " %" not in page
    assert desk.press("decide", version="1", image_id=desk.ids["cat/8.png"], class_name="fox", test="1").endswith(
        "/test?version=1"
    )
    page = desk.page("/test")
    assert "1 of 6 pictures looked at" in page
    assert "1 test picture to another class" in page
    desk.press("apply", version="1", test="1")
    after = desk.page("?version=2")
    assert "The test is another one since version 1" in after
    assert "Train again" not in after


def test_skipping_past_the_last_test_picture_begins_again(desk: Desk) -> None:
    def shown() -> str:
        found = re.search(r'name="image_id" value="([^"]+)"', page)
        assert found, "a picture is shown"
        return found[1]

    page, seen = desk.page("/test"), []
    for _ in range(6):
        seen.append(shown())
        skipped = re.search(r'href="[^"]+/test\?version=1&amp;at=(\d+)"', page)
        assert skipped
        page = desk.page(f"/test?version=1&at={skipped[1]}")
    assert seen == [desk.ids[f"{name}/{number}.png"] for name in ("cat", "dog", "fox") for number in (8, 9)]
    assert shown() == seen[0]
    for image_id in seen:
        desk.press("decide", version="1", image_id=image_id, decision="dismiss", test="1")
    assert "No test picture is left to look at" in desk.page(f"/test?version=1&at={skipped[1]}")


def hidden(page: str) -> dict[str, str]:
    """The hidden fields of the form by which a picture is decided."""
    form = re.search(r'<form class="stack stack--tight".*?</form>', page, re.DOTALL)
    assert form
    return dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))


@pytest.mark.parametrize("where", ["", "/test"])
def test_what_was_skipped_stays_skipped_when_the_next_is_decided(desk: Desk, where: str) -> None:
    desk.find()
    first = hidden(desk.page(where))
    skip = re.search(r'href="[^"]+(\?version=1&amp;at=\d+)" data-key="s"', desk.page(where))
    assert skip
    second = hidden(desk.page(where + skip[1].replace("&amp;", "&")))
    after = desk.press("decide", **second, decision="dismiss")
    third = hidden(checked(desk.browser.get(after)))
    assert len({one["image_id"] for one in (first, second, third)}) == 3, "not the skipped one again"
    for _ in range(6):  # on to the end, and then the skipped one
        if third["image_id"] == first["image_id"]:
            break
        third = hidden(checked(desk.browser.get(desk.press("decide", **third, decision="dismiss"))))
    assert third["image_id"] == first["image_id"]


def test_the_last_decision_is_the_first_that_can_be_taken_back(desk: Desk) -> None:
    desk.find()
    for name in ("cat/0.png", "dog/1.png"):
        page = checked(desk.browser.get(desk.press("decide", version="1", image_id=desk.ids[name], decision="dismiss")))
        decided = re.findall(r'name="image_id" value="([^"]*)"', page.partition('id="h-decided"')[2])
        assert decided[0] == desk.ids[name]
    assert len(decided) == 2


def test_a_decision_taken_back_is_shown_again(desk: Desk) -> None:
    desk.find()
    second = {"version": "1", "image_id": desk.ids["dog/1.png"], "at": "1"}
    page = checked(desk.browser.get(desk.press("decide", **second, decision="dismiss")))
    undo = re.search(r'<figcaption class="thumb__words">.*?</form>', page, re.DOTALL)
    assert undo
    fields = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', undo[0]))
    page = checked(desk.browser.get(desk.press("decide", **fields, decision="forget")))
    assert "Is this “dog”?" in page
    assert desk.press("decide", **{**second, "at": "nonsense"}, decision="dismiss") == f"{desk.address}?version=1"


def test_the_same_over_rest(desk: Desk, ada: Caller) -> None:
    path = f"/api/v1/dataset-versions/{desk.version.id}"
    assert ada.client.get(f"{path}/label-suggestions").json()["status"] == "none"
    assert ada.client.post(f"{path}/label-suggestions").status_code == 202
    assert ada.client.delete(f"{path}/label-suggestions").status_code == 204
    assert ada.client.get(f"{path}/label-suggestions").json()["status"] == "cancelled"
    desk.find()
    found = ada.client.get(f"{path}/label-suggestions", params={"likely": True}).json()
    assert [(one["given_class"], one["suggested_class"], one["split"]) for one in found["items"]] == [
        ("cat", "dog", "train"),
        ("dog", "fox", "train"),
    ]
    first, second = (one["image_id"] for one in found["items"])
    said = [
        {"image_id": first, "decision": "relabel", "class_name": "dog"},
        {"image_id": second, "decision": "dismiss"},
    ]
    counts = ada.client.post(f"{path}/label-decisions", json={"decisions": said}).json()
    assert counts == {"likely": 2, "open": 0, "pending": 1, "pending_test": 0}
    wrong = [{"image_id": first, "decision": "relabel", "class_name": "cow"}]
    assert ada.client.post(f"{path}/label-decisions", json={"decisions": wrong}).status_code == 422
    made = ada.client.post(f"{path}/label-decisions/apply", json={})
    assert (made.status_code, made.json()["number"]) == (201, 2)
    assert made.json()["test_fingerprint"] == desk.version.test_fingerprint
    assert ada.client.post(f"{path}/label-decisions/apply", json={"test": True}).status_code == 409


def test_somebody_elses_desk_does_not_exist(desk: Desk, bob: Caller, web: FastAPI) -> None:
    assert web is bob.client.app
    path = f"/api/v1/dataset-versions/{desk.version.id}"
    assert bob.client.get(f"{path}/label-suggestions").status_code == 404
    assert bob.client.post(f"{path}/label-decisions/apply", json={}).status_code == 404
    assert bob.client.get(desk.address).status_code == 404
