"""Pieces of a transfer on their way to the disk: appended, synced, and only then counted.

A connection that is cut is often noticed by the client alone. So whoever comes next and finds the file locked makes the one who
holds it impatient: if that one has heard nothing for two seconds, it ends and counts what it has.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from app.errors import ChecksumDiffers, HeaderInvalid
from core.errors import full_disk_told

AT_ONCE = 1 << 20
SILENT_SECONDS = 20.0
IMPATIENT_SECONDS = 2.0
ALGORITHMS = ("sha256", "sha1", "md5")


async def in_large_pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body in pieces of a mebibyte or a little more, so that a thread is asked once for each.

    What came before a break is given, too, before the break is raised.
    """
    waiting: list[bytes] = []
    size = 0
    broken: Exception | None = None
    try:
        async for piece in stream:
            waiting.append(piece)
            size += len(piece)
            if size >= AT_ONCE:
                yield b"".join(waiting)
                waiting, size = [], 0
    except Exception as error:  # noqa: BLE001 - raised below, after what came before it
        broken = error
    if waiting:
        yield b"".join(waiting)
    if broken is not None:
        raise broken


class Silent(Exception):
    """Nothing was heard for too long: the client is taken for gone."""


class Checksum:
    """What a piece must add up to, from the header `Upload-Checksum: sha256 <base64>`."""

    def __init__(self, header: str) -> None:
        name, _, encoded = header.strip().partition(" ")
        if name not in ALGORITHMS:
            raise HeaderInvalid(
                f"The checksum is of an unknown kind. Received: {name[:40]!r}; allowed: {', '.join(ALGORITHMS)}."
            )
        try:
            self._wanted = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise HeaderInvalid("The checksum in Upload-Checksum is not base64.") from error
        self._name = name
        self._digest = hashlib.new(name, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Some bytes of the piece."""
        self._digest.update(data)

    def check(self) -> None:
        """The piece is over.

        Raises:
            ChecksumDiffers: it is not what was sent.
        """
        if self._digest.digest() != self._wanted:
            raise ChecksumDiffers(
                f"The {self._name} of the bytes that came is not the one that was sent with them. Send them again."
            )


class Writing:
    """One request that writes now. Belongs to the event loop."""

    def __init__(self) -> None:
        self._heard_at = time.monotonic()
        self._patience: asyncio.Timeout | None = None
        self.ended = asyncio.Event()

    async def heard(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            Silent: nothing came for too long.
            ClientDisconnect: the client went away.
        """
        while (piece := await self._next(stream)) is not None:
            yield piece

    async def _next(self, stream: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(SILENT_SECONDS) as self._patience:
                piece = await anext(stream, None)
        except TimeoutError:
            raise Silent from None
        finally:
            self._patience = None
        self._heard_at = time.monotonic()
        return piece

    def hurry(self) -> None:
        """Somebody else wants to write: end soon if nothing is heard."""
        if self._patience is not None and not self._patience.expired():
            left = self._heard_at + IMPATIENT_SECONDS - time.monotonic()
            self._patience.reschedule(asyncio.get_running_loop().time() + max(0.0, left))


class Writings:
    """The requests of this process that write now, by transfer."""

    def __init__(self) -> None:
        self._now: dict[str, Writing] = {}

    @contextmanager
    def entered(self, transfer_id: str) -> Iterator[Writing]:
        """One that has the lock of this transfer."""
        writing = self._now[transfer_id] = Writing()
        try:
            yield writing
        finally:
            writing.ended.set()
            if self._now.get(transfer_id) is writing:
                del self._now[transfer_id]

    async def contest(self, transfer_id: str) -> None:
        """Hurry whoever writes this transfer now, and give them a moment."""
        writing = self._now.get(transfer_id)
        if writing is not None:
            writing.hurry()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(writing.ended.wait(), 0.5)


class Appending:
    """The file of a transfer, open at its offset. Blocking: call it on a thread."""

    def __init__(self, file: FileIO, offset: int) -> None:
        self._file = file
        self.offset = offset

    def write(self, data: bytes) -> None:
        """Append; nothing is synced yet.

        Raises:
            DiskFull: `offset` says how much had room.
        """
        left = memoryview(data)
        with full_disk_told("The disk is full. What came so far is kept: free some space and go on."):
            while left:
                written = self._file.write(left)
                self.offset += written
                left = left[written:]

    def sync(self) -> int:
        """Have everything on the disk; the offset that may be told from now on."""
        os.fsync(self._file.fileno())
        return self.offset

    def back_to(self, offset: int) -> None:
        """Throw away what came after `offset`."""
        self._file.truncate(offset)
        self._file.seek(offset)
        self.offset = offset

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_at(path: Path, offset: int) -> Appending:
    """Open a transfer's file and cut it off at `offset`: what comes after was never counted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    file = FileIO(path, "w" if new else "r+")
    if new:  # the name must be on the disk before any offset is
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    appending = Appending(file, offset)
    appending.back_to(offset)
    return appending
