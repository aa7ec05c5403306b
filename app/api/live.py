"""Event streams of runs and uploads. `async`, because bytes stream."""

from functools import partial
from typing import Annotated, Any

from fastapi import Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.routing import api_router
from app.dependencies import House, TheHouse, TheIdentity
from app.events import read_run, read_upload, stream
from core import runs, uploads

router = api_router("events")
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events; id = revision."},
    204: {"description": "It has ended, and the client has seen everything."},
}
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=40)]


@router.get("/runs/{run_id}/events", response_class=Response, responses=_STREAM)
async def run_events(
    run_id: str, house: TheHouse, identity: TheIdentity, last_event_id: LastEventId = None
) -> Response:
    """Events `status`, `progress`, `metric`, `log`: a snapshot, then what changes, until the run has ended."""
    await run_in_threadpool(_must_see, house, runs.find_run, identity.user.id, run_id)
    return await stream(house, run_id, identity.key, partial(read_run, house, run_id), last_event_id)


@router.get("/uploads/{upload_id}/events", response_class=Response, responses=_STREAM)
async def upload_events(
    upload_id: str, house: TheHouse, identity: TheIdentity, last_event_id: LastEventId = None
) -> Response:
    """Events `status` until the upload is ready or rejected."""
    await run_in_threadpool(_must_see, house, uploads.find_upload, identity.user.id, upload_id)
    return await stream(house, upload_id, identity.key, partial(read_upload, house, upload_id), last_event_id)


def _must_see(house: House, find: Any, owner_id: str, row_id: str) -> None:
    with house.database.read() as session:
        find(session, owner_id, row_id)
