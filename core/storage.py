"""Blobs and artefacts by key: one small interface over a local folder or an S3 bucket (core/bucket.py).

A key is a relative POSIX path made by us, never by a person. What is stored under a key never changes, it is only deleted.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from core.config import Settings
from core.errors import DiskFull, NotFound
from core.ids import new_id

CHUNK = 1 << 20
GONE = "The file is not in the storage any more."


def blob_key(sha256: str) -> str:
    """Where the bytes of a picture live."""
    return f"blobs/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def thumbnail_key(sha256: str) -> str:
    """Where the small picture lives: a JPEG, or a WebP of older versions of Thaw, after which the name is. See `thumbnail_type`."""
    return f"thumbnails/{sha256[:2]}/{sha256[2:4]}/{sha256}.webp"


def checked_key(key: str) -> str:
    """The key itself.

    Raises:
        ValueError: it could leave the folder it is used in; keys are made by us, so this is a bug.
    """
    parts = key.split("/")
    if key.startswith("/") or not all(parts) or ".." in parts:
        raise ValueError(f"A storage key must be a plain relative path. Received: {key!r}.")
    return key


def thumbnail_type(file: Path) -> str:
    """Media type of a stored thumbnail: its name does not say it."""
    with file.open("rb") as read:
        return "image/webp" if read.read(4) == b"RIFF" else "image/jpeg"


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored file: its key, its bytes, and when it was written, in seconds since 1970."""

    key: str
    size: int
    written_at: float


class Storage(ABC):
    """Files by key. A file appears whole or not at all.

    Attributes:
        parallel: how many calls at once make sense: more where each one waits for a network.
    """

    parallel: int

    @abstractmethod
    def put(self, key: str, source: Path | bytes, *, move: bool = False) -> None:
        """Store bytes or a copy of a file under a key; an existing file is replaced whole.

        Args:
            key: where.
            source: bytes, or a file.
            move: the file may be taken instead of copied; it may be gone afterwards, or not.

        Raises:
            DiskFull: the disk reserve would be touched.
            StorageAway: the storage does not answer.
        """

    @abstractmethod
    def has(self, key: str) -> bool:
        """True when the file is there."""

    @abstractmethod
    def local(self, key: str) -> Path:
        """A readable file on this machine with what is stored under the key, fetched now if need be.

        It stays for at least ten minutes after this call; for longer see `keep`.

        Raises:
            NotFound: there is no such file, or it is damaged.
            DiskFull: no room to fetch it.
            StorageAway: the storage does not answer.
        """

    @abstractmethod
    def local_tree(self, key: str) -> Path:
        """As `local`, for everything below a key: a folder."""

    @abstractmethod
    def keep(self, key: str, folder: Path) -> Path:
        """As `local`, but the file stays as long as `folder` (on the disk of the data folder) does."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file or everything below a key; nothing there is fine."""

    @abstractmethod
    def listing(self, key: str) -> Iterator[Stored]:
        """Every file below a key, in the order of their keys as bytes; half-written ones of a crash included."""

    @abstractmethod
    def stored(self, key: str) -> Iterator[bytes]:
        """The bytes that are really stored, in pieces, past any copy; raises as `local`."""

    def open(self, key: str) -> BinaryIO:
        """Open for reading; raises as `local`."""
        return self.local(key).open("rb")

    def put_tree(self, key: str, folder: Path) -> None:
        """Store every file below a folder under `key/`."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{key}/{file.relative_to(folder).as_posix()}", file)


class FolderStorage(Storage):
    """A folder: files are written aside, synced and renamed."""

    parallel = 4

    def __init__(self, folder: Path, *, reserve_bytes: int) -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes

    def put(self, key: str, source: Path | bytes, *, move: bool = False) -> None:
        """See `Storage.put`."""
        target = self._path(key)
        if move and isinstance(source, Path) and _taken(source, target):
            return
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        need_disk(self.folder, size, self.reserve_bytes)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{new_id()}")
        try:
            with aside.open("wb") as out:
                if isinstance(source, bytes):
                    out.write(source)
                else:
                    with source.open("rb") as read:
                        shutil.copyfileobj(read, out, CHUNK)
                out.flush()
                os.fsync(out.fileno())
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def has(self, key: str) -> bool:
        """See `Storage.has`."""
        return self._path(key).is_file()

    def local(self, key: str) -> Path:
        """See `Storage.local`: the stored file itself."""
        path = self._path(key)
        if not path.is_file():
            raise NotFound(GONE)
        return path

    def local_tree(self, key: str) -> Path:
        """See `Storage.local_tree`: the stored files themselves."""
        path = self._path(key)
        if not path.is_dir():
            raise NotFound(GONE)
        return path

    def keep(self, key: str, folder: Path) -> Path:  # noqa: ARG002 - nothing is ever taken away here
        """See `Storage.keep`: the stored file itself."""
        return self.local(key)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        path = self._path(key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def listing(self, key: str) -> Iterator[Stored]:
        """See `Storage.listing`."""
        for path, facts in files_below(self._path(key)):
            yield Stored(path.relative_to(self.folder).as_posix(), facts.st_size, facts.st_mtime)

    def stored(self, key: str) -> Iterator[bytes]:
        """See `Storage.stored`."""
        with self.local(key).open("rb") as read:
            yield from chunks(read)

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder, in the order of their paths as bytes, one folder in memory at a time; not what vanishes meanwhile."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda one: os.fsencode(one.name) + (b"/" if one.is_dir() else b""))
    except (FileNotFoundError, NotADirectoryError):
        return
    for one in entries:
        if one.is_dir(follow_symlinks=False):
            yield from files_below(Path(one.path))
        else:
            with contextlib.suppress(FileNotFoundError):
                yield Path(one.path), one.stat(follow_symlinks=False)


def _taken(source: Path, target: Path) -> bool:
    """Sync and rename a file; False where that cannot be done, as between two disks."""
    with source.open("rb", buffering=0) as read:
        os.fsync(read.fileno())
    try:
        try:
            source.replace(target)
        except FileNotFoundError:  # the folder: there nearly always, so it is not asked for first
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def open_storage(settings: Settings) -> Storage:
    """The storage of these settings: a bucket where one is named, else a folder."""
    if settings.s3_bucket:
        from core.bucket import open_bucket  # noqa: PLC0415 - boto3 is an extra

        return open_bucket(settings)
    settings.storage_folder.mkdir(parents=True, exist_ok=True)
    return FolderStorage(settings.storage_folder, reserve_bytes=settings.disk_reserve_bytes)


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that holds `folder` (or its nearest existing parent)."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def need_disk(folder: Path, size: int, reserve: int) -> None:
    """Check that `size` bytes can be written without touching the reserve.

    Raises:
        DiskFull: with free bytes and the reserve named.
    """
    free = free_bytes(folder)
    if free - size < reserve:
        raise DiskFull(
            f"The disk is nearly full: {free / 1e9:.2f} GB are free, this needs {size / 1e9:.3f} GB, and "
            f"{reserve / 1e9:.2f} GB are kept in reserve. Free some space and try again; what is stored already stays."
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of a stream in pieces of 1 MiB."""
    while piece := stream.read(CHUNK):
        yield piece
