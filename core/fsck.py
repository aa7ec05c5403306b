"""Rows against files: what is missing, damaged, or lies there without a row. Memory stays flat for any number of pictures.

Pictures and thumbnails are two sorted streams (rows by SHA-256, files by key) that are walked side by side. Only garbage is ever
removed: files without a row that are an hour old (an ingest stores files first and writes rows last).
"""

import hashlib
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.config import Settings
from core.database import Database
from core.datasets import SEEN
from core.errors import NotFound
from core.freeing import hold_removals
from core.leftovers import (
    STORED_AREAS,
    YOUNG_SECONDS,
    keys_that_must_be_there,
    left_files,
    left_folders,
    needed_keys,
)
from core.storage import Storage, Stored, blob_key, files_below, thumbnail_key
from core.tables import (
    Dataset,
    DatasetVersion,
    Export,
    ExportStatus,
    FreedFile,
    Image,
    TrainedModel,
    Upload,
    UploadFile,
    UploadStatus,
    VersionImage,
)
from core.uploads import incoming_folder

PAGE = 1000
BATCH = 64  # files hashed, or removed, at once


class Kind(StrEnum):
    """What is wrong with a file."""

    MISSING = "missing"
    DAMAGED = "damaged"
    ORPHANED = "orphaned"


@dataclass
class Trouble:
    """One thing that is wrong.

    Attributes:
        kind: what it is.
        key: the storage key, or the path below the data folder.
        size_bytes: of the file that is there.
        detail: who suffers, or why it was left.
        removed: True once `repair` took it away.
    """

    kind: Kind
    key: str
    size_bytes: int = 0
    detail: str = ""
    removed: bool = False


@dataclass
class Tally:
    """What was looked at and found, in numbers."""

    files: int = 0
    bytes: int = 0
    young: int = 0
    found: Counter[str] = field(default_factory=Counter)
    removed: int = 0
    removed_bytes: int = 0

    @property
    def whole(self) -> bool:
        """True when nothing is missing or damaged; garbage alone does no harm."""
        return not self.found[Kind.MISSING] and not self.found[Kind.DAMAGED]

    def as_row(self) -> dict[str, Any]:
        """For scripts."""
        found = {kind.value: self.found[kind] for kind in Kind}
        return {"files": self.files, "bytes": self.bytes, **found, "young": self.young, "removed": self.removed} | {
            "removed_bytes": self.removed_bytes
        }


class Fsck:
    """One look at everything, in the order of `run`.

    Args:
        hashes: read every file and compare its SHA-256; without, only presence and size.
        repair: remove orphaned files.
        now: seconds since 1970, for what is young.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        storage: Storage,
        *,
        hashes: bool = True,
        repair: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._hashes = hashes
        self._repair = repair
        self._now = now
        self.tally = Tally()

    def run(self) -> Iterator[Trouble]:
        """Everything that is wrong, as it is found; `tally` is whole at the end."""
        with ThreadPoolExecutor(self._storage.parallel, thread_name_prefix="fsck") as pool:
            checks = (
                self._pictures(pool, "blobs", blob_key, self._damage_of_picture),
                self._pictures(pool, "thumbnails", thumbnail_key, self._damage_of_thumbnail),
                self._models(),
                self._exports(),
                self._received(),
                self._needed_files(),
                self._left_files(),
                self._left_folders(),
            )
            for trouble in itertools.chain.from_iterable(checks):
                self.tally.found[trouble.kind] += 1
                self.tally.removed += trouble.removed
                self.tally.removed_bytes += trouble.size_bytes * trouble.removed
                yield trouble

    # --- pictures and their thumbnails

    def _pictures(
        self,
        pool: ThreadPoolExecutor,
        area: str,
        key_of: Callable[[str], str],
        damage: Callable[[tuple["_Row", Stored]], str | None],
    ) -> Iterator[Trouble]:
        there: list[tuple[_Row, Stored]] = []
        without: list[Stored] = []
        for row, file in side_by_side(self._rows(key_of), self._listing(area)):
            if row is not None and file is not None:
                there.append((row, file))
            elif row is not None:
                yield Trouble(Kind.MISSING, row.key, 0, self._sufferers(row.sha256))
            elif file is not None and self._is_old(file.written_at):
                without.append(file)
            if len(there) >= BATCH:
                yield from self._damaged(pool, there, damage)
                there = []
            if len(without) >= BATCH:
                yield from self._orphans(without)
                without = []
        yield from self._damaged(pool, there, damage)
        yield from self._orphans(without)

    def _rows(self, key_of: Callable[[str], str]) -> Iterator["_Row"]:
        """Every picture once, whoever owns it, in the order of their SHA-256; in pages, so that no transaction stays open."""
        query = select(Image.sha256, func.min(Image.size_bytes)).group_by(Image.sha256).order_by(Image.sha256)
        for sha256, size in self._paged(query, Image.sha256):
            yield _Row(key_of(sha256), sha256, size)

    def _paged(self, query: Select[*tuple[Any, ...]], column: InstrumentedAttribute[str]) -> Iterator[Any]:
        """All rows of a query that is ordered by `column`, which is its first."""
        last = ""
        while True:
            with self._database.read() as session:
                rows = session.execute(query.where(column > last).limit(PAGE)).all()
            yield from rows
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def _listing(self, area: str) -> Iterator[Stored]:
        for file in self._storage.listing(area):
            self.tally.files += 1
            self.tally.bytes += file.size
            yield file

    def _is_old(self, written_at: float) -> bool:
        old = self._now() - written_at > YOUNG_SECONDS
        self.tally.young += not old
        return old

    def _damaged(
        self,
        pool: ThreadPoolExecutor,
        there: list[tuple["_Row", Stored]],
        damage: Callable[[tuple["_Row", Stored]], str | None],
    ) -> Iterator[Trouble]:
        for (row, file), found in zip(there, pool.map(damage, there), strict=True):
            if found is not None:
                yield Trouble(Kind.DAMAGED, row.key, file.size, f"{found} {self._sufferers(row.sha256)}".strip())

    def _damage_of_picture(self, both: tuple["_Row", Stored]) -> str | None:
        row, file = both
        if file.size != row.size:
            return f"It has {file.size:,} bytes, {row.size:,} were uploaded."
        if self._hashes and self._sha256(file.key) != row.sha256:
            return "Its bytes are not those that were uploaded."
        return None

    def _damage_of_thumbnail(self, both: tuple["_Row", Stored]) -> str | None:
        """A thumbnail has no hash of its own: its container must be whole."""
        file = both[1]
        if not file.size:
            return "It is empty."
        if self._hashes:
            body = b"".join(self._storage.stored(file.key))
            jpeg = body[:2] == b"\xff\xd8" and body[-2:] == b"\xff\xd9"
            webp = (
                body[:4] == b"RIFF" and body[8:12] == b"WEBP" and int.from_bytes(body[4:8], "little") + 8 == len(body)
            )
            if not jpeg and not webp:
                return "It is no whole JPEG or WebP picture."
        return None

    def _sha256(self, key: str) -> str | None:
        digest = hashlib.sha256()
        try:
            for piece in self._storage.stored(key):
                digest.update(piece)
        except NotFound:
            return None
        return digest.hexdigest()

    def _sufferers(self, sha256: str) -> str:
        """Where people meet the picture: at most three places."""
        query = (
            select(Dataset.name, DatasetVersion.number, VersionImage.filename)
            .join(DatasetVersion, DatasetVersion.id == VersionImage.version_id)
            .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
            .join(Image, Image.id == VersionImage.image_id)
            .where(Image.sha256 == sha256, SEEN)
            .limit(4)
        )
        with self._database.read() as session:
            rows = session.execute(query).all()
        named = "; ".join(f'"{file}" of "{name}" version {number}' for name, number, file in rows[:3])
        return f"{named} and more" if len(rows) > 3 else named

    def _orphans(self, files: Sequence[Stored]) -> Iterator[Trouble]:
        """Files of pictures that no row names, but for those that the sweeper is about to remove (`core.freeing`).

        They are removed inside a transaction that sees no ingest and no row of them.
        """
        freed = self._freed(files)
        files = [file for file in files if _sha256_in(file) not in freed]
        if not files:
            return
        kept = "" if not self._repair else self._removed_unless_ingesting(files)
        for file in files:
            yield Trouble(Kind.ORPHANED, file.key, file.size, kept, removed=self._repair and not kept)

    def _removed_unless_ingesting(self, files: Sequence[Stored]) -> str:
        with self._database.write() as session:
            going = select(func.count()).select_from(Upload).where(Upload.status == UploadStatus.INGESTING)
            if session.scalar(going):  # it may be about to name this very file
                return "Left: an upload is being checked now. Repair again later."
            hold_removals(session)  # PostgreSQL lets an ingest begin meanwhile: it looks again before its rows
            names = [_sha256_in(file) for file in files]
            known = set(session.scalars(select(Image.sha256).where(Image.sha256.in_(names))))
            for file, name in zip(files, names, strict=True):
                if name not in known:
                    self._storage.delete(file.key)
        return ""

    def _freed(self, files: Sequence[Stored]) -> set[str]:
        names = [_sha256_in(file) for file in files]
        with self._database.read() as session:
            return set(session.scalars(select(FreedFile.sha256).where(FreedFile.sha256.in_(names))))

    # --- models and their files

    def _models(self) -> Iterator[Trouble]:
        """Trees of models without a row, and rows without a tree."""
        trees = itertools.groupby(self._listing("models"), lambda file: "/".join(file.key.split("/")[:2]))
        sized = ((key, [(file.size, file.written_at) for file in files]) for key, files in trees)
        while some := list(itertools.islice(sized, BATCH)):
            with self._database.read() as session:
                known = self._named(session, [key for key, _ in some])
            for key, files in some:
                if key not in known and self._is_old(max(written for _, written in files)):
                    if self._repair:
                        self._storage.delete(key)
                    size = sum(size for size, _ in files)
                    yield Trouble(Kind.ORPHANED, key, size, "No model names these files.", removed=self._repair)
        query = select(TrainedModel.id, TrainedModel.storage_key, TrainedModel.name).order_by(TrainedModel.id)
        for _, key, name in self._paged(query, TrainedModel.id):
            if next(iter(self._storage.listing(key)), None) is None:
                yield Trouble(Kind.MISSING, key, 0, f'All files of the model "{name}".')

    @staticmethod
    def _named(session: Session, keys: Sequence[str]) -> set[str]:
        return set(session.scalars(select(TrainedModel.storage_key).where(TrainedModel.storage_key.in_(keys))))

    def _exports(self) -> Iterator[Trouble]:
        """Files that people download, by the SHA-256 of their rows."""
        query = (
            select(Export.id, Export.storage_key, Export.size_bytes, Export.sha256, Export.format, TrainedModel.name)
            .join(TrainedModel, TrainedModel.id == Export.model_id)
            .where(Export.status == ExportStatus.READY, Export.storage_key.is_not(None))
            .order_by(Export.id)
        )
        for _, key, size, sha256, kind, name in self._paged(query, Export.id):
            whose = f'{kind} of the model "{name}".'
            if not self._storage.has(key):
                yield Trouble(Kind.MISSING, key, 0, whose)
                continue
            if self._hashes and sha256 is not None and self._sha256(key) != sha256:
                yield Trouble(Kind.DAMAGED, key, size or 0, f"Its bytes are not those that were built: {whose}")

    # --- archives of batch predictions, weights of one's own

    def _needed_files(self) -> Iterator[Trouble]:
        for key, whose in keys_that_must_be_there(self._database):
            if self._storage.has(key):
                continue
            with self._database.read() as session:  # it may have come to its end since its row was read
                needed = key in needed_keys(session, [key])
            if needed:
                yield Trouble(Kind.MISSING, key, 0, whose)

    def _left_files(self) -> Iterator[Trouble]:
        listing = (file for area in STORED_AREAS for file in self._listing(area))
        for file in left_files(self._database, listing):
            if self._is_old(file.written_at):
                if self._repair:
                    self._storage.delete(file.key)
                yield Trouble(Kind.ORPHANED, file.key, file.size, "No row needs it.", removed=self._repair)

    # --- folders of this machine

    def _received(self) -> Iterator[Trouble]:
        """Bytes of uploads that wait to be checked."""
        query = (
            select(UploadFile.id, UploadFile.upload_id, UploadFile.path, UploadFile.size_bytes)
            .join(Upload, Upload.id == UploadFile.upload_id)
            .where(Upload.status == UploadStatus.RECEIVED)
            .order_by(UploadFile.id)
        )
        for file_id, upload_id, path, size in self._paged(query, UploadFile.id):
            file = incoming_folder(self._settings, upload_id) / file_id
            key = f"incoming/{upload_id}/{file_id}"
            if not file.is_file():
                yield Trouble(Kind.MISSING, key, 0, f'"{path}" of an upload that waits to be checked.')
            elif file.stat().st_size != size:
                found = file.stat().st_size
                yield Trouble(Kind.DAMAGED, key, found, f'"{path}": {found:,} bytes, {size:,} were received.')

    def _left_folders(self) -> Iterator[Trouble]:
        """Folders that no row needs."""
        for left in left_folders(self._database, self._settings):
            if not self._is_old(left.written_at):
                continue
            size = sum(facts.st_size for _, facts in files_below(left.path))
            if self._repair:
                shutil.rmtree(left.path, ignore_errors=True)
            yield Trouble(Kind.ORPHANED, left.key, size, "No row needs it.", removed=self._repair)


@dataclass(frozen=True, slots=True)
class _Row:
    """A picture as the database has it, with the key that its file must have."""

    key: str
    sha256: str
    size: int


def _sha256_in(file: Stored) -> str:
    return Path(file.key).name.removesuffix(".webp")


def side_by_side(rows: Iterator[_Row], files: Iterator[Stored]) -> Iterator[tuple[_Row | None, Stored | None]]:
    """Two streams in the order of their keys as one: pairs, and what stands alone."""
    row, file = next(rows, None), next(files, None)
    while row is not None or file is not None:
        if file is None or (row is not None and row.key.encode() < file.key.encode()):
            yield row, None
            row = next(rows, None)
        elif row is None or file.key.encode() < row.key.encode():
            yield None, file
            file = next(files, None)
        else:
            yield row, file
            row, file = next(rows, None), next(files, None)
