"""One PATCH of a transfer: lock, append, sync, count; a file that is whole becomes a file of its upload."""

import hashlib
import threading
import time
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from app.dependencies import House
from app.envelope import lift_body_limit
from app.errors import ChecksumDiffers, Expired, Locked
from app.receiving import is_archive
from app.threads import to_its_end
from app.writing import Appending, Checksum, Silent, Writing, in_large_pieces, open_at
from core import transfers
from core.config import Settings
from core.errors import Conflict, Fenced, TooLarge
from core.ids import new_id
from core.storage import need_disk
from core.tables import Transfer, utc_now

COUNT_EVERY_BYTES = 8 << 20
COUNT_EVERY_SECONDS = 2.0
HASH_AT_ONCE = 4 << 20


def most_bytes(settings: Settings, path: str) -> int:
    """The largest file that may come under this name."""
    return settings.max_archive_bytes if is_archive(path) else settings.max_image_bytes


def must_be_alive(settings: Settings, transfer: Transfer) -> None:
    """Check that a transfer can be gone on with.

    Raises:
        Expired: it waited for too long, or its bytes are not where they should be.
    """
    if transfer.finished_at is not None:
        return
    if transfer.expires_at < utc_now():
        raise Expired(f"Nobody went on with this upload for {settings.upload_hours} hours. Begin a new one.")
    file = transfers.file_of(settings, transfer)
    if transfer.offset_bytes > (file.stat().st_size if file.exists() else 0):
        raise Expired("The received bytes of this upload are gone from the disk. Begin a new one.")


async def receive_piece(
    request: Request, house: House, transfer: Transfer, offset: int, checksum: Checksum | None
) -> Transfer:
    """Append the body at `offset`; the transfer as it is afterwards.

    A body that breaks off is kept as far as it came, unless it has a checksum: then it is kept whole or not at all.

    Raises:
        Conflict: the offset is not where the file ends.
        Locked: another request writes it now.
        TooLarge: more bytes than the whole file has.
        ChecksumDiffers, DiskFull: with a sentence; nothing of this piece is counted, or what came before the disk was full.
        ClientDisconnect: the client went away.
    """
    if transfer.finished_at is None:
        await house.writings.contest(transfer.id)
    writer = new_id()
    transfer = await run_in_threadpool(_locked, house, transfer, writer, offset)
    if transfer.finished_at is not None:  # its last answer was not heard
        return transfer
    try:
        _must_fit(request, transfer)
        lift_body_limit(request)
        with house.writings.entered(transfer.id) as writing:
            await _append(request, _Piece(house, transfer, writer, checksum), writing)
        return await run_in_threadpool(_now, house, transfer)
    except Fenced:
        raise Locked("Another request goes on with this file, or it was ended. Ask for its offset first.") from None
    finally:
        await to_its_end(_unlock, house, transfer.id, writer)


def _locked(house: House, transfer: Transfer, writer: str, offset: int) -> Transfer:
    with house.database.write() as session:
        locked = transfers.lock(session, transfer.id, writer)
        now = transfers.find_transfer(session, transfer.owner_id, transfer.id)
        if now.finished_at is not None and offset == now.size_bytes:
            return now
        if not locked and now.finished_at is None:
            raise Locked(
                "Another request is sending this file now: perhaps from another window. Try again in a moment."
            )
        if now.offset_bytes != offset:
            transfers.unlock(session, transfer.id, writer)
            problem = f"The file ends at byte {now.offset_bytes:,}, so it cannot go on at byte {offset:,}. Ask for its offset first."
        else:
            return now
    raise Conflict(problem)


def _unlock(house: House, transfer_id: str, writer: str) -> None:
    with house.database.write() as session:
        transfers.unlock(session, transfer_id, writer)


def _must_fit(request: Request, transfer: Transfer) -> None:
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > transfer.size_bytes - transfer.offset_bytes:
        raise _too_much(transfer)


def _too_much(transfer: Transfer) -> TooLarge:
    return TooLarge(f"The file was announced with {transfer.size_bytes:,} bytes; more came.")


class _Piece:
    """The blocking half of one PATCH; every call is made on a thread, and waits for the one before: a cancelled one may still work."""

    def __init__(self, house: House, transfer: Transfer, writer: str, checksum: Checksum | None) -> None:
        self._house = house
        self._settings = house.settings
        self._transfer = transfer
        self._writer = writer
        self._checksum = checksum
        self._began_at = transfer.offset_bytes
        self._counted = transfer.offset_bytes
        self._counted_at = time.monotonic()
        self._out: Appending | None = None
        self._alone = threading.Lock()

    def begin(self) -> None:
        """Open the file."""
        path = transfers.file_of(self._settings, self._transfer)
        need_disk(path.parent, 0, self._settings.disk_reserve_bytes)
        with self._alone:
            self._out = open_at(path, self._began_at)

    def write(self, data: bytes) -> None:
        """Some bytes."""
        with self._alone:
            self._write(data)

    def _write(self, data: bytes) -> None:
        out = self._out
        assert out is not None  # noqa: S101 - begun before
        if out.offset + len(data) > self._transfer.size_bytes:
            raise _too_much(self._transfer)
        need_disk(self._settings.folder, len(data), self._settings.disk_reserve_bytes)
        out.write(data)
        if self._checksum is not None:
            self._checksum.update(data)
        late = time.monotonic() - self._counted_at > COUNT_EVERY_SECONDS
        if late or out.offset - self._counted >= COUNT_EVERY_BYTES:
            self._count(out)

    def _count(self, out: Appending) -> None:
        """Sync, then say so. With a checksum nothing is said before its end, but the lock is kept."""
        offset = self._began_at if self._checksum is not None else out.sync()
        if offset < self._transfer.size_bytes:  # the last offset is written together with the file's row
            self._record(offset)
            self._counted = out.offset
        self._counted_at = time.monotonic()

    def _record(self, offset: int) -> None:
        with self._house.database.write() as session:
            transfers.record_offset(session, self._settings, self._transfer, self._writer, offset)
        self._house.hub.wake(self._transfer.upload_id)

    def end(self) -> None:
        """The body is over, and came whole."""
        with self._alone:
            self._end()

    def _end(self) -> None:
        out = self._out
        assert out is not None  # noqa: S101 - begun before
        if self._checksum is not None:
            try:
                self._checksum.check()
            except ChecksumDiffers:
                out.back_to(self._began_at)
                raise
        offset = out.sync()
        if offset < self._transfer.size_bytes:
            self._record(offset)
        else:
            self._finish()

    def _finish(self) -> None:
        try:
            sha256 = self._hashed(transfers.file_of(self._settings, self._transfer))
        except FileNotFoundError as error:
            raise Fenced("The upload was deleted.") from error
        house = self._house
        with house.database.write() as session:
            transfers.finish_transfer(session, self._settings, house.queue, self._transfer, self._writer, sha256)
        house.hub.wake(self._transfer.upload_id)

    def _hashed(self, path: Path) -> str:
        """SHA-256 of what the disk has. The lock is kept meanwhile; the recorded offset stays short of the end."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(HASH_AT_ONCE):
                digest.update(data)
                if time.monotonic() - self._counted_at > COUNT_EVERY_SECONDS:
                    self._record(min(self._counted, self._transfer.size_bytes - 1))
                    self._counted_at = time.monotonic()
        return digest.hexdigest()

    def broken(self) -> None:
        """The body broke off: keep what came, if it can be trusted."""
        with self._alone:
            out = self._out
            if out is None:
                return
            if self._checksum is not None:
                out.back_to(self._began_at)
            elif out.offset < self._transfer.size_bytes:
                self._record(out.sync())

    def close(self) -> None:
        """Close the file."""
        with self._alone:
            if self._out is not None:
                self._out.close()


def _now(house: House, transfer: Transfer) -> Transfer:
    with house.database.read() as session:
        return transfers.find_transfer(session, transfer.owner_id, transfer.id)


async def _append(request: Request, piece: _Piece, writing: Writing) -> None:
    try:
        await run_in_threadpool(piece.begin)
        try:
            async for data in in_large_pieces(writing.heard(request.stream())):
                await run_in_threadpool(piece.write, data)
        except Fenced:
            raise
        except Silent as silent:
            await to_its_end(piece.broken)
            raise ClientDisconnect from silent
        except BaseException:  # also when this server is stopped: what came is kept
            await to_its_end(piece.broken)
            raise
        await run_in_threadpool(piece.end)
    finally:
        await to_its_end(piece.close)
