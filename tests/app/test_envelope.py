"""What goes around every request: hosts, headers, the log."""

import json
import logging
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.envelope import HEADERS, HideSecrets
from app.main import create_app
from core.config import Settings
from core.logs import JsonLines
from tests.app.people import Caller


def status_for(web: FastAPI, host: str) -> int:
    """What a request to this host name gets."""
    return TestClient(web).get("/api/v1/health/live", headers={"Host": host}).status_code


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 400),
        ("localhost.evil.example:8000", 400),
        ("10.0.0.5", 400),
        ("", 400),
    ],
)
def test_a_name_that_is_not_ours_is_refused(web: FastAPI, host: str, status: int) -> None:
    assert status_for(web, host) == status


@pytest.fixture
def open_web(settings: Settings) -> Iterator[FastAPI]:
    """An application that listens everywhere."""
    app = create_app(settings.model_copy(update={"host": "0.0.0.0", "allowed_hosts": ("thaw.example.org",)}))
    yield app
    app.state.house.queue.close()
    app.state.house.database.close()


def test_listening_everywhere_allows_addresses_and_configured_names(open_web: FastAPI) -> None:
    assert status_for(open_web, "10.0.0.5:8000") == 200
    assert status_for(open_web, "thaw.example.org") == 200
    assert status_for(open_web, "rebound.example:8000") == 400


@pytest.mark.parametrize("path", ["/api/v1/health/live", "/api/v1/nothing", "/", "/login", "/static/app.css"])
def test_every_answer_carries_the_headers(nobody: TestClient, path: str) -> None:
    answer = nobody.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value, (path, name)
    assert "unsafe-inline" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["x-request-id"]


def test_private_answers_are_not_kept(ada: Caller) -> None:
    assert ada.client.get("/api/v1/datasets").headers["cache-control"] == "no-store"


def test_the_key_of_a_start_link_is_not_logged() -> None:
    line = ("127.0.0.1:5", "GET", "/start?key=secret-of-the-house", "1.1", 303)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 1, '%s - "%s %s HTTP/%s" %d', line, None)
    assert HideSecrets().filter(record)
    assert "secret-of-the-house" not in record.getMessage()
    assert "/start" in record.getMessage()


def test_the_filter_is_on_uvicorns_access_log(web: FastAPI) -> None:
    assert web is not None
    assert any(isinstance(one, HideSecrets) for one in logging.getLogger("uvicorn.access").filters)


def test_the_number_of_an_answer_is_in_the_log(ada: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="app.envelope")
    caplog.handler.setFormatter(JsonLines())
    answers = [ada.client.post("/api/v1/datasets", json={"name": name}) for name in ("Flowers", "Trees")]
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    said = [line["request_id"] for line in lines if line["logger"] == "app.envelope"]
    assert said == [one.headers["X-Request-ID"] for one in answers]
    assert len(set(said)) == 2


def test_every_request_is_one_line_of_the_log_and_the_query_is_left_out(
    ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="app.envelope")
    ada.client.post("/api/v1/datasets", json={"name": "Flowers"})
    ada.client.get("/api/v1/datasets", params={"search": "secret"})
    lines = [
        (one.levelname, one.getMessage().rsplit(" in ", 1)[0]) for one in caplog.records if one.name == "app.envelope"
    ]
    assert lines == [("INFO", "POST /api/v1/datasets 201"), ("DEBUG", "GET /api/v1/datasets 200")]
