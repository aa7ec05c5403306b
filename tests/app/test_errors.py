"""Errors: one table, problem+json for the API, a page for people, never a stack trace."""

import inspect
import json
import logging

import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app.errors import STATUSES, Problem, ProblemResponse, TooMany, problem_of, shortened
from core import errors
from core.errors import FieldProblem, ThawError, WorkersAway
from tests.app.people import Caller

# these never reach a person: a worker stops at the first, the others are written into a run's failure
INSIDE = {errors.Fenced, errors.WeightsUnavailable, errors.PicturesUnreadable}


def test_every_domain_error_has_a_status() -> None:
    kinds = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, ThawError)]
    missing = [one for one in kinds if one is not ThawError and not issubclass(one, tuple(STATUSES))]
    assert set(missing) == INSIDE


def test_a_problem_has_the_fields_of_rfc_9457() -> None:
    problem = Problem(422, "It is wrong.", (FieldProblem("name", "Too long.", "x" * 300),))
    assert problem.as_json() == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "It is wrong.",
        "errors": [{"field": "name", "message": "Too long.", "received": '"' + "x" * 199 + "..."}],
    }


def test_what_was_received_can_always_be_shown() -> None:
    for value in (float("nan"), b"\xff", {1, 2}, "\ud800", {"a": [1, None]}):
        response = ProblemResponse(Problem(422, "x", (FieldProblem("f", "m \ud800", shortened(value)),)))
        assert json.loads(bytes(response.body))["errors"][0]["field"] == "f"


def test_errors_that_pass_say_when_to_come_again() -> None:
    assert problem_of(WorkersAway("away", retry_after=7)).headers["Retry-After"] == "7"
    assert problem_of(TooMany("too many", 60)).headers["Retry-After"] == "60"


@pytest.mark.parametrize(("message", "status"), [("database or disk is full", 507), ("database is locked", 503)])
def test_a_database_that_cannot_write_is_a_sentence(message: str, status: int) -> None:
    assert problem_of(OperationalError("INSERT", {}, Exception(message))).status == status


def test_any_other_database_error_is_unexpected() -> None:
    error = OperationalError("SELECT", {}, Exception("no such table: runs"))
    with pytest.raises(OperationalError):
        problem_of(error)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", "/api/v1/nothing", None, 404, None),
        ("PUT", "/api/v1/datasets", None, 405, None),
        ("GET", "/api/v1/datasets/0", None, 404, None),
        ("POST", "/api/v1/datasets", {}, 422, "name"),
        ("POST", "/api/v1/datasets", {"name": "x", "colour": "red"}, 422, "colour"),
        ("POST", "/api/v1/datasets", {"name": "  "}, 422, "name"),
        ("POST", "/api/v1/datasets", {"name": "a\0b"}, 422, "name"),
        ("POST", "/api/v1/datasets", {"name": 5}, 422, "name"),
        ("GET", "/api/v1/datasets?limit=0", None, 422, "limit"),
        ("GET", "/api/v1/datasets?limit=201", None, 422, "limit"),
        ("GET", "/api/v1/datasets?limit=many", None, 422, "limit"),
        ("GET", "/api/v1/datasets?colour=red", None, 422, "colour"),
        ("GET", "/api/v1/datasets?cursor=nonsense", None, 422, "cursor"),
        ("GET", "/api/v1/datasets?sort=size", None, 422, "sort"),
        ("GET", "/api/v1/runs?status=asleep", None, 422, "status"),
        ("POST", "/api/v1/runs", {}, 422, "dataset_version_id"),
        ("POST", "/api/v1/runs", {"dataset_id": "x", "preset": "fast"}, 422, "preset"),
        ("POST", "/api/v1/runs", {"dataset_id": "x", "config": {"backbone": "vgg"}}, 422, "config.backbone"),
        ("POST", "/api/v1/runs", {"dataset_id": "x", "config": {"lr": 1}}, 422, "config.lr"),
        ("POST", "/api/v1/runs", {"dataset_id": "x", "config": {"image_size": [8, 8]}}, 422, "config.image_size.0"),
        ("POST", "/api/v1/runs", {"dataset_id": "x", "config": {"weights": {"file": "m"}}}, 422, "config.weights"),
    ],
)
def test_each_mistake_gets_its_sentence(
    ada: Caller, method: str, path: str, body: object, status: int, field: str | None
) -> None:
    answer = ada.client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"].endswith("."), problem
    assert field is None or field in [one["field"] for one in problem["errors"]], problem


def test_405_says_what_is_allowed(ada: Caller) -> None:
    assert "GET" in ada.client.put("/api/v1/system").headers["allow"]


def test_json_that_is_none_is_refused(ada: Caller) -> None:
    kind = {"Content-Type": "application/json"}
    answer = ada.client.post("/api/v1/datasets", content=b'{"name": ', headers=kind)
    assert answer.status_code == 422
    assert "not JSON" in answer.json()["detail"]
    lone = ada.client.post("/api/v1/datasets", content=b'{"name": "\\ud800"}', headers=kind)
    assert lone.status_code == 422
    assert lone.json()["errors"][0]["field"] == "name"


def test_a_huge_json_body_is_refused_before_it_is_read(ada: Caller) -> None:
    answer = ada.client.post("/api/v1/datasets", json={"name": "x", "description": "y" * 1_100_000})
    assert answer.status_code == 413
    assert "1,000,000 bytes" in answer.json()["detail"]


def test_pages_get_a_page(browser: TestClient) -> None:
    answer = browser.get("/datasets/0")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "There is no dataset" in answer.text


def test_an_unexpected_error_is_logged_with_its_number_and_never_shown(
    web: FastAPI, ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    @web.get("/api/v1/broken")
    def broken() -> None:
        raise RuntimeError("the secret inside")

    with caplog.at_level(logging.ERROR):
        answer = ada.client.get("/api/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    number = answer.json()["request_id"]
    assert number == answer.headers["x-request-id"]
    assert number in answer.json()["detail"]
    assert number in caplog.text
    assert "the secret inside" in caplog.text
