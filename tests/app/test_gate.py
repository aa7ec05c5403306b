"""The way in by browser: the start link, name and password, signing out; what the cookie is made of."""

from datetime import timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from starlette.testclient import TestClient

from app.dependencies import House
from app.pages.gate import MOST_TRIES
from core import accounts
from core.tables import StartLink, User, utc_now

OURS = {"Sec-Fetch-Site": "same-origin"}
PASSWORD = "correct horse battery"


@pytest.fixture
def key(house: House) -> str:
    """The key of a start link of the local user."""
    with house.database.write() as session:
        return accounts.create_start_link(session, accounts.local_user(session))


@pytest.fixture
def grace(house: House) -> str:
    """A person with a password."""
    with house.database.write() as session:
        return accounts.create_user(session, "grace", PASSWORD).name


def sign_in(client: TestClient, name: str, password: str, **more: str) -> int:
    """Send the form of the sign-in page."""
    form = {"username": name, "password": password, **more}
    return client.post("/login", data=form, headers=OURS).status_code


def test_the_start_link_becomes_a_cookie_once(nobody: TestClient, web: FastAPI, key: str) -> None:
    answer = nobody.get("/start", params={"key": key})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("thaw_session=")
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert key not in answer.headers["location"]
    assert nobody.get("/").status_code == 200
    other = TestClient(web, base_url="http://localhost", follow_redirects=False)
    assert "set-cookie" not in other.get("/start", params={"key": key}).headers
    assert other.get("/").status_code == 303


@pytest.mark.parametrize("wrong", ["", "nonsense"])
def test_a_wrong_key_opens_nothing(nobody: TestClient, wrong: str) -> None:
    answer = nobody.get("/start", params={"key": wrong})
    assert "set-cookie" not in answer.headers
    assert nobody.get("/api/v1/datasets").status_code == 401


def test_a_start_link_expires(nobody: TestClient, house: House, key: str) -> None:
    with house.database.write() as session:
        session.execute(update(StartLink).values(expires_at=utc_now() - timedelta(seconds=1)))
    assert "set-cookie" not in nobody.get("/start", params={"key": key}).headers


def test_name_and_password_open_and_signing_out_closes(nobody: TestClient, grace: str) -> None:
    assert sign_in(nobody, grace, PASSWORD) == 303
    assert nobody.get("/").status_code == 200
    secret = nobody.cookies["thaw_session"]
    assert nobody.post("/logout", headers=OURS).status_code == 303
    nobody.cookies.set("thaw_session", secret)
    assert nobody.get("/api/v1/datasets").status_code == 401


def test_signing_in_goes_on_to_our_own_pages_only(nobody: TestClient, grace: str) -> None:
    for wish, where in [("/runs?sort=name", "/runs?sort=name"), ("//evil.example", "/"), ("https://evil.example", "/")]:
        form = {"username": grace, "password": PASSWORD, "next": wish}
        nobody.cookies.clear()
        assert nobody.post("/login", data=form, headers=OURS).headers["location"] == where


def test_a_wrong_password_and_an_unknown_name_look_the_same(nobody: TestClient, grace: str) -> None:
    wrong = nobody.post("/login", data={"username": grace, "password": "x"}, headers=OURS)
    unknown = nobody.post("/login", data={"username": "graze", "password": "x"}, headers=OURS)
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text == unknown.text.replace("graze", grace)


def test_after_five_failures_there_is_a_pause(nobody: TestClient, house: House, grace: str) -> None:
    with house.database.write() as session:
        accounts.create_user(session, "ivy", PASSWORD)
    assert {sign_in(nobody, "ivy ", "wrong") for _ in range(MOST_TRIES)} == {401}
    assert sign_in(nobody, "ivy", PASSWORD) == 429
    assert sign_in(nobody, grace, PASSWORD) == 303


def test_a_disabled_person_is_out_at_once(nobody: TestClient, house: House) -> None:
    with house.database.write() as session:
        accounts.create_user(session, "henry", PASSWORD)
    assert sign_in(nobody, "henry", PASSWORD) == 303
    with house.database.write() as session:
        session.execute(update(User).where(User.name == "henry").values(disabled_at=utc_now()))
    assert nobody.get("/api/v1/datasets").status_code == 401
    assert sign_in(nobody, "henry", PASSWORD) == 401
