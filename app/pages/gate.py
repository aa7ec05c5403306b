"""The way in and out: the start link of local mode, name and password, signing out."""

import time
from collections import defaultdict, deque

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.dependencies import Person, SettingsOf, TheIdentity, WriteSession
from app.errors import TooMany
from app.pages.account import LoginView, signed_in
from app.pages.forms import Fields, own_path, see_other
from app.security import COOKIE
from app.templating import render
from core import accounts
from core.errors import NotAuthenticated

router = APIRouter(include_in_schema=False)
MOST_TRIES = 5
PAUSE_SECONDS = 60.0


class Tries:
    """Failed sign-ins by name and address: after five in a minute there is a pause."""

    def __init__(self) -> None:
        self._failed: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_TRIES))

    def check(self, key: str) -> None:
        """Let a try pass.

        Raises:
            TooMany: five failed within the last minute.
        """
        failed = self._failed.get(key)
        if failed and len(failed) == MOST_TRIES and time.monotonic() - failed[0] < PAUSE_SECONDS:
            raise TooMany("Too many tries. Wait one minute, then sign in again.", int(PAUSE_SECONDS))

    def failed(self, key: str) -> None:
        """Count a failure; forget everything when an attacker has filled the memory with names."""
        if len(self._failed) > 10_000:
            self._failed.clear()
        self._failed[key].append(time.monotonic())

    def passed(self, key: str) -> None:
        """Forget the failures of somebody who is in."""
        self._failed.pop(key, None)


_tries = Tries()


@router.get("/start")
def start(request: Request, settings: SettingsOf, key: str = "") -> Response:
    """Exchange the one-time link for a cookie. A second use by the same browser just goes on."""
    if getattr(request.state, "user", None) is not None:
        return see_other("/")
    with (
        request.app.state.house.database.write() as writing
    ):  # a GET that writes: a link is all that a terminal can print
        user = accounts.use_start_link(writing, key)
        return signed_in(request, writing, user, settings, "/")


@router.get("/login")
def show_login(request: Request, settings: SettingsOf, next: str = "/") -> Response:  # noqa: A002 - as in the address
    """The form to sign in with."""
    if getattr(request.state, "user", None) is not None:
        return see_other(own_path(next))
    return render(request, LoginView(own_path(next), "", "", settings.is_loopback))


@router.post("/login")
def sign_in(request: Request, session: WriteSession, settings: SettingsOf, form: Fields) -> Response:
    """Check name and password."""
    name, address = form.get("username", ""), own_path(form.get("next", "/"))
    key = f"{request.client.host if request.client else ''} {name.strip()[:80]}"
    try:
        _tries.check(key)
        user = accounts.sign_in(session, name, form.get("password", ""))
    except NotAuthenticated:
        _tries.failed(key)
        problem = "Name or password is wrong. After five tries there is a pause of one minute."
        return render(request, LoginView(address, name, problem, settings.is_loopback), 401)
    except TooMany as error:
        return render(request, LoginView(address, name, error.message, settings.is_loopback), 429)
    _tries.passed(key)
    return signed_in(request, session, user, settings, address)


@router.post("/logout")
def sign_out(session: WriteSession, person: Person, identity: TheIdentity) -> Response:
    """End this browser's session."""
    accounts.close_browser_session(session, person.id, identity.key)
    response = see_other("/login")
    response.delete_cookie(COOKIE)
    return response
