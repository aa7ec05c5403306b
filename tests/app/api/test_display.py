"""`GET /images/{image_id}/display`: the large picture."""

import base64
import hashlib
from typing import Any

import pytest
from fastapi import FastAPI

from app.dependencies import House
from core.config import Settings
from core.storage import blob_key
from core.tables import Scope
from tests.app.answering import answering
from tests.app.people import Belongings, Caller, belongings, caller, original_of
from tests.worker.ingest.corpus import encoded, pixels
from worker.ingest.thumbnails import display
from worker.training.pictures import PictureLimits, PictureRefused, decode


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def path_of(owned: Belongings) -> str:
    return f"/api/v1/images/{owned.image_id}/display"


def test_the_large_picture_is_inline_and_kept_by_the_browser(
    ada: Caller, owned: Belongings, settings: Settings
) -> None:
    large = display(pixels(1, width=2000, height=1000))
    listed = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}/images").json()["items"][0]
    with answering(settings, lambda _: {"picture": base64.b64encode(large).decode()}) as asked:
        answer = ada.client.get(listed["display_url"])
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, large, "image/jpeg")
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-disposition" not in answer.headers
    key = blob_key(hashlib.sha256(original_of(ada.user, 0)).hexdigest())
    assert asked == [{"kind": "display", "blob_key": key}]
    again = ada.client.get(path_of(owned), headers={"If-None-Match": f'"other", {answer.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])


def test_a_strangers_picture_is_not_there_and_nobody_is_asked_for_it(
    ada: Caller, bob: Caller, owned: Belongings, house: House, settings: Settings
) -> None:
    tag = f'"{hashlib.sha256(original_of(ada.user, 0)).hexdigest()}-display"'
    assert ada.client.get(path_of(owned), headers={"If-None-Match": tag}).status_code == 304
    with answering(settings, lambda _: {}, questions=0):
        for headers in ({}, {"If-None-Match": tag}):
            answer = bob.client.get(path_of(owned), headers=headers)
            assert (answer.status_code, "etag" in answer.headers) == (404, False)
        assert bob.client.get("/api/v1/images/nothing/display").status_code == 404
        assert house.queue.length("predict") == 0


def test_a_token_that_may_only_read_sees_it(web: FastAPI, house: House, owned: Belongings, settings: Settings) -> None:
    reader = caller(web, house, "ada", scope=Scope.READ)
    with answering(settings, lambda _: {"picture": "aGk="}):
        assert reader.client.get(path_of(owned)).content == b"hi"


def test_without_a_worker_there_is_a_sentence(ada: Caller, owned: Belongings) -> None:
    answer = ada.client.get(path_of(owned))
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["detail"].startswith("The prediction worker did not answer in time.")
    assert answer.headers["retry-after"] == "10"
    assert "etag" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


def test_a_picture_over_the_limits_is_refused_by_the_worker_and_the_refusal_is_not_kept(
    ada: Caller, owned: Belongings, settings: Settings
) -> None:
    def refusing(_: dict[str, Any]) -> dict[str, Any]:
        with pytest.raises(PictureRefused) as refused:
            decode(encoded(pixels(1, width=40, height=30), "PNG"), limits=PictureLimits(max_pixels=1000))
        return {"error": refused.value.sentence}

    with answering(settings, refusing):
        answer = ada.client.get(path_of(owned))
    assert answer.status_code == 503
    assert "pixels" in answer.json()["detail"]
    assert "immutable" not in answer.headers.get("cache-control", "")
