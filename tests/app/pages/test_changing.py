"""Changing a dataset on its page: plain forms make versions, the difference and the issues are shown."""

import re

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.dependencies import House
from core.tables import DatasetVersion, User, VersionImage, VersionIssue
from tests.app.people import Belongings, Caller, belongings

pytestmark = pytest.mark.both_databases

ORIGIN = {"Origin": "http://localhost"}


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def pictures(house: House, version_id: str) -> list[str]:
    """Picture ids of a version, in its order."""
    with house.database.read() as session:
        rows = select(VersionImage.image_id).where(VersionImage.version_id == version_id).order_by(VersionImage.ordinal)
        return list(session.scalars(rows))


def test_ticked_pictures_are_moved_by_a_plain_form_and_the_difference_is_shown(
    house: House, owned: Belongings, browser: TestClient
) -> None:
    first, second, *_ = pictures(house, owned.version_id)
    form = {"base_version_id": owned.version_id, "action": "move", "split": "validation", "image_ids": [first, second]}
    answer = browser.post(f"/datasets/{owned.dataset_id}/changes", data=form, headers=ORIGIN)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"/datasets/{owned.dataset_id}/diff?before=1&after=2"
    shown = browser.get(answer.headers["location"]).text
    assert "From version 1 to version 2" in shown
    assert re.search(r"2\s+moved", shown)
    restored = {"base_version_id": owned.version_id, "action": "restore"}
    undone = browser.post(f"/datasets/{owned.dataset_id}/changes", data=restored, headers=ORIGIN)
    assert undone.headers["location"] == f"/datasets/{owned.dataset_id}/diff?before=1&after=3"
    assert "no difference" in browser.get(undone.headers["location"]).text
    issues = browser.get(f"/datasets/{owned.dataset_id}/issues?kind=small_classes")
    assert "pictures." in issues.text


def test_an_issue_of_a_kind_that_the_version_has_not_counted_yet_has_its_words(
    house: House, owned: Belongings, browser: TestClient
) -> None:
    one, other, *_ = pictures(house, owned.version_id)
    with house.database.write() as session:  # as a check does that commits while the page is made
        found = {"image_id": one, "other_id": other, "score": 0.93}
        session.add(VersionIssue(version_id=owned.version_id, kind="found_later", number=0, **found))
    for address in ("issues", "issues?kind=found_later"):
        shown = browser.get(f"/datasets/{owned.dataset_id}/{address}")
        assert shown.status_code == 200
        assert "Near duplicates found later" in shown.text
        assert "0.930" in shown.text


def test_a_form_without_ticked_pictures_says_so(house: House, owned: Belongings, browser: TestClient) -> None:
    form = {"base_version_id": owned.version_id, "action": "remove"}
    answer = browser.post(f"/datasets/{owned.dataset_id}/changes", data=form, headers=ORIGIN)
    assert answer.status_code == 422
    assert "Choose at least one picture" in answer.text
    with house.database.read() as session:
        assert session.scalar(select(User.id)) is not None
        assert len(session.scalars(select(DatasetVersion.id)).all()) == 1
