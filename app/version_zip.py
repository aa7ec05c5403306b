"""A dataset version as a ZIP archive that streams: pictures as they were uploaded, and the manifest that makes the same version again.

Own writer: `zipfile` keeps an object per entry until the end, so its memory grows with the dataset. Here the directory waits in a
file of its own, sizes are known before the first byte (a browser can say how long it takes, and a download that broke off is
noticed), and equal versions give equal bytes. Entries are stored, not packed: pictures do not pack. APPNOTE 6.3.10, Zip64 included.
"""

import csv
import hashlib
import io
import json
import re
import struct
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from core import catalog
from core.database import Database
from core.errors import StorageAway
from core.paging import MOST
from core.storage import CHUNK, Storage, blob_key, chunks
from core.tables import Dataset, DatasetVersion, VersionImage

MANIFEST = "manifest.csv"
FACTS = "dataset_version.json"
_LOCAL = struct.Struct("<4s5H3L2H")
_RECORD = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_NEEDS, _UTF8, _FILE = 45, 0x800, 0o100644 << 16
_MOST16, _MOST32 = 0xFFFF, 0xFFFFFFFF
# not a plain name of a folder on every system, or one that an import skips as junk
_ODD = re.compile(r"[^\w \-.,()&]|^[._]|[. ]$|^system volume information$", re.IGNORECASE)


class ZipLayout:
    """Where every byte of the archive goes, without the bytes: `size` is its whole length once every name was added."""

    def __init__(self) -> None:
        self.offset = self.directory = self.count = 0

    def add(self, name: str, size: int) -> None:
        """Take the next entry into account."""
        length = len(name.encode())
        self.directory += _RECORD.size + length + (12 if self.offset >= _MOST32 else 0)
        self.offset += _LOCAL.size + length + size
        self.count += 1

    @property
    def needs64(self) -> bool:
        """True when the end of the archive must be written in its larger form."""
        return self.count >= _MOST16 or max(self.offset, self.directory) >= _MOST32

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return self.offset + self.directory + _END.size + (_END64.size + _LOCATOR.size if self.needs64 else 0)


class ZipStream:
    """Writes entries one after the other as bytes to send; `end` gives the directory."""

    def __init__(self, when: datetime) -> None:
        self._layout = ZipLayout()
        self._directory: IO[bytes] = tempfile.TemporaryFile(prefix="thaw-zip-")  # noqa: SIM115 - closed in `close`
        self._time = when.hour << 11 | when.minute << 5 | when.second // 2
        self._date = (when.year - 1980) << 9 | when.month << 5 | when.day

    def entry(self, name: str, crc: int, size: int, body: Iterable[bytes]) -> Iterator[bytes]:
        """One file."""
        raw = name.encode()
        offset = self._layout.offset
        common = (_UTF8, 0, self._time, self._date, crc, size, size, len(raw))
        extra = struct.pack("<2HQ", 1, 8, offset) if offset >= _MOST32 else b""
        record = (b"PK\x01\x02", 3 << 8 | _NEEDS, _NEEDS, *common, len(extra), 0, 0, 0, _FILE, min(offset, _MOST32))
        self._directory.write(_RECORD.pack(*record) + raw + extra)
        self._layout.add(name, size)
        yield _LOCAL.pack(b"PK\x03\x04", _NEEDS, *common, 0) + raw
        yield from body

    def end(self) -> Iterator[bytes]:
        """The directory and the end of the archive."""
        self._directory.seek(0)
        while piece := self._directory.read(CHUNK):
            yield piece
        count, size, offset = self._layout.count, self._layout.directory, self._layout.offset
        if self._layout.needs64:
            whole = _END64.size - 12
            yield _END64.pack(b"PK\x06\x06", whole, _NEEDS, _NEEDS, 0, 0, count, count, size, offset)
            yield _LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
        short = min(count, _MOST16)
        yield _END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, _MOST32), min(offset, _MOST32), 0)

    def close(self) -> None:
        """Drop the directory's file."""
        self._directory.close()


class VersionZip:
    """The archive of one version. Its manifest is written when it is made; the pictures are read while it streams.

    Attributes:
        size: bytes of the whole archive.
    """

    def __init__(self, database: Database, storage: Storage, dataset: Dataset, version: DatasetVersion) -> None:
        self._database = database
        self._storage = storage
        self._version = version
        self._facts = json.dumps(version_facts(dataset, version), indent=1, ensure_ascii=False).encode()
        self._manifest: IO[bytes] = tempfile.TemporaryFile(prefix="thaw-manifest-")  # noqa: SIM115 - closed in `stream`
        layout = ZipLayout()
        layout.add(FACTS, len(self._facts))
        self._crc = self._write_manifest(layout)
        layout.add(MANIFEST, self._manifest.tell())
        self.size = layout.size

    def _write_manifest(self, layout: ZipLayout) -> int:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("filename", "class_name", "split", "group", "keep_split"))
        crc = 0
        for places in self._pages():
            for place in places:
                name = entry_name(place, self._version.class_names)
                layout.add(name, place.image.size_bytes)
                # as they are, without the apostrophe that protects spreadsheets: a class "=1" must come back as "=1"
                class_name = self._version.class_names[place.label]
                writer.writerow((name, class_name, place.split.value, place.group or "", "yes"))
            piece = text.getvalue().encode()
            text.seek(0)
            text.truncate()
            crc = zlib.crc32(piece, crc)
            self._manifest.write(piece)
        return crc

    def _pages(self) -> Iterator[Sequence[VersionImage]]:
        """Every picture in order, in pages: no transaction stays open while somebody reads slowly."""
        cursor = None
        while True:
            with self._database.read() as session:
                page = catalog.version_images(session, self._version, limit=MOST, cursor=cursor)
            yield page.items
            if (cursor := page.next_cursor) is None:
                return

    def stream(self) -> Iterator[bytes]:
        """The archive's bytes.

        Raises:
            NotFound, StorageAway: a picture cannot be read; the download then breaks off, which its length tells.
        """
        out = ZipStream(self._version.created_at)
        pool = ThreadPoolExecutor(self._storage.parallel, thread_name_prefix="export")
        try:
            yield from out.entry(FACTS, zlib.crc32(self._facts), len(self._facts), [self._facts])
            size = self._manifest.tell()
            self._manifest.seek(0)
            yield from out.entry(MANIFEST, self._crc, size, chunks(self._manifest))  # type: ignore[arg-type]
            for places in self._pages():
                at_once = 2 * self._storage.parallel  # what is fetched ahead stays few
                for some in (places[start : start + at_once] for start in range(0, len(places), at_once)):
                    for place, path in zip(some, pool.map(self._fetched, some), strict=True):
                        body = whole_picture(path, place.image.sha256)
                        name = entry_name(place, self._version.class_names)
                        yield from out.entry(name, zlib.crc32(body), len(body), [body])
            yield from out.end()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            out.close()
            self._manifest.close()

    def _fetched(self, place: VersionImage) -> Path:
        return self._storage.local(blob_key(place.image.sha256))


def whole_picture(path: Path, sha256: str) -> bytes:
    """The bytes of a stored picture (at most `max_image_bytes` of them).

    Raises:
        StorageAway: they are not those that were uploaded.
    """
    body = path.read_bytes()
    if hashlib.sha256(body).hexdigest() != sha256:
        raise StorageAway(f"The picture {sha256} in the storage is damaged. `thaw fsck` finds every one that is.")
    return body


def version_facts(dataset: Dataset, version: DatasetVersion) -> dict[str, Any]:
    """What stands in `dataset_version.json`: for people and for comparing; importing needs the manifest alone."""
    return {
        "format": 1,
        "dataset": dataset.name,
        "description": dataset.description,
        "number": version.number,
        "fingerprint": version.fingerprint,
        "test_fingerprint": version.test_fingerprint,
        "class_names": version.class_names,
        "counts": version.counts,
        "image_count": version.image_count,
        "notes": version.notes,
        "created_at": version.created_at.isoformat(),
    }


def entry_name(place: VersionImage, class_names: Sequence[str]) -> str:
    """Where a picture lies in the archive: `train/roses/000012-a.jpg`. Unique by its number; the manifest says what it is."""
    class_name = class_names[place.label]
    odd = len(class_name) > 80 or _ODD.search(class_name) or unicodedata.normalize("NFC", class_name) != class_name
    folder = f"class {place.label}" if odd else class_name
    name = PurePosixPath(place.filename).name
    return f"{place.split.value}/{folder}/{place.ordinal:06d}-{name[-100:]}"
