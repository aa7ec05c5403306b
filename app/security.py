"""Who may do what: tokens, cookies, the same-origin rule. Deny by default: `authenticate` is a dependency of the whole app."""

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from app.errors import wants_json
from core import accounts
from core.config import Settings
from core.database import Database
from core.errors import Forbidden, NotAuthenticated
from core.tables import ApiToken, BrowserSession, Scope, User, utc_now

COOKIE = "thaw_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TOUCH_AFTER = timedelta(minutes=5)
# Every other route needs a token or a browser session. tests/app/test_security.py walks them all.
PUBLIC = frozenset(
    {"/api/v1/health/live", "/api/v1/health/ready", "/api/v1/openapi.json", "/start", "/login"},
)
_log = logging.getLogger(__name__)
_bearer = HTTPBearer(auto_error=False, description="An API token: `thaw token create NAME`.")


@dataclass(frozen=True)
class Identity:
    """Who calls, and by what.

    Attributes:
        user: the person (a detached row).
        key: id of the token or browser session.
        by_token: True for a token, False for a cookie.
        read_only: a token with the scope `read`.
    """

    user: User
    key: str
    by_token: bool
    read_only: bool = False


def authenticate(
    request: Request, _shown: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None
) -> Identity | None:
    """Let a request pass, or not; the identity is None only on public routes.

    Raises:
        NotAuthenticated: neither a valid token nor a valid cookie.
        Forbidden: a read-only token that wants to change something, or a request that another site sent.
    """
    if not hasattr(request.state, "identity"):
        request.state.identity = _identify(request)
        request.state.user = request.state.identity.user if request.state.identity else None
    identity: Identity | None = request.state.identity
    return identity


def _identify(request: Request) -> Identity | None:
    public = getattr(request.scope.get("route"), "path", None) in PUBLIC
    if public and wants_json(request.url.path):
        return None  # health is told whoever asks, also while the database is away
    if "authorization" in request.headers:
        identity = _by_token(request)
    else:
        identity = _by_cookie(request)
        if identity is not None or public:
            must_be_same_origin(request)
    if identity is None and not public:
        raise NotAuthenticated("Sign in, or send a valid token: Authorization: Bearer <token>.")
    return identity


def _by_token(request: Request) -> Identity | None:
    kind, _, secret = request.headers["authorization"].partition(" ")
    database: Database = request.app.state.house.database
    with database.read() as session:
        found = accounts.find_token(session, secret.strip()) if kind.lower() == "bearer" else None
    if found is None:
        return None
    user, token = found
    if token.scope == Scope.READ and request.method not in SAFE_METHODS:
        raise Forbidden('This token may only read. Make one with the scope "write" to change things.')
    if token.last_used_at is None or token.last_used_at < utc_now() - TOUCH_AFTER:
        _touch(database, token)
    return Identity(user, token.id, by_token=True, read_only=token.scope == Scope.READ)


def _by_cookie(request: Request) -> Identity | None:
    secret = request.cookies.get(COOKIE)
    if not secret:
        return None
    database: Database = request.app.state.house.database
    with database.read() as session:
        found = accounts.find_browser_session(session, secret)
    if found is None:
        return None
    user, browser = found
    if browser.last_seen_at < utc_now() - TOUCH_AFTER:
        settings: Settings = request.app.state.house.settings
        _touch(database, browser, timedelta(days=settings.session_days))
    return Identity(user, browser.id, by_token=False)


def _touch(database: Database, row: ApiToken | BrowserSession, lasts: timedelta = timedelta()) -> None:
    """Remember that a token or browser session is in use; a browser session lasts on from here."""
    now = utc_now()
    if isinstance(row, ApiToken):
        change = update(ApiToken).where(ApiToken.id == row.id).values(last_used_at=now)
    else:
        change = update(BrowserSession).where(BrowserSession.id == row.id)
        change = change.values(last_seen_at=now, expires_at=now + lasts)
    try:
        with database.write() as session:
            session.execute(change)
    except OperationalError:
        _log.warning("the time of last use could not be written")  # a full disk must not lock people out


def must_be_same_origin(request: Request) -> None:
    """Refuse what another site made the browser send.

    Raises:
        Forbidden: an unsafe method without a same-origin `Sec-Fetch-Site` or `Origin`, or a page of another site that loads ours.
    """
    site = request.headers.get("sec-fetch-site")
    if request.method in SAFE_METHODS:
        navigates = request.headers.get("sec-fetch-mode") == "navigate"
        if site in {None, "same-origin", "none"} or navigates:
            return
    elif site is not None:
        if site == "same-origin":
            return
    elif _origin_is_ours(request):
        return
    raise Forbidden("This request came from another site. Use Thaw's own pages, or the API with a token.")


def _origin_is_ours(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
