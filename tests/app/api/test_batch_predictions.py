"""Batch predictions through the API: asked for, watched, read, cancelled, deleted. The answering itself: tests/worker/test_batch.py."""

import csv
import io
import json
import zipfile

import pytest

from app.dependencies import House
from core import batch_predictions
from core.leases import BATCH_LIFE, claim
from core.tables import BatchPrediction, BatchStatus
from tests.app.people import Belongings, Caller, belongings

pytestmark = pytest.mark.both_databases


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    return belongings(house, ada.user)


def archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr("a.png", b"picture")
    return packed.getvalue()


def test_an_archive_is_stored_and_queued_as_a_body_and_as_a_form(ada: Caller, owned: Belongings, house: House) -> None:
    path = f"/api/v1/models/{owned.model_id}/batch-predictions"
    headers = {"Content-Type": "application/zip"}
    body = archive()
    raw = ada.client.post(path, params={"filename": "holiday.zip"}, content=body, headers=headers)
    form = ada.client.post(path, files={"archive": ("week.zip", body, "application/zip")})
    assert (raw.status_code, form.status_code) == (202, 202), (raw.text, form.text)
    assert (raw.json()["filename"], form.json()["filename"]) == ("holiday.zip", "week.zip")
    assert raw.json()["status"] == "queued"
    assert raw.json()["progress"] == {"pictures_done": 0, "pictures_total": None}
    for one in (raw, form):
        with house.storage.open(batch_predictions.archive_key(one.json()["id"])) as stored:
            assert stored.read() == body
    assert not list((house.settings.folder / "batches").iterdir())
    listed = ada.client.get(path).json()["items"]
    assert [one["id"] for one in listed] == [form.json()["id"], raw.json()["id"], owned.batch_id]


def test_a_dataset_version_is_queued_with_its_number_of_pictures(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/models/{owned.model_id}/batch-predictions"
    made = ada.client.post(path, json={"dataset_version_id": owned.version_id})
    assert made.status_code == 202
    assert made.json()["progress"] == {"pictures_done": 0, "pictures_total": 8}
    assert ada.client.post(path, json={"dataset_version_id": "none"}).status_code == 404


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"json": {"dataset": "x"}}, 422, "dataset_version_id"),
        ({"files": {"archive": ("a.png", b"x")}}, 422, "Send an archive"),
        ({"files": {"other": ("a.zip", b"x")}}, 422, "archive"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "Allowed: application/json"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(
    ada: Caller, owned: Belongings, sent: dict[str, object], status: int, words: str
) -> None:
    answer = ada.client.post(f"/api/v1/models/{owned.model_id}/batch-predictions", **sent)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text


def test_the_result_comes_as_csv_and_as_json_lines(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/batch-predictions/{owned.batch_id}/result"
    rows = list(csv.DictReader(io.StringIO(ada.client.get(path).text)))
    assert [row["filename"] for row in rows] == ["'=a.png", "b.txt"]
    assert (rows[0]["class_name"], rows[0]["probability"], rows[0]["cat"]) == ("dog", "0.75", "0.25")
    assert (rows[1]["class_name"], rows[1]["error"]) == ("", "Not a picture.")
    lines = ada.client.get(path, params={"format": "jsonl"}).text.splitlines()
    said = {"class_name": "dog", "probability": 0.75, "probabilities": {"cat": 0.25, "dog": 0.75}}
    first = {"filename": "=a.png", **said, "known_score": 0.9, "verdict": "confident"}
    assert [json.loads(line) for line in lines] == [first, {"filename": "b.txt", "error": "Not a picture."}]


def test_a_result_that_is_not_there_yet_is_a_conflict(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/models/{owned.model_id}/batch-predictions"
    made = ada.client.post(path, json={"dataset_version_id": owned.version_id}).json()
    assert ada.client.get(f"/api/v1/batch-predictions/{made['id']}/result").status_code == 409


def test_a_queued_one_is_cancelled_at_once_and_a_running_one_is_asked(
    ada: Caller, owned: Belongings, house: House
) -> None:
    path = f"/api/v1/models/{owned.model_id}/batch-predictions"
    one, two = (ada.client.post(path, json={"dataset_version_id": owned.version_id}).json()["id"] for _ in range(2))
    with house.database.write() as session:
        held = claim(session, BATCH_LIFE, "worker", 60)
    assert held is not None
    assert held.id == one
    assert ada.client.post(f"/api/v1/batch-predictions/{two}/cancel").json()["status"] == "cancelled"
    assert ada.client.post(f"/api/v1/batch-predictions/{one}/cancel").json()["status"] == "running"
    with house.database.read() as session:
        assert session.get_one(BatchPrediction, one).cancel_requested_at is not None
        assert session.get_one(BatchPrediction, two).status == BatchStatus.CANCELLED


def test_deleting_takes_the_rows_along(ada: Caller, owned: Belongings, house: House) -> None:
    assert ada.client.delete(f"/api/v1/batch-predictions/{owned.batch_id}").status_code == 204
    with house.database.read() as session:
        assert batch_predictions.rows_after(session, owned.batch_id, -1) == []
    assert ada.client.get(f"/api/v1/batch-predictions/{owned.batch_id}").status_code == 404
