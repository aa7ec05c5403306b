"""Uploads: three ways in, one result. Bodies stream to disk (`app.receiving`)."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.api.routing import Pages, StreamingCreatingRoute, api_router
from app.api.schemas.base import Listed
from app.api.schemas.uploads import FilesAdded, ReceiptLine, SampleIn, UploadOut
from app.dependencies import House, Person, ReadSession, SettingsOf, TheHouse, WriteSession
from app.presenting import API, csv_lines, receipt_line, upload_out
from app.receiving import RAW_TYPES, receive_files, receive_raw
from app.threads import to_its_end
from core import catalog, uploads
from core.datasets import find_dataset
from core.paging import MOST
from core.tables import Upload

router = api_router("uploads", StreamingCreatingRoute)
_FILES = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
}
_ARCHIVES: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in RAW_TYPES}
_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


@router.post(
    "/datasets/{dataset_id}/uploads",
    status_code=202,
    openapi_extra={"requestBody": {"content": {**_FILES, **_ARCHIVES}}},
)
async def start_upload(
    dataset_id: str,
    request: Request,
    house: TheHouse,
    person: Person,
    response: Response,
    filename: Annotated[str | None, Query(max_length=1024, description="Of an archive sent as the body.")] = None,
    complete: Annotated[bool, Query(description="false: batches follow, then /complete.")] = True,
) -> UploadOut:
    """Send a form with files, or an archive as the body. It completes itself unless `?complete=false`."""
    upload = await run_in_threadpool(_open, house, person.id, dataset_id)
    async with _deleted_when_broken(house, upload):
        if _is_form(request):
            await receive_files(request, house, upload)
        elif complete or _has_body(request):
            await receive_raw(request, house, upload, filename)
        result = await run_in_threadpool(_finish, house, upload, complete=complete)
    response.headers["Location"] = f"{API}/uploads/{upload.id}"
    return result


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _open(house: House, owner_id: str, dataset_id: str) -> Upload:
    with house.database.write() as session:
        return uploads.open_upload(session, find_dataset(session, owner_id, dataset_id))


def _finish(house: House, upload: Upload, *, complete: bool) -> UploadOut:
    with house.database.write() as session:
        found = uploads.find_upload(session, upload.owner_id, upload.id)
        if complete:
            uploads.complete_upload(session, house.queue, found)
        result = upload_out(found)
    house.hub.wake(upload.id)
    return result


def _delete(house: House, upload: Upload) -> None:
    with house.database.write() as session:
        uploads.delete_upload(session, house.settings, upload)


@asynccontextmanager
async def _deleted_when_broken(house: House, upload: Upload) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:  # also when the client went away: nothing half may stay
        await to_its_end(_delete, house, upload)
        raise


@router.post("/samples", status_code=202)
def make_sample(
    given: SampleIn, session: WriteSession, house: TheHouse, person: Person, response: Response
) -> UploadOut:
    """Make a dataset of 150 pictures in three classes that Thaw draws itself, and train on it if a preset is named."""
    upload = uploads.make_sample(
        session, house.queue, person.id, seed=given.seed, train_preset=given.train_preset, name=given.name
    )
    response.headers["Location"] = f"{API}/uploads/{upload.id}"
    return upload_out(upload)


@router.post("/uploads/{upload_id}/files", openapi_extra={"requestBody": {"content": _FILES, "required": True}})
async def add_files(upload_id: str, request: Request, house: TheHouse, person: Person) -> FilesAdded:
    """Add a batch (a form, field `files`). The same path with the same bytes is not added twice."""
    upload = await run_in_threadpool(_receiving, house, person.id, upload_id)
    count = await receive_files(request, house, upload)
    result = await run_in_threadpool(_finish, house, upload, complete=False)
    return FilesAdded(added=count.added, repeated=count.repeated, upload=result)


def _receiving(house: House, owner_id: str, upload_id: str) -> Upload:
    with house.database.read() as session:
        upload = uploads.find_upload(session, owner_id, upload_id)
        uploads.must_receive(upload)
        return upload


@router.post("/uploads/{upload_id}/complete", status_code=202)
def complete(upload_id: str, session: WriteSession, house: TheHouse, person: Person) -> UploadOut:
    """All batches are there: have the upload ingested."""
    upload = uploads.find_upload(session, person.id, upload_id)
    uploads.complete_upload(session, house.queue, upload)
    return upload_out(upload)


@router.get("/uploads/{upload_id}")
def read_upload(upload_id: str, session: ReadSession, person: Person) -> UploadOut:
    """How far an upload is."""
    return upload_out(uploads.find_upload(session, person.id, upload_id))


@router.get("/uploads/{upload_id}/receipt", response_model=Listed[ReceiptLine], responses=_CSV)
def read_receipt(
    upload_id: str,
    session: ReadSession,
    house: TheHouse,
    person: Person,
    paging: Pages,
    outcome: Annotated[str | None, Query(max_length=20, description="kept, fixed, refused or skipped")] = None,
    format: Literal["json", "csv"] = "json",  # noqa: A002 - the contract's name
) -> Any:
    """What became of every file."""
    upload = uploads.find_upload(session, person.id, upload_id)
    page = catalog.receipt_rows(session, upload.id, outcome=outcome, limit=paging.limit, cursor=paging.cursor)
    if format == "csv":
        lines = csv_lines(("path", "outcome", "reason", "image_id"), _receipt(house, upload.id, outcome))
        name = f"receipt-{upload.id}.csv"
        return StreamingResponse(
            lines,
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
    return Listed(items=[receipt_line(one) for one in page.items], next_cursor=page.next_cursor)


def _receipt(house: House, upload_id: str, outcome: str | None) -> Iterator[tuple[object, ...]]:
    """Every row, read in pages: no transaction stays open while the client reads."""
    cursor = None
    while True:
        with house.database.read() as session:
            page = catalog.receipt_rows(session, upload_id, outcome=outcome, limit=MOST, cursor=cursor)
        yield from ((one.path, one.outcome.value, one.reason, one.image_id) for one in page.items)
        if (cursor := page.next_cursor) is None:
            return


@router.delete("/uploads/{upload_id}", status_code=204)
def delete_upload(upload_id: str, session: WriteSession, settings: SettingsOf, person: Person) -> None:
    """Delete an upload and its received bytes; a dataset version made from it stays."""
    uploads.delete_upload(session, settings, uploads.find_upload(session, person.id, upload_id))
