"""Heat maps by the API: what is asked of the worker, and what comes back."""

import hashlib
from typing import Any

import pytest

from app.dependencies import House
from core.config import Settings
from core.storage import blob_key
from tests.app.answering import answering
from tests.app.people import Belongings, Caller, belongings, original_of

pytestmark = pytest.mark.both_databases

ANSWER = {
    "class_name": "cat",
    "probability": 0.9,
    "picture": "aGk=",
    "seen": "aG8=",
    "box": [0.1, 0.2, 0.5, 0.6],
    "box_pixels": [10, 20, 50, 60],
}


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def test_a_test_picture_is_read_from_the_storage_by_the_worker(
    ada: Caller, owned: Belongings, settings: Settings
) -> None:
    with answering(settings, lambda _: ANSWER) as asked:
        answer = ada.client.get(f"/api/v1/runs/{owned.run_id}/heatmaps/{owned.image_id}")
    body = answer.json()
    assert (body["class_name"], body["picture"], body["seen"]) == (
        "cat",
        "data:image/png;base64,aGk=",
        "data:image/png;base64,aG8=",
    )
    assert body["box"] == {"left": 0.1, "top": 0.2, "right": 0.5, "bottom": 0.6}
    assert body["box_pixels"] == {"left": 10, "top": 20, "right": 50, "bottom": 60}
    assert "not a proof" in body["caption"]
    (question,) = asked
    assert question["blob_key"] == blob_key(hashlib.sha256(original_of(ada.user, 0)).hexdigest())
    assert (question["kind"], question["label"]) == ("heatmap", None)


def test_another_class_may_be_asked_about(ada: Caller, owned: Belongings, settings: Settings) -> None:
    path = f"/api/v1/runs/{owned.run_id}/heatmaps/{owned.image_id}"
    names = ada.client.get(f"/api/v1/models/{owned.model_id}").json()["class_names"]
    with answering(settings, lambda _: {**ANSWER, "box": None, "box_pixels": None}) as asked:
        answer = ada.client.get(path, params={"class_name": names[1]})
    assert answer.json()["box"] is None
    assert asked[0]["label"] == 1
    wrong = ada.client.get(path, params={"class_name": "unicorn"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "class_name")


def test_a_picture_that_is_sent_is_looked_at(ada: Caller, owned: Belongings, settings: Settings) -> None:
    path = f"/api/v1/models/{owned.model_id}/heatmap"
    files: list[Any] = [("images", ("a.png", b"bytes"))]
    with answering(settings, lambda _: ANSWER) as asked:
        assert ada.client.post(path, files=files).json()["class_name"] == "cat"
    assert asked[0]["blob_key"] is None
    two = ada.client.post(path, files=files * 2)
    assert (two.status_code, two.json()["errors"][0]["received"]) == (422, 2)


def test_what_the_worker_cannot_do_is_a_sentence(ada: Caller, owned: Belongings, settings: Settings) -> None:
    with answering(settings, lambda _: {"error": "Train it again to see where it looks."}):
        answer = ada.client.get(f"/api/v1/runs/{owned.run_id}/heatmaps/{owned.image_id}")
    assert (answer.status_code, answer.json()["detail"]) == (503, "Train it again to see where it looks.")


def test_strangers_pictures_and_runs_are_not_there(ada: Caller, bob: Caller, owned: Belongings, house: House) -> None:
    other = belongings(house, bob.user)
    assert bob.client.get(f"/api/v1/runs/{owned.run_id}/heatmaps/{other.image_id}").status_code == 404
    assert ada.client.get(f"/api/v1/runs/{owned.run_id}/heatmaps/{other.image_id}").status_code == 404
