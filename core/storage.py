"""Blobs and artefacts: one small interface over a local folder. A key is a relative POSIX path made by us, never by a person."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core.config import Settings
from core.errors import DiskFull, NotFound
from core.ids import new_id

CHUNK = 1 << 20


def blob_key(sha256: str) -> str:
    """Where the bytes of a picture live."""
    return f"blobs/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def thumbnail_key(sha256: str) -> str:
    """Where the 240 px thumbnail of a picture lives."""
    return f"thumbnails/{sha256[:2]}/{sha256[2:4]}/{sha256}.webp"


class Storage:
    """A folder of files by key. Files appear whole (written aside, synced, renamed) or not at all."""

    def __init__(self, folder: Path, *, reserve_bytes: int) -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes

    def path(self, key: str) -> Path:
        """The local file of a key.

        Raises:
            ValueError: a key that leaves the folder; keys are made by us, so this is a bug.
        """
        parts = key.split("/")
        if key.startswith("/") or not all(parts) or ".." in parts:
            raise ValueError(f"A storage key must be a plain relative path. Received: {key!r}.")
        return self.folder.joinpath(*parts)

    def has(self, key: str) -> bool:
        """True when the file is there."""
        return self.path(key).is_file()

    def put(self, key: str, source: Path | bytes) -> None:
        """Store bytes or a copy of a file under a key; an existing file is replaced whole.

        Raises:
            DiskFull: the disk reserve would be touched.
        """
        target = self.path(key)
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

    def put_tree(self, key: str, folder: Path) -> None:
        """Store every file below a folder under `key/`."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{key}/{file.relative_to(folder).as_posix()}", file)

    def open(self, key: str) -> BinaryIO:
        """Open for reading.

        Raises:
            NotFound: there is no such file.
        """
        try:
            return self.path(key).open("rb")
        except FileNotFoundError as error:
            raise NotFound("The file is not in the storage any more.") from error

    def delete(self, key: str) -> None:
        """Remove a file or everything below a key; nothing there is fine."""
        path = self.path(key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def open_storage(settings: Settings) -> Storage:
    """The storage of these settings."""
    settings.storage_folder.mkdir(parents=True, exist_ok=True)
    return Storage(settings.storage_folder, reserve_bytes=settings.disk_reserve_bytes)


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
