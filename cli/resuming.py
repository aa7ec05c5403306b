"""One file to the server by tus 1.0, piece by piece with checksums; after a break it goes on where the server's disk is."""

import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any

from cli.exits import ServerAway
from cli.remote import API, Remote
from cli.virtual_tar import Source
from core.errors import NotFound

VERSION = {"Tus-Resumable": "1.0.0"}
MOST = 8 << 20  # bytes of one request
LEAST = 1 << 17
PAUSES = (
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
)  # seconds between tries; from the beginning whenever a piece got through
TRY_AGAIN = frozenset({408, 409, 423, 460})


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def opened(remote: Remote, source: Source, *, dataset_id: str, filename: str, key: str) -> tuple[str, dict[str, Any]]:
    """Begin a transfer, or find the one that was begun with the same key; a new one where that has expired or was rejected.

    Returns:
        Its path below the API, and the upload as it is now.
    """
    for again in ("", f"-{time.time_ns()}"):
        headers = {
            **VERSION,
            "Idempotency-Key": key + again,
            "Upload-Length": str(source.size),
            "Upload-Metadata": f"filename {_encoded(filename)},dataset_id {_encoded(dataset_id)}",
        }
        answer = remote.raw("POST", "/uploads/tus", headers=headers)
        where = answer.headers["Location"].removeprefix(API)
        try:
            now = remote.get(f"/uploads/{answer.json()['id']}")
            if now["status"] == "receiving":
                remote.raw("HEAD", where, headers=VERSION)
        except NotFound:
            continue
        if now["status"] != "rejected":
            break
    return where, now


class Transfer:
    """A transfer that is being sent.

    Args:
        remote: the server.
        source: what is sent.
        where: path of the transfer below the API.
        progress: called with the bytes that the server has.
    """

    def __init__(self, remote: Remote, source: Source, where: str, progress: Callable[[int], None]) -> None:
        self._remote = remote
        self._source = source
        self._where = where
        self._progress = progress
        self._length = MOST

    def send(self) -> None:
        """Send what the server does not have.

        Raises:
            ServerAway: it did not answer for about a minute.
            ThawError: refused, with the server's sentence.
        """
        offset: int | None = None
        tries = 0
        while offset is None or offset < self._source.size:
            try:
                offset = self._asked() if offset is None else self._piece(offset)
                tries = 0 if offset else tries
            except ServerAway:
                if tries == len(PAUSES):
                    raise
                time.sleep(PAUSES[tries])
                tries += 1
                offset = None
                self._length = max(LEAST, self._length // 2)  # a line that breaks often gets small pieces through
            else:
                self._progress(offset)

    def _asked(self) -> int:
        return int(self._remote.raw("HEAD", self._where, headers=VERSION).headers["Upload-Offset"])

    def _piece(self, offset: int) -> int:
        body = self._source.read(offset, self._length)
        headers = {
            **VERSION,
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(body).digest()).decode()}",
        }
        answer = self._remote.raw("PATCH", self._where, content=body, headers=headers, busy=TRY_AGAIN)
        self._length = min(MOST, self._length * 2)
        return int(answer.headers["Upload-Offset"])
