"""Errors: one table, problem+json for the API, a page for people, never a stack trace."""

import inspect
import json
import logging
import re
from pathlib import Path

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

import migrations
from app.dependencies import House
from app.errors import STATUSES, Problem, ProblemResponse, TooMany, problem_of, shortened
from app.main import create_app
from core import errors
from core.config import Settings
from core.database import Database
from core.errors import FieldProblem, ThawError, WorkersAway
from tests.app.people import Caller, belongings, caller
from tests.app.test_security import filled
from tests.postgres import Postgres

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


@pytest.mark.parametrize(("code", "status"), [("53100", 507), ("40P01", 503), ("57P01", 503), ("08006", 503)])
def test_what_postgresql_says_by_a_code_is_a_sentence_too(code: str, status: int) -> None:
    cause = psycopg.OperationalError("could not extend file: No space left on device")
    cause.sqlstate = code
    assert problem_of(OperationalError("INSERT", {}, cause)).status == status


def test_a_database_that_is_gone_for_a_while_is_a_sentence(
    postgres: Postgres, tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = postgres.create()
    database = Database(address)
    migrations.upgrade(database)
    database.close()
    web = create_app(Settings(data_dir=tmp_path, redis_url=redis_url, database_url=address))
    house: House = web.state.house
    ada = caller(web, house, "ada").client
    with postgres.closed(address):
        api, page, ready = (ada.get(path) for path in ("/api/v1/datasets", "/datasets", "/api/v1/health/ready"))
        assert ada.get("/api/v1/health/live").status_code == 200
    assert (api.status_code, page.status_code, ready.status_code) == (503, 503, 503)
    assert ready.json()["parts"]["database"] is False
    assert api.json()["detail"] == "The database does not answer. Try again in a moment."
    assert api.json()["detail"] in page.text
    assert api.headers["Retry-After"] == "5"
    assert "Traceback" not in caplog.text
    assert ada.get("/api/v1/datasets").status_code == 200
    house.queue.close()
    house.database.close()


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


@pytest.mark.both_databases
def test_no_number_in_an_address_is_too_large_for_an_answer(web: FastAPI, house: House, ada: Caller) -> None:
    owned, asked = belongings(house, ada.user), 0
    for context in iter_route_contexts(web.routes):
        if not isinstance(context.route, APIRoute) or "GET" not in context.methods:
            continue
        for name in _numbers(web, context.path, context.route):
            for number in (2**31, 2**63, -(2**63) - 1):
                path = filled(re.sub(rf"\{{{name}(:\w+)?\}}", str(number), context.path), owned)
                answer = ada.client.get(path, params={} if f"{{{name}" in context.path else {name: number})
                assert answer.status_code < 500, (path, name, number, answer.text)
                asked += 1
    assert asked > 40


def _numbers(web: FastAPI, path: str, route: APIRoute) -> set[str]:
    """The parameters of a route that are whole numbers: pages say so by their types, the API by its document too."""
    typed = inspect.signature(route.endpoint).parameters
    found = {name for name, one in typed.items() if "int" in re.findall(r"\w+", str(one.annotation))}
    told = web.openapi()["paths"].get(path, {}).get("get", {}).get("parameters", [])
    return found | {one["name"] for one in told if '"integer"' in json.dumps(one["schema"])}
