"""Account: browser sessions, API tokens, the password; signing in and out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.dependencies import Person, ReadSession, SettingsOf, TheIdentity, WriteSession
from app.pages.forms import Fields, own_path, see_other
from app.security import COOKIE
from app.templating import View, render
from core import accounts
from core.config import Settings
from core.errors import FieldProblem, InputInvalid, NotAuthenticated
from core.tables import ApiToken, BrowserSession, Scope, User, utc_now

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class AccountView(View):
    """A person's ways in. `secret` is a new token, shown this once."""

    template = "account.html"
    person: User
    sessions: Sequence[BrowserSession]
    session_id: str
    tokens: Sequence[ApiToken]
    secret: str = ""
    secret_name: str = ""
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoginView(View):
    """The form to sign in with."""

    template = "login.html"
    next: str
    name: str
    problem: str
    loopback: bool


@router.get("/account")
def show(request: Request, session: ReadSession, person: Person, identity: TheIdentity) -> Response:
    """The account page."""
    return render(request, account_view(session, person, identity.key))


def account_view(
    session: Session,
    person: User,
    session_id: str,
    *,
    secret: tuple[str, str] = ("", ""),
    problems: dict[str, str] | None = None,
) -> AccountView:
    """Read what the account page shows; `secret` is (name, token) just made."""
    sessions = select(BrowserSession).where(BrowserSession.owner_id == person.id, BrowserSession.expires_at > utc_now())
    tokens = select(ApiToken).where(ApiToken.owner_id == person.id).order_by(ApiToken.id.desc())
    return AccountView(
        person=person,
        sessions=session.scalars(sessions.order_by(BrowserSession.last_seen_at.desc()).limit(50)).all(),
        session_id=session_id,
        tokens=session.scalars(tokens.limit(200)).all(),
        secret_name=secret[0],
        secret=secret[1],
        problems=problems or {},
    )


@router.post("/account/tokens")
def create_token(
    request: Request, session: WriteSession, person: Person, identity: TheIdentity, form: Fields
) -> Response:
    """Make a token; the answer shows it, once. (No redirect: its text is nowhere to be read again.)"""
    try:
        scope = Scope.READ if form.get("scope") == Scope.READ else Scope.WRITE
        token, secret = accounts.create_token(session, person, form.get("name", ""), scope=scope)
    except InputInvalid as error:
        problems = {"name": error.message}
        return render(request, account_view(session, person, identity.key, problems=problems), 422)
    return render(request, account_view(session, person, identity.key, secret=(token.name, secret)), 201)


@router.post("/account/tokens/{token_id}/delete")
def revoke_token(session: WriteSession, person: Person, token_id: str) -> Response:
    """Make a token worthless."""
    accounts.revoke_token(session, person.id, token_id)
    return see_other("/account")


@router.post("/account/sessions/{session_id}/delete")
def close_session(session: WriteSession, person: Person, session_id: str) -> Response:
    """Sign a browser out."""
    accounts.close_browser_session(session, person.id, session_id)
    return see_other("/account")


@router.post("/account/password")
def change_password(
    request: Request, session: WriteSession, person: Person, identity: TheIdentity, settings: SettingsOf, form: Fields
) -> Response:
    """Change the password; every other browser is signed out."""
    user = session.get_one(User, person.id)
    try:
        _check_password(session, user, form)
        accounts.set_password(session, user, form.get("password", ""))
    except InputInvalid as error:
        problems = {one.field: one.message for one in error.problems}
        return render(request, account_view(session, user, identity.key, problems=problems), 422)
    return signed_in(request, session, user, settings, "/account")


def _check_password(session: Session, user: User, form: dict[str, str]) -> None:
    if user.password_hash is None:
        message = "This installation is used without a password. Make a user with one: thaw user create."
        raise InputInvalid(message, problems=(FieldProblem("password", message),))
    try:
        accounts.sign_in(session, user.name, form.get("old", ""))
    except NotAuthenticated as error:
        message = "The present password is wrong."
        raise InputInvalid(message, problems=(FieldProblem("old", message),)) from error


def signed_in(request: Request, session: Session, user: User, settings: Settings, address: str) -> Response:
    """Go on to `address` with a new browser session in a cookie."""
    secret = accounts.open_browser_session(
        session, user, days=settings.session_days, user_agent=request.headers.get("user-agent", "")
    )
    response = see_other(own_path(address))
    response.set_cookie(
        COOKIE,
        secret,
        max_age=settings.session_days * 86400,
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )
    return response
