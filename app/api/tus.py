"""Resumable uploads by the protocol tus 1.0.0: creation (also with upload), expiration, checksum, termination.

What the metadata says: `filename` (needed), and either `dataset_id` (the upload has this one file and is ingested once it is whole)
or `dataset_id` and `upload_id` (one of several files of an upload opened with `?complete=false`).
"""

import base64
import binascii
from datetime import UTC
from email.utils import format_datetime
from typing import Any

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.api.routing import Handler, StreamingCreatingRoute, api_router
from app.api.schemas.uploads import UploadOut
from app.dependencies import House, Person, TheHouse
from app.errors import HeaderInvalid, MediaTypeUnknown, Problem, ProtocolUnknown, problem_of, respond
from app.presenting import API, upload_out
from app.receiving import clean_path
from app.transferring import most_bytes, must_be_alive, receive_piece
from app.writing import ALGORITHMS, Checksum
from core import transfers
from core.errors import ThawError, TooLarge
from core.storage import need_disk
from core.tables import Transfer
from core.uploads import find_upload

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination"
PIECE = "application/offset+octet-stream"
MOST_METADATA = 8192
LARGEST_NUMBER = 1 << 62
_HEADERS = ("Tus-Resumable", "Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum")
_BODY = {"requestBody": {"content": {PIECE: {"schema": {"type": "string", "format": "binary"}}}}}


class TusRoute(StreamingCreatingRoute):
    """Every answer says which version of the protocol it speaks, the refusals too."""

    def get_route_handler(self) -> Any:
        """The handler, with its errors turned into answers here."""
        handle: Handler = super().get_route_handler()

        async def versioned(request: Request) -> Response:
            try:
                answer = await handle(request)
            except ThawError as error:
                answer = respond(request, problem_of(error))
            except ClientDisconnect:
                answer = respond(
                    request, Problem(408, "The connection went silent. What came so far is kept; go on from there.")
                )
            answer.headers["Tus-Resumable"] = VERSION
            if answer.status_code == 412:
                answer.headers["Tus-Version"] = VERSION
            return answer

        return versioned


router = api_router("uploads", TusRoute)


def _headers(*names: str) -> dict[str, Any]:
    """OpenAPI parameters for headers; they are read by hand, so that each mistake has its own status."""
    parameters = [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in names]
    return {"parameters": parameters}


@router.options("/uploads/tus", status_code=204, response_class=Response)
def capabilities(house: TheHouse, person: Person) -> Response:  # noqa: ARG001 - signed in like everywhere
    """Which version and extensions of tus are spoken here."""
    return Response(
        status_code=204,
        headers={
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(house.settings.max_archive_bytes),
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        },
    )


@router.post("/uploads/tus", status_code=201, openapi_extra={**_headers(*_HEADERS[:1], *_HEADERS[1::2]), **_BODY})
async def create(request: Request, house: TheHouse, person: Person, response: Response) -> UploadOut:
    """Begin a transfer, with or without its first bytes; `Location` is where it goes on. The body of the answer is the upload."""
    _check_version(request)
    size = _number(request, "Upload-Length")
    header = request.headers.get("upload-metadata", "")
    metadata = read_metadata(header)
    has_piece = request.headers.get("content-type", "").lower() == PIECE
    checksum = _checksum(request) if has_piece else None
    transfer = await run_in_threadpool(_open, house, person.id, size, metadata, header)
    if has_piece or size == 0:
        transfer = await receive_piece(request, house, transfer, 0, checksum)
        response.headers["Upload-Offset"] = str(transfer.offset_bytes)
    response.headers["Location"] = f"{API}/uploads/tus/{transfer.id}"
    response.headers["Upload-Expires"] = _expires(transfer)
    return await run_in_threadpool(_upload, house, transfer)


def _open(house: House, owner_id: str, size: int, metadata: dict[str, str], header: str) -> Transfer:
    settings = house.settings
    filename = clean_path(metadata.get("filename", ""))
    if not metadata.get("filename"):
        raise HeaderInvalid('Upload-Metadata needs "filename": a name like flowers.zip says what the bytes are.')
    if not metadata.get("dataset_id"):
        raise HeaderInvalid('Upload-Metadata needs "dataset_id": the dataset that the pictures are for.')
    most = most_bytes(settings, filename)
    if size > most:
        raise TooLarge(f'"{filename}" has {size:,} bytes; at most {most:,} are allowed.')
    need_disk(settings.folder, size, settings.disk_reserve_bytes)
    new = transfers.NewTransfer(metadata["dataset_id"], metadata.get("upload_id") or None, filename, size, header)
    with house.database.write() as session:
        return transfers.open_transfer(session, settings, owner_id, new)


def _upload(house: House, transfer: Transfer) -> UploadOut:
    with house.database.read() as session:
        return upload_out(find_upload(session, transfer.owner_id, transfer.upload_id))


@router.head("/uploads/tus/{transfer_id}", response_class=Response, openapi_extra=_headers("Tus-Resumable"))
async def offset(transfer_id: str, request: Request, house: TheHouse, person: Person) -> Response:
    """How many bytes of a transfer are on the server's disk."""
    await run_in_threadpool(_find, house, person.id, transfer_id)
    _check_version(request)
    await house.writings.contest(transfer_id)  # whoever was cut off without noticing counts what came
    transfer = await run_in_threadpool(_find, house, person.id, transfer_id)
    must_be_alive(house.settings, transfer)
    headers = {
        "Upload-Offset": str(transfer.offset_bytes),
        "Upload-Length": str(transfer.size_bytes),
        "Upload-Expires": _expires(transfer),
        "Cache-Control": "no-store",
    }
    if transfer.metadata_header:
        headers["Upload-Metadata"] = transfer.metadata_header
    return Response(headers=headers)


@router.patch(
    "/uploads/tus/{transfer_id}",
    status_code=204,
    response_class=Response,
    openapi_extra={**_headers("Tus-Resumable", "Upload-Offset", "Upload-Checksum"), **_BODY},
)
async def append(transfer_id: str, request: Request, house: TheHouse, person: Person) -> Response:
    """The next bytes of a transfer, from `Upload-Offset` on. The last of them begin the ingest."""
    return await _append(request, house, person.id, transfer_id)


async def _append(request: Request, house: House, owner_id: str, transfer_id: str) -> Response:
    transfer = await run_in_threadpool(_find, house, owner_id, transfer_id)
    _check_version(request)
    must_be_alive(house.settings, transfer)
    if request.headers.get("content-type", "").lower() != PIECE:
        received = request.headers.get("content-type", "")[:100]
        raise MediaTypeUnknown(f"The bytes of a transfer come as {PIECE}. Received: {received!r}.")
    transfer = await receive_piece(request, house, transfer, _number(request, "Upload-Offset"), _checksum(request))
    headers = {"Upload-Offset": str(transfer.offset_bytes), "Upload-Expires": _expires(transfer)}
    return Response(status_code=204, headers=headers)


@router.delete(
    "/uploads/tus/{transfer_id}", status_code=204, response_class=Response, openapi_extra=_headers("Tus-Resumable")
)
def terminate(transfer_id: str, request: Request, house: TheHouse, person: Person) -> Response:
    """End a transfer: what came of it is removed. A file that is whole belongs to its upload already and stays."""
    return _terminate(request, house, person.id, transfer_id)


def _terminate(request: Request, house: House, owner_id: str, transfer_id: str) -> Response:
    with house.database.write() as session:
        transfer = transfers.find_transfer(session, owner_id, transfer_id)
        _check_version(request)
        transfers.end_transfer(session, house.settings, transfer)
    return Response(status_code=204)


@router.post(
    "/uploads/tus/{transfer_id}",
    status_code=204,
    response_class=Response,
    openapi_extra={**_headers("X-HTTP-Method-Override", "Tus-Resumable", "Upload-Offset", "Upload-Checksum"), **_BODY},
)
async def overridden(transfer_id: str, request: Request, house: TheHouse, person: Person) -> Response:
    """PATCH or DELETE for clients that cannot send these: `X-HTTP-Method-Override` names the method."""
    await run_in_threadpool(_find, house, person.id, transfer_id)
    method = request.headers.get("x-http-method-override", "").upper()
    if method == "PATCH":
        return await _append(request, house, person.id, transfer_id)
    if method == "DELETE":
        return await run_in_threadpool(_terminate, request, house, person.id, transfer_id)
    raise HeaderInvalid(
        f"A POST to a transfer needs X-HTTP-Method-Override: PATCH or DELETE. Received: {method[:20]!r}."
    )


def _find(house: House, owner_id: str, transfer_id: str) -> Transfer:
    with house.database.read() as session:
        return transfers.find_transfer(session, owner_id, transfer_id)


def _expires(transfer: Transfer) -> str:
    return format_datetime(transfer.expires_at.astimezone(UTC), usegmt=True)


def _check_version(request: Request) -> None:
    received = request.headers.get("tus-resumable", "")
    if received != VERSION:
        raise ProtocolUnknown(f"Tus-Resumable: {VERSION} is spoken here. Received: {received[:20]!r}.")


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not text.isascii() or not text.isdigit() or int(text[:20]) > LARGEST_NUMBER:
        raise HeaderInvalid(f"{name} is a whole number of bytes, from 0 on. Received: {text[:40]!r}.")
    return int(text)


def _checksum(request: Request) -> Checksum | None:
    header = request.headers.get("upload-checksum")
    return Checksum(header) if header is not None else None


def read_metadata(header: str) -> dict[str, str]:
    """`filename cm9zZXMuemlw,dataset_id MDE5…` -> names and texts.

    Raises:
        HeaderInvalid: not pairs of a name and base64 of UTF-8, or a name twice.
    """
    if len(header) > MOST_METADATA:
        raise HeaderInvalid(f"Upload-Metadata has at most {MOST_METADATA:,} characters. Received: {len(header):,}.")
    found: dict[str, str] = {}
    for pair in filter(None, (one.strip() for one in header.split(","))):
        name, _, encoded = pair.partition(" ")
        try:
            value = base64.b64decode(encoded, validate=True).decode("utf-8")
        except (binascii.Error, ValueError) as error:
            raise HeaderInvalid(f'Upload-Metadata: the value of "{name[:40]}" is not base64 of UTF-8 text.') from error
        if name in found:
            raise HeaderInvalid(f'Upload-Metadata has "{name[:40]}" twice.')
        found[name] = value
    return found
