"""`Idempotency-Key` on every POST that creates: the first answer is kept for 24 hours and given again.

Same key with another request: 422; the first one still running: 409. Failed requests are forgotten, so that they can be repeated.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.threads import to_its_end
from core.database import Database
from core.errors import Conflict, FieldProblem, InputInvalid
from core.tables import IdempotencyKey, utc_now

HEADER = "Idempotency-Key"
LASTS = timedelta(hours=24)
LONGEST_KEY = 200
Handler = Callable[[Request], Awaitable[Response]]


async def request_hash(request: Request, *, streams: bool) -> str:
    """SHA-256 (hex) of what must be the same; of a streamed body only its length and kind."""
    parts = [request.method.encode(), str(request.url.path).encode(), str(request.url.query).encode()]
    if streams:
        kind = request.headers.get("content-type", "").split(";")[0]
        parts += [kind.encode(), request.headers.get("content-length", "").encode()]
    else:
        parts.append(await request.body())
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


async def answer_once(
    request: Request, handle: Handler, owner_id: str, *, streams: bool = False, secret: bool = False
) -> Response:
    """Do the work of a request that carries a key at most once.

    Args:
        request: the request.
        handle: does the work.
        owner_id: keys of different people never meet.
        streams: the body is not read here.
        secret: the answer must not be stored; a repetition is told so.

    Raises:
        InputInvalid: the key is too long, or was used for another request.
        Conflict: the first request is still running, or its answer was a secret.
    """
    database: Database = request.app.state.house.database
    key = request.headers[HEADER]
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        message = f"{HEADER} has 1 to {LONGEST_KEY} printable characters. Received: {len(key)}."
        raise InputInvalid(message, problems=(FieldProblem(HEADER, message, key[:LONGEST_KEY]),))
    digest = await request_hash(request, streams=streams)
    earlier = await run_in_threadpool(_begin, database, owner_id, key, digest)
    if earlier is not None:
        return _again(earlier)
    try:
        response = await _committed(request, handle)
        succeeded = response.status_code < 400
    except BaseException:  # also when the request is cancelled
        await to_its_end(_forget, database, owner_id, key)
        raise
    if not succeeded:
        await run_in_threadpool(_forget, database, owner_id, key)
        return response
    await run_in_threadpool(_keep, database, (owner_id, key), response, secret=secret)
    return response


async def _committed(request: Request, handle: Handler) -> Response:
    """Do the work and leave its function-scoped dependencies (the session commits there) before the answer is stored.

    FastAPI would leave them only after the whole handler of the route, of which we are a part.
    """
    async with AsyncExitStack() as stack:
        request.scope["fastapi_function_astack"] = stack
        return await handle(request)


def _begin(database: Database, owner_id: str, key: str, digest: str) -> IdempotencyKey | None:
    """Claim the key; the row of an earlier request with it, or None when this is the first."""
    try:
        with database.write() as session:
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - LASTS))
            row = session.get(IdempotencyKey, (owner_id, key))
            if row is None:
                session.add(IdempotencyKey(owner_id=owner_id, key=key, request_hash=digest))
                return None
    except IntegrityError:  # another request was faster (PostgreSQL)
        raise _still_running() from None
    if row.request_hash != digest:
        message = f"This {HEADER} was used for another request in the last 24 hours. Use a new one."
        raise InputInvalid(message, problems=(FieldProblem(HEADER, message, key),))
    if row.status_code is None:
        raise _still_running()
    return row


def _still_running() -> Conflict:
    return Conflict(f"The first request with this {HEADER} is still running. Ask again in a moment.")


def _again(row: IdempotencyKey) -> Response:
    if row.body is None:
        raise Conflict("This was done already, and its answer held a secret that is shown only once.")
    headers = {"Idempotent-Replayed": "true"}
    if row.location:
        headers["Location"] = row.location
    return JSONResponse(row.body, row.status_code or 200, headers)


def _keep(database: Database, which: tuple[str, str], response: Response, *, secret: bool) -> None:
    values = {
        "status_code": response.status_code,
        "body": None if secret else json.loads(bytes(response.body)),
        "location": response.headers.get("location"),
    }
    mine = (IdempotencyKey.owner_id == which[0], IdempotencyKey.key == which[1])
    with database.write() as session:
        session.execute(update(IdempotencyKey).where(*mine).values(**values))


def _forget(database: Database, owner_id: str, key: str) -> None:
    with database.write() as session:
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.owner_id == owner_id, IdempotencyKey.key == key))


def forget_unfinished(database: Database) -> None:
    """At the start of the only web process: what was running when it ended will never be answered."""
    with database.write() as session:
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.status_code.is_(None)))
