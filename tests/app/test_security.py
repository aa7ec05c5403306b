"""Who may do what: every route as anonymous, owner, somebody else, read-only, expired and disabled."""

import re
from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import update
from starlette.testclient import TestClient

from app.dependencies import House
from app.security import PUBLIC
from core import accounts
from core.tables import ApiToken, Scope, User, utc_now
from tests.app.people import Belongings, Caller, belongings, caller

SAFE = {"GET", "HEAD", "OPTIONS"}


def every_route(web: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route but static files."""
    found = [one for one in iter_route_contexts(web.routes) if isinstance(one.route, APIRoute)]
    return sorted({(method, one.path) for one in found for method in one.methods})


def filled(path: str, owned: Belongings) -> str:
    """A path with the ids of somebody's things."""
    names = {"file_format": "saved_model", "user_id": "nobody", "phase": "frozen"}
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: names.get(found[1]) or str(getattr(owned, found[1], "0")), path)


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def test_the_list_of_public_routes_is_what_it_is() -> None:
    assert {"/api/v1/health/live", "/api/v1/health/ready", "/api/v1/openapi.json", "/start", "/login"} == PUBLIC


def test_nobody_gets_in_anywhere_without_a_token_or_cookie(web: FastAPI, nobody: TestClient, owned: Belongings) -> None:
    walked = [one for one in every_route(web) if one[1] not in PUBLIC]
    assert len(walked) > 50
    for method, path in walked:
        answer = nobody.request(method, filled(path, owned))
        if path.startswith("/api/") or method not in SAFE:
            assert answer.status_code == 401, (method, path, answer.text)
        else:
            assert answer.status_code == 303, (method, path, answer.text)
            assert answer.headers["location"].startswith("/login"), (method, path)


@pytest.mark.parametrize("kind", ["expired", "disabled", "revoked"])
def test_a_token_that_ended_opens_nothing(web: FastAPI, house: House, kind: str, owned: Belongings) -> None:
    eve = caller(web, house, "eve")
    with house.database.write() as session:
        if kind == "expired":
            past = utc_now() - timedelta(seconds=1)
            session.execute(update(ApiToken).where(ApiToken.owner_id == eve.user.id).values(expires_at=past))
        elif kind == "disabled":
            session.execute(update(User).where(User.id == eve.user.id).values(disabled_at=utc_now()))
        else:
            accounts.set_password(session, session.get_one(User, eve.user.id), "long enough")
            for token in session.query(ApiToken).filter_by(owner_id=eve.user.id):
                accounts.revoke_token(session, eve.user.id, token.id)
    for method, path in every_route(web):
        if path not in PUBLIC and path.startswith("/api/"):
            assert eve.client.request(method, filled(path, owned)).status_code == 401, (method, path)


def test_a_read_only_token_changes_nothing(web: FastAPI, house: House, owned: Belongings) -> None:
    reader = caller(web, house, "ada", scope=Scope.READ)
    for method, path in every_route(web):
        if path in PUBLIC or "/events" in path:
            continue
        answer = reader.client.request(method, filled(path, owned))
        if method in SAFE:
            asks = "/heatmaps/" in path or path.endswith("/display")
            nobody_answers = answer.status_code == 503 and asks  # no prediction worker runs here
            assert answer.status_code < 500 or nobody_answers, (method, path, answer.text)
        else:
            assert answer.status_code == 403, (method, path, answer.text)


def test_somebody_elses_things_do_not_exist(web: FastAPI, ada: Caller, bob: Caller, owned: Belongings) -> None:
    ids = {one.name for one in owned.__dataclass_fields__.values()}
    walked = [one for one in every_route(web) if ids & set(re.findall(r"\{(\w+)", one[1]))]
    assert len(walked) > 35
    bodies = {"PATCH": {"name": "mine now"}, "POST": {}}
    for method, path in walked:
        files = [("images", ("a.png", b"x"))] if path.endswith("/predict") else None
        json = None if files else bodies.get(method)
        answer = bob.client.request(method, filled(path, owned), json=json, files=files)
        assert answer.status_code == 404, (method, path, answer.status_code, answer.text)
    assert ada.client.get(f"/api/v1/runs/{owned.run_id}").json()["name"] == "first"


def test_somebody_elses_things_are_in_no_list(ada: Caller, bob: Caller, owned: Belongings) -> None:
    for path in ("datasets", "runs", "models", "weights", "sessions"):
        assert bob.client.get(f"/api/v1/{path}").json()["items"] == []
        assert len(ada.client.get(f"/api/v1/{path}").json()["items"]) == 1, path
    answer = bob.client.post("/api/v1/runs", json={"dataset_version_id": owned.version_id})
    assert answer.status_code == 404
    assert bob.client.get("/api/v1/runs/compare", params={"id": owned.run_id}).status_code == 404


def test_only_admins_see_people(ada: Caller, house: House, web: FastAPI) -> None:
    assert ada.client.get("/api/v1/users").status_code == 403
    assert ada.client.post("/api/v1/users", json={"name": "x", "password": "long enough"}).status_code == 403
    with house.database.write() as session:
        accounts.create_user(session, "root", "long enough", is_admin=True)
    root = caller(web, house, "root")
    made = root.client.post("/api/v1/users", json={"name": "carl", "password": "long enough"})
    assert made.status_code == 201
    path = f"/api/v1/users/{made.json()['id']}"
    assert root.client.patch(path, json={"disabled": True}).json()["disabled"] is True
    assert root.client.delete(path).status_code == 204
    own = f"/api/v1/users/{root.user.id}"
    assert root.client.patch(own, json={"is_admin": False}).status_code == 403
    assert root.client.delete(own).status_code == 409
    assert ada.client.patch(own, json={"password": "taken over!"}).status_code == 403


# --- cookies and other sites


def test_a_cookie_opens_pages_and_api(browser: TestClient) -> None:
    assert browser.get("/api/v1/datasets").status_code == 200
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://localhost"}, True),
        ({}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "http://localhost:9999"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, False),
    ],
)
def test_a_cookie_changes_things_from_our_own_pages_only(
    browser: TestClient, headers: dict[str, str], allowed: bool
) -> None:
    answer = browser.post("/api/v1/datasets", json={"name": "x"}, headers=headers)
    assert answer.status_code == (201 if allowed else 403), answer.text


def test_another_site_cannot_load_our_answers_with_our_cookie(browser: TestClient) -> None:
    other = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert browser.get("/api/v1/datasets", headers=other).status_code == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert browser.get("/", headers=link).status_code == 200


def test_a_token_is_exempt_and_never_mixes_with_a_cookie(browser: TestClient, ada: Caller) -> None:
    good = {"Authorization": f"Bearer {ada.token}", "Sec-Fetch-Site": "cross-site"}
    assert browser.post("/api/v1/datasets", json={"name": "x"}, headers=good).status_code == 201
    wrong = {"Authorization": "Bearer thaw_wrong", "Sec-Fetch-Site": "same-origin"}
    assert browser.get("/api/v1/datasets", headers=wrong).status_code == 401
    assert browser.get("/api/v1/datasets", headers={"Authorization": "Basic YTpi"}).status_code == 401


def test_signing_in_from_another_site_is_refused(nobody: TestClient) -> None:
    form = {"username": "ada", "password": "whatever it is"}
    assert nobody.post("/login", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert nobody.post("/login", data=form).status_code == 403


def test_using_a_browser_session_makes_it_last(house: House, browser: TestClient) -> None:
    old = utc_now() - timedelta(hours=2)
    with house.database.write() as session:
        table = accounts.BrowserSession
        session.execute(update(table).values(last_seen_at=old, expires_at=utc_now() + timedelta(minutes=1)))
    assert browser.get("/api/v1/sessions").status_code == 200
    found = browser.get("/api/v1/sessions").json()["items"][0]
    assert found["current"] is True
    assert found["last_seen_at"] > old.isoformat()
    assert found["expires_at"] > (utc_now() + timedelta(days=20)).isoformat()
