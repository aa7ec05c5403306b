"""The route classes of the API: who calls comes first, then unknown query fields are refused, then repeated POSTs are recognised."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app import idempotency
from app.presenting import API
from app.security import authenticate
from core.catalog import Wish
from core.errors import FieldProblem, InputInvalid
from core.paging import DEFAULT_LIMIT, MOST

Handler = Callable[[Request], Awaitable[Response]]
PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What is wrong, as RFC 9457 problem details.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
    }
}


def known_query(dependant: Dependant) -> frozenset[str]:
    """Names of the query fields that a route reads, with those of its dependencies."""

    def names(one: Dependant) -> Iterator[str]:
        yield from (field.alias for field in one.query_params)
        for below in one.dependencies:
            yield from names(below)

    return frozenset(names(dependant))


def refuse_unknown_query(request: Request, known: frozenset[str]) -> None:
    """Refuse query fields that nobody reads: a misspelt filter must not pass as no filter.

    Raises:
        InputInvalid: with one problem per unknown field.
    """
    allowed = ", ".join(sorted(known)) or "none"
    problems = tuple(
        FieldProblem(name, f'There is no query field "{name}" here. Allowed: {allowed}.', value)
        for name, value in request.query_params.multi_items()
        if name not in known
    )
    if problems:
        raise InputInvalid(problems[0].message, problems=problems)


class ApiRoute(APIRoute):
    """A route that reads nothing of a request before it knows who calls."""

    def get_route_handler(self) -> Any:
        """FastAPI's handler, with the checks before it."""
        handle = super().get_route_handler()
        known = known_query(self.dependant)

        async def checked(request: Request) -> Response:
            await run_in_threadpool(authenticate, request)
            refuse_unknown_query(request, known)
            return await self.answer(request, handle)

        return checked

    async def answer(self, request: Request, handle: Handler) -> Response:
        """Do the work."""
        return await handle(request)


class CreatingRoute(ApiRoute):
    """A POST that creates: an Idempotency-Key is honoured."""

    streams = False
    secret = False

    async def answer(self, request: Request, handle: Handler) -> Response:
        """Do the work once, or give the earlier answer again."""
        if idempotency.HEADER not in request.headers or request.method != "POST":
            return await handle(request)
        owner_id = request.state.identity.user.id
        return await idempotency.answer_once(request, handle, owner_id, streams=self.streams, secret=self.secret)


class StreamingCreatingRoute(CreatingRoute):
    """The body streams to disk: only its length is compared."""

    streams = True


class SecretCreatingRoute(CreatingRoute):
    """The answer holds a secret and is not stored."""

    secret = True


def api_router(tag: str, kind: type[ApiRoute] = ApiRoute) -> APIRouter:
    """A router below `/api/v1`."""
    return APIRouter(prefix=API, tags=[tag], route_class=kind, responses=PROBLEM)


@dataclass(frozen=True)
class Paging:
    """`?limit=` and `?cursor=` of a list."""

    limit: Annotated[int, Query(ge=1, le=MOST)] = DEFAULT_LIMIT
    cursor: Annotated[str | None, Query(max_length=1000)] = None


@dataclass(frozen=True)
class Sorting(Paging):
    """A list that can be searched by name and sorted too."""

    sort: Annotated[str, Query(max_length=80, description='A column; "-" before it for descending.')] = "-created_at"
    search: Annotated[str, Query(max_length=200, description="Part of the name.")] = ""

    def wish(self) -> Wish:
        """The same, for the catalogue."""
        return Wish(limit=self.limit, cursor=self.cursor, sort=self.sort, search=self.search)


Pages = Annotated[Paging, Depends()]
Sorted = Annotated[Sorting, Depends()]
