"""What goes around every request: a number, the host check, a limit on its body, the response headers, unexpected errors.

Plain ASGI, because event streams and uploads pass through it.
"""

import ipaddress
import logging
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem, respond
from core.config import LOOPBACK, Settings
from core.ids import new_id
from core.logs import about

SMALL_BODY = 1_000_000
SERVER_ERROR = 500
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_log = logging.getLogger(__name__)


@dataclass
class BodyLimit:
    """How many bytes of the body this request may send; routes that stream to disk count for themselves."""

    most: int | None = SMALL_BODY
    received: int = 0

    def count(self, size: int) -> None:
        """Count bytes that came in."""
        self.received += size
        if self.most is not None and self.received > self.most:
            # FastAPI turns any other error while it reads a body into a 400
            raise HTTPException(413, f"The body has more than {self.most:,} bytes, the most that this address reads.")


def lift_body_limit(request: Request) -> None:
    """This route streams: it keeps its own limits."""
    limit: BodyLimit = request.scope["thaw.body_limit"]
    limit.most = None


class Envelope:
    """The outermost layer that is ours."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = LOOPBACK | {name.lower() for name in settings.allowed_hosts} | {settings.host.lower()}
        self._any_address = settings.host in WILDCARDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(send, new_id())
        limit = scope["thaw.body_limit"] = BodyLimit()
        request = Request(scope)

        async def receive_counted() -> Message:
            message = await receive()
            limit.count(len(message.get("body", b"")))
            return message

        if not self._host_is_ours(request.headers.get("host", "")):
            name = request.headers.get("host", "")[:100]
            detail = f'This server is not called "{name}". Name it in THAW_ALLOWED_HOSTS if it should be.'
            await respond(request, Problem(400, detail))(scope, receive, sending)
            return
        with about(request_id=sending.request_id), _told(scope, sending):
            try:
                await self._app(scope, receive_counted, sending)
            except Exception:
                _log.exception("request %s failed: %s %s", sending.request_id, scope["method"], scope["path"])
                if sending.started:
                    raise  # the client must see a broken answer, not a short one
                await respond(request, _unexpected(sending.request_id))(scope, receive, sending)

    def _host_is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        return name in self._hosts or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    # a page that rebinds its name to our address still sends its name: a bare address cannot be rebound
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _unexpected(request_id: str) -> Problem:
    detail = f"Something went wrong inside Thaw. The log says more under the number {request_id}."
    return Problem(500, detail, headers={}, request_id=request_id)


class _Sending:
    """Adds the headers to the first message of an answer."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False
        self.status = 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            headers["X-Request-ID"] = self.request_id
        await self._send(message)


@contextmanager
def _told(scope: Scope, sending: _Sending) -> Iterator[None]:
    """One line per request at its end; requests that change nothing and go well are for DEBUG. A query may hold a secret."""
    began = time.monotonic()
    try:
        yield
    finally:
        matters = scope["method"] not in {"GET", "HEAD"} or sending.status >= SERVER_ERROR
        took = (time.monotonic() - began) * 1000
        level = logging.INFO if matters else logging.DEBUG
        _log.log(level, "%s %s %s in %.0f ms", scope["method"], scope["path"], sending.status or "broken off", took)


class HideSecrets(logging.Filter):
    """Keeps the key of a start link out of uvicorn's access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Blank the query of `/start`; nothing is left out of the log."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                "/start?key=(hidden)" if isinstance(one, str) and one.startswith("/start?") else one
                for one in record.args
            )
        return True
