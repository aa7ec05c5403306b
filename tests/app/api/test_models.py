"""Models over REST: predict, download."""

import base64
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.dependencies import House
from core.config import Settings
from core.queue import PREFIX, give_answer, redis_client, take_pictures
from tests.app.people import Belongings, Caller, belongings

pytestmark = pytest.mark.both_databases


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


@contextmanager
def prediction_worker(settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """Answers one question by the real keys of the real queue, as the prediction worker does; gives what it was asked."""
    asked: list[dict[str, Any]] = []

    def work() -> None:
        with redis_client(settings, timeout=10) as client:
            found = client.blpop([f"{PREFIX}predict"], timeout=5)
            if not found:
                return
            number, question, _ = json.loads(base64.b64decode(json.loads(found[1])["body"]))[0]
            pictures = take_pictures(client, number)
            asked.append({**question, "pictures": pictures})
            good = {"class_name": "cat", "probability": 0.9, "probabilities": {"cat": 0.9, "dog": 0.1}}
            answers = [
                {**good, "verdict": "confident"} if one != b"bad" else {"error": "No picture."} for one in pictures
            ]
            give_answer(client, number, {"predictions": answers})

    thread = threading.Thread(target=work)
    thread.start()
    yield asked
    thread.join(10)


def pictures(*named: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """A form with pictures."""
    return [("images", one) for one in named]


@pytest.fixture
def clean_queue(settings: Settings) -> None:
    """No question of another test waits."""
    with redis_client(settings) as client:
        client.delete(f"{PREFIX}predict")


@pytest.mark.usefixtures("clean_queue")
def test_pictures_are_predicted_and_a_bad_one_gets_its_own_error(
    ada: Caller, owned: Belongings, settings: Settings
) -> None:
    small = settings.max_image_bytes
    sent = pictures(("a.png", b"picture"), ("b.png", b"bad"), ("huge.png", b"x" * (small + 1)), ("c.png", b"other"))
    with prediction_worker(settings) as asked:
        answer = ada.client.post(f"/api/v1/models/{owned.model_id}/predict", files=sent)
    assert answer.status_code == 200, answer.text
    assert asked[0]["pictures"] == [b"picture", b"bad", b"other"]
    assert (asked[0]["kind"], asked[0]["model_id"], asked[0]["class_names"]) == (
        "predict",
        owned.model_id,
        ["cat", "dog"],
    )
    found = answer.json()["predictions"]
    assert [one["filename"] for one in found] == ["a.png", "b.png", "huge.png", "c.png"]
    assert [one["class_name"] for one in found] == ["cat", None, None, "cat"]
    assert found[0]["probabilities"] == {"cat": 0.9, "dog": 0.1}
    assert found[1]["error"] == "No picture."
    assert "30,000,000 bytes" in found[2]["error"]


@pytest.mark.usefixtures("clean_queue")
class TestImpatience:
    """With hardly any patience."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Half a second."""
        return settings.model_copy(update={"predict_timeout": 0.5})

    def test_without_a_worker_the_answer_is_come_again(self, ada: Caller, owned: Belongings) -> None:
        answer = ada.client.post(f"/api/v1/models/{owned.model_id}/predict", files=pictures(("a.png", b"x")))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "try again" in answer.json()["detail"]


def test_a_prediction_needs_1_to_32_pictures(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/models/{owned.model_id}/predict"
    none = ada.client.post(path, files=[("images", ("", b""))])
    assert none.status_code == 422
    many = ada.client.post(path, files=pictures(*((f"{index}.png", b"x") for index in range(33))))
    assert many.status_code == 413
    assert ada.client.post(path, json={"images": []}).status_code == 415


def test_a_model_says_the_state_of_every_format(ada: Caller, owned: Belongings) -> None:
    model = ada.client.get(f"/api/v1/models/{owned.model_id}").json()
    formats = {one["format"]: one for one in model["formats"]}
    assert formats["saved_model"]["status"] == "ready"
    assert formats["saved_model"]["agreement"]["top1"] == 1.0
    assert formats["onnx"]["status"] == "none"
    assert ada.client.get("/api/v1/models").json()["items"] == [model]
    path = f"/api/v1/models/{owned.model_id}/exports"
    assert ada.client.post(f"{path}/saved_model").json() == formats["saved_model"]
    asked = ada.client.post(f"{path}/onnx")
    assert (asked.status_code, asked.json()["status"]) == (202, "building")
    assert ada.client.post(f"{path}/onnx").json() == asked.json()
    assert ada.client.get(f"/api/v1/models/{owned.model_id}/download/onnx").status_code == 409
    refused = ada.client.post(f"{path}/pickle")
    assert refused.status_code == 422
    assert "Allowed: saved_model, keras, tflite" in refused.json()["detail"]


def test_a_model_is_renamed_and_deleted_with_its_files(ada: Caller, owned: Belongings, house: House) -> None:
    path = f"/api/v1/models/{owned.model_id}"
    assert ada.client.patch(path, json={"name": "mine", "notes": "x"}).json()["name"] == "mine"
    assert ada.client.delete(path).status_code == 204
    assert ada.client.get(path).status_code == 404
    assert not house.storage.has(f"models/{owned.run_id}/saved_model.zip")
    assert ada.client.get(f"/api/v1/runs/{owned.run_id}").json()["model_id"] is None


def test_a_download_honours_range_and_etag(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/models/{owned.model_id}/download/saved_model"
    whole = ada.client.get(path)
    assert (whole.status_code, len(whole.content)) == (200, 2048)
    assert whole.headers["etag"] == f'"{"ab" * 32}"'
    assert 'filename="pets-model-saved_model.zip"' in whole.headers["content-disposition"]
    part = ada.client.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == "bytes 100-199/2048"
    resumed = ada.client.get(path, headers={"Range": "bytes=2000-", "If-Range": whole.headers["etag"]})
    assert (resumed.status_code, resumed.content) == (206, whole.content[2000:])
    changed = ada.client.get(path, headers={"Range": "bytes=2000-", "If-Range": '"another"'})
    assert (changed.status_code, len(changed.content)) == (200, 2048)
    assert ada.client.get(path, headers={"Range": "bytes=5000-"}).status_code == 416
    assert ada.client.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert ada.client.head(path).headers["content-length"] == "2048"


def test_a_download_without_test_pictures_is_resumed_too(ada: Caller, owned: Belongings, house: House) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name in ("golden/one.png", "golden_generated/one.png", "labels.json"):
            out.writestr(zipfile.ZipInfo(name), name * 1000)
    house.storage.put(f"models/{owned.run_id}/saved_model.zip", packed.getvalue())
    path = f"/api/v1/models/{owned.model_id}/download/saved_model"
    asked = {"golden": "generated"}
    whole = ada.client.get(path, params=asked)
    with zipfile.ZipFile(io.BytesIO(whole.content)) as found:
        assert found.read("golden/one.png") == b"golden_generated/one.png" * 1000
        assert sorted(found.namelist()) == ["golden/one.png", "labels.json"]
    assert whole.headers["etag"] != ada.client.get(path).headers["etag"]
    assert "without-test-pictures.zip" in whole.headers["content-disposition"]
    rest = ada.client.get(path, params=asked, headers={"Range": "bytes=100-", "If-Range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])
    assert ada.client.get(path, params={"golden": "mine"}).status_code == 422


def test_an_old_file_has_no_generated_pictures(ada: Caller, owned: Belongings, house: House) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr("golden/one.png", "x")
    house.storage.put(f"models/{owned.run_id}/saved_model.zip", packed.getvalue())
    path = f"/api/v1/models/{owned.model_id}/download/saved_model"
    refused = ada.client.get(path, params={"golden": "generated"})
    assert refused.status_code == 422
    assert "built before" in refused.json()["detail"]


def test_what_is_not_ready_cannot_be_downloaded(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/models/{owned.model_id}/download"
    assert ada.client.get(f"{path}/onnx").status_code == 409
    assert ada.client.get(f"{path}/pickle").status_code == 422
    assert ada.client.get(f"{path}/saved_model", params={"phase": "frozen"}).status_code == 200
    assert ada.client.get(f"{path}/saved_model", params={"phase": "fine_tune"}).status_code == 422
