"""One archive out of a request into the storage: what a batch prediction is asked about. Shared by the API and the pages."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.dependencies import House
from app.envelope import lift_body_limit
from app.errors import MediaTypeUnknown
from app.receiving import RAW_TYPES, Count, clean_path, is_archive, read_form
from app.threads import to_its_end
from app.writing import in_large_pieces
from core import batch_predictions, models
from core.config import Settings
from core.errors import InputInvalid, TooLarge
from core.ids import new_id
from core.storage import need_disk
from core.tables import BatchPrediction

_DISK_CHECK_EVERY = 64_000_000


class ArchiveSink:
    """Writes the one archive of a request to a file; every call is made on a thread, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.batch_id = new_id()
        self.folder: Path = settings.folder / "batches" / f"{self.batch_id}-0"
        self.file = self.folder / "archive"
        self.filename = ""
        self.size = 0
        self._out: BinaryIO | None = None
        self._unchecked = 0
        self.count = Count()

    def begin(self, path: str) -> None:
        """The archive begins.

        Raises:
            InputInvalid: it is not one by its name, or the second one.
            DiskFull: the disk reserve would be touched.
        """
        if self._out is not None or self.filename:
            raise InputInvalid("Send one archive at a time. Received: more than one file.")
        self.filename = clean_path(path)
        if not is_archive(self.filename):
            raise InputInvalid(f'Send an archive: .zip, .tar, .tar.gz or .tgz. Received: "{self.filename[:100]}".')
        need_disk(self._settings.folder, 0, self._settings.disk_reserve_bytes)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._out = self.file.open("wb")

    def write(self, data: memoryview) -> None:
        """Some bytes of it.

        Raises:
            TooLarge: over the limit.
            DiskFull: the disk reserve would be touched.
        """
        if self._out is None:
            return
        self.size += len(data)
        self._unchecked += len(data)
        most = self._settings.max_archive_bytes
        if self.size > most:
            raise TooLarge(f'The archive "{self.filename}" has more than {most:,} bytes, the most that is allowed.')
        if self._unchecked > _DISK_CHECK_EVERY:
            need_disk(self.folder, len(data), self._settings.disk_reserve_bytes)
            self._unchecked = 0
        self._out.write(data)

    def end(self) -> None:
        """It is whole."""
        if self._out is not None:
            self._out.close()
            self._out = None
            self.count.added += 1

    def forget(self) -> None:
        """Remove the file."""
        if self._out is not None:
            self._out.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class ReceivedArchive:
    """An archive on its way to a batch prediction."""

    sink: ArchiveSink

    def queue(self, house: House, owner_id: str, model_id: str) -> BatchPrediction:
        """Store it, then queue the batch prediction: a row without its archive is impossible.

        Raises:
            NotFound: no such model.
            DiskFull: no room.
        """
        sink, key = self.sink, batch_predictions.archive_key(self.sink.batch_id)
        try:
            house.storage.put(key, sink.file)
            with house.database.write() as session:
                model = models.find_model(session, owner_id, model_id)
                return batch_predictions.predict_archive(
                    session, house.queue, model, sink.batch_id, sink.filename, sink.size
                )
        except BaseException:
            house.storage.delete(key)
            raise
        finally:
            sink.forget()


async def receive_archive(request: Request, house: House, filename: str | None) -> ReceivedArchive:
    """Write the archive of a request aside: the whole body, or field `archive` of a form.

    Raises:
        InputInvalid, MediaTypeUnknown, TooLarge, DiskFull: with a sentence.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    sink = ArchiveSink(house.settings)
    try:
        if kind == "multipart/form-data":
            await read_form(request, sink, "archive")
        elif kind in RAW_TYPES:
            lift_body_limit(request)
            await run_in_threadpool(sink.begin, filename if filename and is_archive(filename) else RAW_TYPES[kind])
            async for piece in in_large_pieces(request.stream()):
                await run_in_threadpool(sink.write, memoryview(piece))
            await run_in_threadpool(sink.end)
        else:
            allowed = ", ".join(["application/json", "multipart/form-data", *RAW_TYPES])
            raise MediaTypeUnknown(f"Send an archive or a dataset version. Received: {kind!r}. Allowed: {allowed}.")
        if not sink.count.added:
            raise InputInvalid('Send an archive in the form field "archive". Received: none.')
    except BaseException:  # also when the client went away
        await to_its_end(sink.forget)
        raise
    return ReceivedArchive(sink)
