"""What a client of tus 1.0.0 says, for the tests of it."""

import base64
import hashlib

import httpx
from sqlalchemy import select

from app.dependencies import House
from core.tables import Upload, UploadFile
from core.uploads import incoming_folder
from tests.app.people import Caller

TUS = "/api/v1/uploads/tus"
PIECE = {"Content-Type": "application/offset+octet-stream"}
VERSION = {"Tus-Resumable": "1.0.0"}
BODY = bytes(range(256)) * 40


def metadata(**values: str) -> str:
    """The header `Upload-Metadata`."""
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())


def checksum(body: bytes, name: str = "sha256") -> dict[str, str]:
    """The header `Upload-Checksum` of a piece."""
    return {"Upload-Checksum": f"{name} {base64.b64encode(hashlib.new(name, body).digest()).decode()}"}


def begin(who: Caller, dataset_id: str, size: int = len(BODY), name: str = "розы.zip", **more: str) -> httpx.Response:
    """Begin a transfer."""
    headers = {**VERSION, "Upload-Length": str(size)}
    headers["Upload-Metadata"] = metadata(filename=name, dataset_id=dataset_id, **more)
    return who.client.post(TUS, headers=headers)


def send(who: Caller, where: str, offset: int, body: bytes, **headers: str) -> httpx.Response:
    """One PATCH."""
    return who.client.patch(where, content=body, headers={**VERSION, **PIECE, "Upload-Offset": str(offset), **headers})


def offset_of(who: Caller, where: str) -> int:
    """What HEAD says."""
    answer = who.client.head(where, headers=VERSION)
    assert answer.status_code == 200, answer.status_code
    return int(answer.headers["Upload-Offset"])


def whole(house: House, upload_id: str) -> tuple[Upload, UploadFile, bytes]:
    """An upload, its one file and its bytes."""
    with house.database.read() as session:
        upload = session.get_one(Upload, upload_id)
        file = session.scalars(select(UploadFile).where(UploadFile.upload_id == upload_id)).one()
    return upload, file, (incoming_folder(house.settings, upload_id) / file.id).read_bytes()
