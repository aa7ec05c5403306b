"""One table: domain error -> status -> problem+json (RFC 9457) for the API, an HTML page for people."""

import json
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.templating import render_error
from core.errors import (
    BrokerAway,
    Conflict,
    DiskFull,
    FieldProblem,
    Forbidden,
    InputInvalid,
    NotAuthenticated,
    NotFound,
    StorageAway,
    ThawError,
    TooLarge,
    UploadRejected,
    WorkersAway,
)

API_PREFIX = "/api/"
_log = logging.getLogger(__name__)
# PostgreSQL's codes (its manual, appendix A): a deadlock, a lock not got, too many connections; shut down, crashed, starting
_BUSY = {"40001", "40P01", "55P03", "53300"}
_AWAY = {"57P01", "57P02", "57P03"}


class TooMany(ThawError):
    """Too many attempts or streams; try again after some seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MediaTypeUnknown(ThawError):
    """A body of a kind that this route does not read."""


class HeaderInvalid(ThawError):
    """A header of the request that cannot be understood."""


class Locked(ThawError):
    """Another request is writing the same file now; try again in a moment."""


class Expired(ThawError):
    """Nobody went on with this for too long."""


class ProtocolUnknown(ThawError):
    """A version of the protocol that is not spoken here."""


class ChecksumDiffers(ThawError):
    """The bytes that came are not those that were sent; they were thrown away."""


CHECKSUM_DIFFERS = 460  # of tus; HTTP has no name for it
STATUSES: dict[type[ThawError], int] = {
    NotFound: HTTPStatus.NOT_FOUND,
    InputInvalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    UploadRejected: HTTPStatus.UNPROCESSABLE_ENTITY,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
    StorageAway: HTTPStatus.SERVICE_UNAVAILABLE,
    WorkersAway: HTTPStatus.SERVICE_UNAVAILABLE,
    BrokerAway: HTTPStatus.SERVICE_UNAVAILABLE,
    NotAuthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    MediaTypeUnknown: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HeaderInvalid: HTTPStatus.BAD_REQUEST,
    Locked: HTTPStatus.LOCKED,
    Expired: HTTPStatus.GONE,
    ProtocolUnknown: HTTPStatus.PRECONDITION_FAILED,
    ChecksumDiffers: CHECKSUM_DIFFERS,
}


@dataclass(frozen=True)
class Problem:
    """An error as it is shown: over the API as problem+json, on a page as text.

    Attributes:
        status: HTTP status.
        detail: the sentence for the person.
        errors: which fields are wrong.
        headers: further response headers.
        request_id: set for unexpected errors; the log has the same.
    """

    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    request_id: str | None = None

    @property
    def title(self) -> str:
        """The status in words."""
        if self.status == CHECKSUM_DIFFERS:
            return "Checksum Mismatch"
        return HTTPStatus(self.status).phrase

    def as_json(self) -> dict[str, Any]:
        """The body of RFC 9457."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [
                {"field": one.field, "message": one.message, "received": shortened(one.received)} for one in self.errors
            ]
        if self.request_id:
            body["request_id"] = self.request_id
        return body


class ProblemResponse(Response):
    """`application/problem+json`; ASCII only, so that what was received can always be shown."""

    media_type = "application/problem+json"

    def __init__(self, problem: Problem) -> None:
        super().__init__(json.dumps(problem.as_json()), problem.status, problem.headers)


def shortened(received: object) -> object:
    """What was received, as short JSON data."""
    try:
        text = json.dumps(received, allow_nan=False)
    except (TypeError, ValueError):
        return repr(received)[:200]
    return received if len(text) <= 200 else f"{text[:200]}..."


def problem_of(error: Exception) -> Problem:
    """How an error that was foreseen is shown."""
    if isinstance(error, ThawError):
        return _of_thaw_error(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_http_exception(error)
    return _of_database_error(error)


def _of_thaw_error(error: ThawError) -> Problem:
    status = next((found for kind, found in STATUSES.items() if isinstance(error, kind)), None)
    if status is None:
        raise error
    headers = {}
    if isinstance(error, WorkersAway | TooMany):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="thaw"'
    return Problem(status, error.message, error.problems, headers)


def _of_validation(error: RequestValidationError) -> Problem:
    problems = tuple(_field_problem(one) for one in error.errors())
    return Problem(422, problems[0].message if problems else "The request cannot be read.", problems)


def _field_problem(one: dict[str, Any]) -> FieldProblem:
    where = [str(part) for part in one["loc"]]
    name = ".".join(where[1:]) or where[0]
    if one["type"] == "extra_forbidden":
        return FieldProblem(name, f'There is no field "{name}".', one.get("input"))
    if one["type"] == "missing":
        return FieldProblem(name, f'"{name}" is missing.')
    if one["type"] == "json_invalid":
        return FieldProblem("body", f"The body is not JSON: {one.get('ctx', {}).get('error', one['msg'])}.")
    received = shortened(one.get("input"))
    return FieldProblem(name, f"{name}: {one['msg']}. Received: {json.dumps(received)}.", received)


def _of_http_exception(error: HTTPException) -> Problem:
    sentences = {
        404: "There is nothing at this address.",
        405: "This address does not answer this method.",
        400: "The request cannot be read.",
    }
    given = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
    detail = given or sentences.get(error.status_code, HTTPStatus(error.status_code).phrase)
    return Problem(error.status_code, detail, headers=dict(error.headers or {}))


def _of_database_error(error: Exception) -> Problem:
    """SQLite says what is wrong in words, PostgreSQL by a code: none where it could not be reached."""
    cause = getattr(error, "orig", None) or error
    text, code = str(cause).lower(), getattr(cause, "sqlstate", "")
    if code == "53100" or (code == "" and "full" in text):
        return Problem(507, "The disk is full. Nothing was changed; free some space and try again.")
    if code in _BUSY or (code == "" and ("locked" in text or "busy" in text)):
        return Problem(503, "The database is busy. Nothing was changed; try again.", headers={"Retry-After": "2"})
    unreachable = isinstance(error, OperationalError | InterfaceError) and code is None
    if unreachable or (code and code[:2] == "08") or code in _AWAY:
        _log.warning("the database does not answer: %s", cause)
        return Problem(503, "The database does not answer. Try again in a moment.", headers={"Retry-After": "5"})
    if code == "22003" or "sqlite integer" in text:
        return Problem(422, "A number is out of range. Allowed: -2147483648 to 2147483647.")
    raise error


def wants_json(path: str) -> bool:
    """True for the API, False for pages."""
    return path.startswith(API_PREFIX)


def respond(request: Request, problem: Problem) -> Response:
    """A problem as the API or as a page."""
    if wants_json(request.url.path):
        return ProblemResponse(problem)
    if problem.status == HTTPStatus.UNAUTHORIZED and request.method in {"GET", "HEAD"}:
        return RedirectResponse(f"/login?{urlencode({'next': request.url.path})}", status_code=303)
    return error_page(request, problem)


def error_page(request: Request, problem: Problem) -> Response:
    """A page that says what is wrong."""
    problems = tuple((one.field, one.message) for one in problem.errors)
    page = render_error(request, problem.status, problem.title, problem.detail, problems)
    page.headers.update(problem.headers)
    return page


async def _handle(request: Request, error: Exception) -> Response:
    return respond(request, problem_of(error))


def register(app: FastAPI) -> None:
    """Have every foreseen error shown by the table above."""
    for kind in (ThawError, RequestValidationError, HTTPException, DBAPIError, OverflowError):
        app.add_exception_handler(kind, _handle)
