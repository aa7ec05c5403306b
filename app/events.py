"""Event streams of runs and uploads (`text/event-stream`): a snapshot first, then what changed, by the row's revision.

Every event carries an id that is safe to resume from: the revision of the batch before it, and the last event of a batch the new
one. A batch that breaks off in the middle is therefore sent again whole.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from app.dependencies import House
from app.presenting import log_line_out, metric_out, progress_out, run_out, upload_out
from core import catalog
from core.runs import ENDED, looks
from core.tables import Run, Upload, UploadStatus

KEEP_ALIVE_SECONDS = 15.0
LONGEST_STREAM = 15 * 60.0  # then the client comes again, and is asked again who it is
UPLOAD_ENDED = frozenset({UploadStatus.READY, UploadStatus.REJECTED})


@dataclass(frozen=True)
class Batch:
    """What changed since a revision; `ended` when nothing will change any more."""

    revision: int
    events: Sequence[tuple[str, BaseModel]]
    ended: bool


Read = Callable[[int | None], Batch | None]


def read_run(house: House, run_id: str, after: int | None) -> Batch | None:
    """What is new in a run since the revision `after` (None: a snapshot); None when it was deleted."""
    with house.database.read() as session:
        run = session.get(Run, run_id)
        if run is None:
            return None
        if run.revision == after and run.status not in ENDED:
            return Batch(run.revision, (), ended=False)
        since = -1 if after is None else after
        rows = [("metric", metric_out(one)) for one in catalog.run_metrics(session, run_id, after_revision=since)]
        lines = [("log", log_line_out(one)) for one in catalog.log_lines(session, run_id, after_revision=since)]
        status = ("status", run_out(run, _model_id(session, run_id), looks(session, [run])[run.id]))
        state: list[tuple[str, BaseModel]] = [("progress", progress_out(run))]
        ended = run.status in ENDED
        first, last = ([status], [status] if ended else []) if after is None else ([], [status])
    return Batch(run.revision, [*first, *rows, *lines, *state, *last], ended)


def _model_id(session: Session, run_id: str) -> str | None:
    model = catalog.model_of_run(session, run_id)
    return None if model is None else model.id


def read_upload(house: House, upload_id: str, after: int | None) -> Batch | None:
    """What is new in an upload since a revision; None when it was deleted."""
    with house.database.read() as session:
        upload = session.scalar(select(Upload).where(Upload.id == upload_id))
        if upload is None:
            return None
        ended = upload.status in UPLOAD_ENDED
        if upload.revision == after and not ended:
            return Batch(upload.revision, (), ended=False)
        return Batch(upload.revision, [("status", upload_out(upload))], ended)


def encoded(batch: Batch, before: int | None) -> bytes:
    """A batch as the bytes of a stream."""
    ids = [str(before) if before is not None else None] * (len(batch.events) - 1) + [str(batch.revision)]
    return b"".join(
        format_sse_event(data_str=data.model_dump_json(), event=name, id=number)
        for (name, data), number in zip(batch.events, ids, strict=True)
    )


async def follow(house: House, row_id: str, read: Read, after: int | None) -> AsyncIterator[bytes]:
    """The bytes of a stream until the row has ended, was deleted, or the server closes."""
    deadline = time.monotonic() + LONGEST_STREAM
    quiet_since = time.monotonic()
    with house.hub.watch(row_id) as watch:
        while not house.hub.closing and time.monotonic() < deadline:
            batch = await run_in_threadpool(read, after)
            if batch is None:
                return
            if batch.events:
                yield encoded(batch, after)
                after, quiet_since = batch.revision, time.monotonic()
            if batch.ended:
                return
            if time.monotonic() - quiet_since >= KEEP_ALIVE_SECONDS:
                yield KEEPALIVE_COMMENT
                quiet_since = time.monotonic()
            await watch.changed()


def last_seen(header: str | None) -> int | None:
    """The revision in `Last-Event-ID`; anything else begins anew."""
    return int(header) if header is not None and header.isascii() and header.isdigit() and len(header) < 18 else None


async def stream(house: House, row_id: str, key: str, read: Read, header: str | None) -> Response:
    """The answer of an event route. The caller has checked that the row is this person's.

    Args:
        house: the house.
        row_id: what is watched.
        key: id of the browser session or token, of which each may have six streams.
        read: reads what is new.
        header: `Last-Event-ID`.

    Raises:
        TooMany: six streams are open.
    """
    after = last_seen(header)
    if after is not None:
        newest = await run_in_threadpool(read, after)
        if newest is None or (newest.ended and newest.revision <= after):
            return Response(status_code=204)  # tells EventSource not to come again
        if newest.revision < after:
            after = None  # an id from another life of the database
    slot = ExitStack()
    slot.enter_context(house.hub.stream(key))

    async def counted() -> AsyncIterator[bytes]:
        with slot:
            async for piece in follow(house, row_id, read, after):
                yield piece

    return EventStream(counted(), slot)


class EventStream(StreamingResponse):
    """Gives its slot back also when the client is gone before the first byte."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], slot: ExitStack) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._slot = slot

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        """Send the stream."""
        with self._slot:
            await super().__call__(scope, receive, send)
