"""Idempotency-Key: the same answer again, for 24 hours."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.dependencies import House
from app.idempotency import forget_unfinished
from core.tables import ApiToken, Dataset, IdempotencyKey, Run, Upload, utc_now
from tests.app.people import Caller, belongings

pytestmark = pytest.mark.both_databases

KEY = {"Idempotency-Key": "one"}


def count(house: House, table: type) -> int:
    """Rows of a table."""
    with house.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_the_same_request_creates_once_and_is_answered_the_same(ada: Caller, house: House) -> None:
    first = ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY)
    again = ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY)
    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (201, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert count(house, Dataset) == 1


def test_the_same_key_with_another_body_is_refused(ada: Caller, house: House) -> None:
    ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY)
    other = ada.client.post("/api/v1/datasets", json={"name": "Cars"}, headers=KEY)
    assert other.status_code == 422
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"
    assert count(house, Dataset) == 1


def test_keys_of_different_people_never_meet(ada: Caller, bob: Caller, house: House) -> None:
    assert ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY).status_code == 201
    assert bob.client.post("/api/v1/datasets", json={"name": "Cars"}, headers=KEY).status_code == 201
    assert count(house, Dataset) == 2


def test_a_failed_request_can_be_repeated(ada: Caller, house: House) -> None:
    assert ada.client.post("/api/v1/datasets", json={"name": ""}, headers=KEY).status_code == 422
    assert count(house, IdempotencyKey) == 0
    assert ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY).status_code == 201


def test_a_request_that_still_runs_is_not_begun_again(ada: Caller, house: House) -> None:
    ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY)
    with house.database.write() as session:
        session.execute(update(IdempotencyKey).values(status_code=None))
    assert ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY).status_code == 409
    forget_unfinished(house.database)
    assert ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY).status_code == 201


def test_ten_at_once_create_one(ada: Caller, house: House) -> None:
    answers: list[int] = []

    def ask() -> None:
        answers.append(ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY).status_code)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert set(answers) <= {201, 409}
    assert 201 in answers
    assert count(house, Dataset) == 1


def test_a_key_is_forgotten_after_a_day(ada: Caller, house: House) -> None:
    ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY)
    with house.database.write() as session:
        session.execute(update(IdempotencyKey).values(created_at=utc_now() - timedelta(hours=25)))
    assert ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers=KEY).status_code == 201
    assert count(house, Dataset) == 2


def test_a_run_is_queued_once(ada: Caller, house: House) -> None:
    owned = belongings(house, ada.user)
    before = count(house, Run)
    wish = {"dataset_id": owned.dataset_id, "preset": "quick", "repeats": 2}
    first = ada.client.post("/api/v1/runs", json=wish, headers=KEY)
    assert first.status_code == 202, first.text
    assert ada.client.post("/api/v1/runs", json=wish, headers=KEY).json() == first.json()
    assert count(house, Run) == before + 2


def test_of_an_upload_route_and_length_are_compared(ada: Caller, house: House) -> None:
    dataset_id = ada.client.post("/api/v1/datasets", json={"name": "Pets"}).json()["id"]
    path = f"/api/v1/datasets/{dataset_id}/uploads"
    first = ada.client.post(path, files=[("files", ("a.png", b"12345"))], headers=KEY)
    assert first.status_code == 202
    again = ada.client.post(path, files=[("files", ("a.png", b"12345"))], headers=KEY)
    assert again.json() == first.json()
    assert ada.client.post(path, files=[("files", ("a.png", b"123456"))], headers=KEY).status_code == 422
    assert count(house, Upload) == 1


def test_a_secret_is_neither_stored_nor_made_twice(ada: Caller, house: House) -> None:
    before = count(house, ApiToken)
    made = ada.client.post("/api/v1/tokens", json={"name": "ci"}, headers=KEY)
    assert made.status_code == 201
    again = ada.client.post("/api/v1/tokens", json={"name": "ci"}, headers=KEY)
    assert again.status_code == 409
    assert count(house, ApiToken) == before + 1
    with house.database.read() as session:
        assert session.scalars(select(IdempotencyKey.body)).all() == [None]


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_that_is_none_is_refused(ada: Caller, key: str) -> None:
    answer = ada.client.post("/api/v1/datasets", json={"name": "Pets"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
