"""`POST /augmentation-preview`."""

import hashlib

import pytest

from app.dependencies import House
from core.config import Settings
from core.storage import blob_key
from tests.app.answering import answering
from tests.app.people import Belongings, Caller, belongings, original_of

PATH = "/api/v1/augmentation-preview"


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def test_nine_pictures_come_back_and_none_travels_to_the_worker(
    ada: Caller, owned: Belongings, settings: Settings
) -> None:
    wish = {"image_id": owned.image_id, "augmentation": {"zoom": 0.2}, "seed": 4, "image_size": [300, 150]}
    with answering(settings, lambda _: {"pictures": ["aGk="] * 9}) as asked:
        answer = ada.client.post(PATH, json=wish)
    assert answer.json() == {"pictures": ["data:image/png;base64,aGk="] * 9}
    (question,) = asked
    assert question["blob_key"] == blob_key(hashlib.sha256(original_of(ada.user, 0)).hexdigest())
    assert (question["kind"], question["image_size"], question["seed"]) == ("augment", [192, 96], 4)
    assert (question["augmentation"]["zoom"], question["augmentation"]["rotation_degrees"]) == (0.2, 36.0)


def test_a_wrong_augmentation_is_said_at_its_field(ada: Caller, owned: Belongings) -> None:
    answer = ada.client.post(PATH, json={"image_id": owned.image_id, "augmentation": {"zoom": 7}})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "augmentation.zoom")


def test_a_strangers_picture_is_not_there(bob: Caller, owned: Belongings) -> None:
    assert bob.client.post(PATH, json={"image_id": owned.image_id}).status_code == 404


def test_what_the_worker_cannot_read_is_a_sentence(ada: Caller, owned: Belongings, settings: Settings) -> None:
    with answering(settings, lambda _: {"error": "The file is not in the storage any more."}):
        answer = ada.client.post(PATH, json={"image_id": owned.image_id})
    assert (answer.status_code, answer.json()["detail"]) == (503, "The file is not in the storage any more.")
