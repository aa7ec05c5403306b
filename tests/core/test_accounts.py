"""People, sessions, links, tokens: secrets are shown once, stored hashed, and end when they should."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from core import accounts
from core.database import Database
from core.errors import Conflict, InputInvalid, NotAuthenticated
from core.tables import ApiToken, BrowserSession, Scope, StartLink, utc_now

pytestmark = pytest.mark.both_databases

PASSWORD = "correct horse battery"


def test_a_password_signs_in_and_a_wrong_one_does_not(database: Database) -> None:
    with database.write() as session:
        made = accounts.create_user(session, "ada", PASSWORD, is_admin=True)
        assert accounts.sign_in(session, " ada ", PASSWORD).id == made.id
        assert made.password_hash is not None
        assert made.password_hash.startswith("$argon2id$")
        for name, password in [("ada", "wrong password!"), ("nobody", PASSWORD)]:
            with pytest.raises(NotAuthenticated, match="No user with this name and password"):
                accounts.sign_in(session, name, password)


def test_a_disabled_person_gets_in_nowhere(database: Database) -> None:
    with database.write() as session:
        user = accounts.create_user(session, "ada", PASSWORD)
        cookie = accounts.open_browser_session(session, user, days=1)
        _, token = accounts.create_token(session, user, "script")
        user.disabled_at = utc_now()
        session.flush()
        assert accounts.find_browser_session(session, cookie) is None
        assert accounts.find_token(session, token) is None
        with pytest.raises(NotAuthenticated):
            accounts.sign_in(session, "ada", PASSWORD)


def test_a_start_link_is_good_once(database: Database) -> None:
    with database.write() as session:
        secret = accounts.create_start_link(session, accounts.local_user(session))
        assert accounts.use_start_link(session, secret).name == "local"
        with pytest.raises(NotAuthenticated, match="used already"):
            accounts.use_start_link(session, secret)


def test_an_expired_start_link_is_worthless(database: Database) -> None:
    with database.write() as session:
        secret = accounts.create_start_link(session, accounts.local_user(session), minutes=-1)
        with pytest.raises(NotAuthenticated):
            accounts.use_start_link(session, secret)


def test_no_secret_is_stored_as_it_is(database: Database) -> None:
    with database.write() as session:
        user = accounts.local_user(session)
        token, secret = accounts.create_token(session, user, "script", scope=Scope.READ)
        cookie = accounts.open_browser_session(session, user, days=1)
        link = accounts.create_start_link(session, user)
        session.flush()
        stored = [*session.scalars(select(ApiToken.secret_hash)), *session.scalars(select(BrowserSession.secret_hash))]
        stored += session.scalars(select(StartLink.secret_hash))
        assert not {secret, cookie, link} & set(stored)
        assert token.scope == Scope.READ


def test_expired_tokens_and_sessions_are_not_found(database: Database) -> None:
    with database.write() as session:
        user = accounts.local_user(session)
        cookie = accounts.open_browser_session(session, user, days=1)
        token, secret = accounts.create_token(session, user, "script", days=1)
        session.flush()
        token.expires_at = utc_now() - timedelta(seconds=1)
        session.scalars(select(BrowserSession)).one().expires_at = utc_now() - timedelta(seconds=1)
        session.flush()
        assert accounts.find_token(session, secret) is None
        assert accounts.find_browser_session(session, cookie) is None


def test_a_short_password_and_a_taken_name_are_refused(database: Database) -> None:
    with database.write() as session:
        accounts.create_user(session, "ada", PASSWORD)
        with pytest.raises(InputInvalid, match="at least 10"):
            accounts.create_user(session, "bob", "short")
        with pytest.raises(Conflict, match="already"):
            accounts.create_user(session, "ada", PASSWORD)


def test_a_new_password_ends_other_sessions(database: Database) -> None:
    with database.write() as session:
        user = accounts.create_user(session, "ada", PASSWORD)
        cookie = accounts.open_browser_session(session, user, days=1)
        session.flush()
        accounts.set_password(session, user, PASSWORD + "!")
        assert accounts.find_browser_session(session, cookie) is None
