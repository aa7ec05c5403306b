"""Streaming uploads to disk: never whole in memory, whatever their size. Shared by the API and the pages.

Bytes are parsed, hashed and written on a thread, a mebibyte or more at a time, while the event loop stays free. A file that was
received whole is recorded in the database; one that was not is removed. Its path is kept for the class rules only: on disk every
file is called by its id.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from app.dependencies import House
from app.envelope import lift_body_limit
from app.errors import MediaTypeUnknown
from app.threads import to_its_end
from app.writing import in_large_pieces
from core import uploads
from core.config import Settings
from core.errors import FieldProblem, InputInvalid, TooLarge
from core.ids import new_id
from core.storage import need_disk
from core.tables import Upload, UploadFile

LONGEST_PATH = 1024
ROWS_AT_ONCE = 200
DISK_CHECK_EVERY = 64 << 20
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
RAW_TYPES = {
    "application/zip": "upload.zip",
    "application/x-zip-compressed": "upload.zip",
    "application/x-tar": "upload.tar",
    "application/gzip": "upload.tar.gz",
    "application/x-gzip": "upload.tar.gz",
}


@dataclass
class Count:
    """What a request brought."""

    added: int = 0
    repeated: int = 0
    texts: dict[str, str] = field(default_factory=dict)


def clean_path(given: str) -> str:
    """A relative path with forward slashes, without empty, `.` and `..` parts and control characters; at most 1,024 characters.

    The end is kept when it is too long: the class name is there.
    """
    parts = given.replace("\\", "/").split("/")
    kept = ["".join(one for one in part if one.isprintable()) for part in parts if part.strip() not in {"", ".", ".."}]
    return "/".join(kept)[-LONGEST_PATH:].lstrip("/") or "unnamed"


def is_archive(path: str) -> bool:
    """True for a name that ends like an archive's."""
    return path.lower().endswith(ARCHIVES)


class FileSink:
    """Writes the files of one upload and records them; every call is made on a thread, one at a time."""

    def __init__(self, house: House, upload_id: str, owner_id: str) -> None:
        self._house = house
        self._settings: Settings = house.settings
        self._upload_id = upload_id
        self._owner_id = owner_id
        self._folder = uploads.incoming_folder(house.settings, upload_id)
        self._whole: list[UploadFile] = []
        self._row: UploadFile | None = None
        self._out: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._most = 0
        self._unchecked = 0
        self._total = 0
        self.count = Count()

    def begin(self, path: str) -> None:
        """A new file begins.

        Raises:
            DiskFull: the disk reserve would be touched.
        """
        need_disk(self._folder, 0, self._settings.disk_reserve_bytes)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = clean_path(path)
        self._most = self._settings.max_archive_bytes if is_archive(path) else self._settings.max_image_bytes
        self._row = UploadFile(id=new_id(), path=path, size_bytes=0)
        self._out = self._path(self._row).open("wb")
        self._hash = hashlib.sha256()

    def write(self, data: memoryview) -> None:
        """Some bytes of the file.

        Raises:
            TooLarge: an archive, or all files together, over the limit. A picture over the limit is cut off one byte
                later instead: the ingest refuses it in the receipt, and the others are kept.
            DiskFull: the disk reserve would be touched.
        """
        row, out = self._row, self._out
        if row is None or out is None:
            return
        room = self._most + 1 - row.size_bytes
        row.size_bytes += len(data)
        self._total += len(data)
        self._unchecked += len(data)
        self._must_fit(row)
        if self._unchecked > DISK_CHECK_EVERY:
            need_disk(self._folder, len(data), self._settings.disk_reserve_bytes)
            self._unchecked = 0
        self._hash.update(data)
        if room > 0:
            out.write(data[:room])

    def _must_fit(self, row: UploadFile) -> None:
        if row.size_bytes > self._most and is_archive(row.path):
            raise TooLarge(f'The archive "{row.path}" has more than {self._most:,} bytes, the most that is allowed.')
        most = max(self._settings.max_unpacked_bytes, self._settings.max_archive_bytes)
        if self._total > most:
            raise TooLarge(f"One request has at most {most:,} bytes. Send the folder in several batches.")

    def end(self) -> None:
        """The file is whole."""
        row, out = self._row, self._out
        if row is None or out is None:
            return
        out.close()
        self._out = None
        row.sha256 = self._hash.hexdigest()
        self._whole.append(row)
        self._row = None
        if len(self._whole) >= ROWS_AT_ONCE:
            self.record()

    def record(self) -> None:
        """Write the rows of whole files.

        Raises:
            TooLarge: more files than the settings allow.
            Conflict: the upload was completed meanwhile.
            NotFound: it was deleted meanwhile.
        """
        rows, self._whole = self._whole, []
        if not rows:
            return
        added: list[bool] = []
        try:
            with self._house.database.write() as session:
                upload = uploads.find_upload(session, self._owner_id, self._upload_id)
                added = uploads.add_files(session, self._settings, upload, rows)
        except BaseException:
            self._remove(rows)
            raise
        self._remove([row for row, new in zip(rows, added, strict=True) if not new])
        self.count.added += sum(added)
        self.count.repeated += len(rows) - sum(added)
        self._house.hub.wake(self._upload_id)

    def abandon(self) -> None:
        """The request broke off: remove what is not whole or not recorded."""
        if self._out is not None:
            self._out.close()
            self._out = None
        if self._row is not None:
            self._remove([self._row])
            self._row = None
        self._remove(self._whole)
        self._whole = []

    def _remove(self, rows: list[UploadFile]) -> None:
        for row in rows:
            self._path(row).unlink(missing_ok=True)

    def _path(self, row: UploadFile) -> Path:
        return self._folder / row.id


class Sink(Protocol):
    """Where the files of a form go."""

    count: Count

    def begin(self, path: str) -> None:
        """A new file begins."""

    def write(self, data: memoryview) -> None:
        """Some bytes of the file."""

    def end(self) -> None:
        """The file is whole."""


class FormReader:
    """Reads `multipart/form-data` piece by piece into a sink. Browsers send names as raw UTF-8."""

    LONGEST_TEXT = 100_000

    def __init__(self, content_type: str, sink: Sink, field_name: str, text_fields: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise MediaTypeUnknown(
                f"Send the files as multipart/form-data with a boundary. Received: {content_type[:100]!r}."
            )
        self._sink = sink
        self._field_name = field_name
        self._text_fields = text_fields
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._text: tuple[str, bytearray] | None = None
        self._in_file = False
        self._ended = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_end": self._form_ends,
            },
        )

    def feed(self, data: bytes) -> None:
        """Read some bytes of the body.

        Raises:
            InputInvalid: not a form, or with a field that is not read here.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InputInvalid(f"The multipart body cannot be read: {error}.") from error

    def finish(self) -> None:
        """The body is over.

        Raises:
            InputInvalid: it ended before its last boundary.
        """
        if not self._ended:
            raise InputInvalid("The multipart body ended before its last boundary: it was cut off. Send it again.")

    def _part_begins(self) -> None:
        self._disposition = b""

    def _header_ends(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _as_text(options.get(b"name", b""))
        filename = options.get(b"filename")
        if filename is None:
            if name == self._field_name:
                message = f'The form field "{name}" holds files: give each part a filename.'
                raise InputInvalid(message, problems=(FieldProblem(name, message),))
            if name not in self._text_fields:
                raise self._unknown(name)
            self._text = (name, bytearray())
        elif name != self._field_name:
            raise self._unknown(name)
        elif filename:
            self._in_file = True
            self._sink.begin(_as_text(filename))
        # else: what browsers send when no file was chosen

    def _unknown(self, name: str) -> InputInvalid:
        allowed = ", ".join([f'"{self._field_name}" with files', *(f'"{one}"' for one in sorted(self._text_fields))])
        message = f'There is no form field "{name}" here. Allowed: {allowed}.'
        return InputInvalid(message, problems=(FieldProblem(name or "body", message),))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._sink.write(memoryview(data)[start:end])
        elif self._text is not None:
            self._text[1].extend(data[start:end])
            if len(self._text[1]) > self.LONGEST_TEXT:
                raise TooLarge(f'The form field "{self._text[0]}" is longer than {self.LONGEST_TEXT:,} bytes.')

    def _part_ends(self) -> None:
        if self._in_file:
            self._sink.end()
        elif self._text is not None:
            self._sink.count.texts[self._text[0]] = _as_text(bytes(self._text[1]))
        self._in_file, self._text = False, None

    def _form_ends(self) -> None:
        self._ended = True


def _as_text(raw: bytes) -> str:
    # parse_options_header has read the bytes as Latin-1 and written them so; the percent signs are the HTML standard's escapes
    text = raw.decode("utf-8", "replace")
    return text.replace("%22", '"').replace("%0D", "").replace("%0A", "")


async def read_form(
    request: Request, sink: Sink, field_name: str = "files", text_fields: frozenset[str] = frozenset()
) -> None:
    """Read a whole `multipart/form-data` body into a sink.

    Raises:
        InputInvalid: it cannot be read.
        ClientDisconnect: the client went away.
    """
    lift_body_limit(request)
    reader = FormReader(request.headers.get("content-type", ""), sink, field_name, text_fields)
    async for piece in in_large_pieces(request.stream()):
        await run_in_threadpool(reader.feed, piece)
    reader.finish()


async def receive_files(
    request: Request, house: House, upload: Upload, text_fields: frozenset[str] = frozenset()
) -> Count:
    """Add the files of a `multipart/form-data` body (field `files`) to an upload.

    Whole files that were recorded before the request broke off stay; a caller whose upload lives for one request only
    deletes it then.

    Raises:
        InputInvalid, TooLarge, DiskFull, Conflict: with a sentence.
        ClientDisconnect: the client went away.
    """
    sink = FileSink(house, upload.id, upload.owner_id)
    async with _abandoning(sink):
        await _need_room(request, house)
        await read_form(request, sink, text_fields=text_fields)
        await run_in_threadpool(sink.record)
    return sink.count


async def receive_raw(request: Request, house: House, upload: Upload, filename: str | None) -> Count:
    """Add an archive that is the whole body to an upload.

    Raises:
        MediaTypeUnknown: not an archive's content type.
        TooLarge, DiskFull: with a sentence.
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in RAW_TYPES:
        allowed = ", ".join(["multipart/form-data", *RAW_TYPES])
        raise MediaTypeUnknown(f"An upload is a form with files or an archive. Received: {kind!r}. Allowed: {allowed}.")
    name = filename if filename and is_archive(filename) else RAW_TYPES[kind]
    sink = FileSink(house, upload.id, upload.owner_id)
    lift_body_limit(request)
    async with _abandoning(sink):
        await _need_room(request, house)
        await run_in_threadpool(sink.begin, name)
        async for piece in in_large_pieces(request.stream()):
            await run_in_threadpool(sink.write, memoryview(piece))
        await run_in_threadpool(_end_and_record, sink)
    return sink.count


def _end_and_record(sink: FileSink) -> None:
    sink.end()
    sink.record()


async def _need_room(request: Request, house: House) -> None:
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdigit() else 0
    await run_in_threadpool(need_disk, house.settings.folder, size, house.settings.disk_reserve_bytes)


@contextlib.asynccontextmanager
async def _abandoning(sink: FileSink) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:  # also when the request is cancelled: nothing half may stay
        await to_its_end(sink.abandon)
        raise


class MemorySink:
    """Keeps a few small files in memory: pictures to be predicted."""

    def __init__(self, *, most_files: int, most_bytes: int, most_together: int) -> None:
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._most_together = most_together
        self._together = 0
        self.files: list[tuple[str, bytearray]] = []
        self.count = Count()

    def begin(self, path: str) -> None:
        """A new file begins.

        Raises:
            TooLarge: too many files.
        """
        if len(self.files) >= self._most_files:
            raise TooLarge(f"At most {self._most_files} pictures at once. Received more.")
        self.files.append((clean_path(path), bytearray()))

    def write(self, data: memoryview) -> None:
        """Some bytes of the file; a file over the limit is cut off one byte later.

        Raises:
            TooLarge: too many bytes together.
        """
        self._together += len(data)
        if self._together > self._most_together:
            raise TooLarge(f"Pictures at once have at most {self._most_together:,} bytes together. Send fewer.")
        content = self.files[-1][1]
        content.extend(data[: max(0, self._most_bytes + 1 - len(content))])

    def end(self) -> None:
        """The file is whole."""
        self.count.added += 1


__all__ = ["ClientDisconnect", "Count", "MemorySink", "receive_files", "receive_raw"]
