"""Everything an upload holds, as one numbered list: pictures received one by one, and the entries of its archives.

The numbers (ordinals) are the same on every attempt, so that a killed ingest goes on where its receipt ends.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from core.errors import ArchiveRefused, UploadRejected, full_disk_told
from core.storage import need_disk
from worker.ingest.archive import Archive, open_archive
from worker.ingest.checkers import Job
from worker.ingest.entries import (
    AMONG_ARCHIVES,
    LONGEST_PATH,
    ArchiveLimits,
    Code,
    Entry,
    EntryRefused,
    Refusal,
    is_archive_name,
    read_name,
    refuse_doubles,
    without_archive_ending,
)
from worker.ingest.folders import FolderRules, Place, skip_reason
from worker.ingest.manifest import LARGEST_BYTES, Manifest, may_be_manifest, read_manifest

MOST_ARCHIVES = 200  # each is an open file


@dataclass(frozen=True, slots=True)
class Received:
    """One received file: where its bytes are, and the path it was sent with."""

    file: Path
    path: str
    sha256: str
    size: int


class Contents:
    """The files of an upload in order: first those received one by one, then each archive's entries.

    Use as a context manager. After entering, `entries` lists everything with what is refused by name, size or place alone.
    """

    def __init__(self, received: Sequence[Received], limits: ArchiveLimits) -> None:
        self._limits = limits
        archives = [one for one in received if is_archive_name(one.path) and skip_reason(one.path) is None]
        self._loose = [one for one in received if not (is_archive_name(one.path) and skip_reason(one.path) is None)]
        self._packed = archives
        self._archives: list[tuple[int, Archive]] = []  # first ordinal, opened archive
        self._stack = ExitStack()
        self.entries: list[Entry] = []
        self.manifest: Manifest | None = None
        self.rules = FolderRules([])

    def __enter__(self) -> Self:
        try:
            self._list()
            self._decide_places()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _list(self) -> None:
        if len(self._packed) > MOST_ARCHIVES:
            raise UploadRejected(
                f"The upload has {len(self._packed):,} archives; at most {MOST_ARCHIVES} are allowed at once."
            )
        self.entries = list(refuse_doubles([_loose_entry(one) for one in self._loose]))
        alone = len(self._packed) == 1 and not self._loose
        for one in self._packed:
            self._list_archive(one, alone=alone)
        unpacked = sum(entry.size for entry in self.entries)
        if unpacked > self._limits.unpacked_bytes:
            raise UploadRejected(
                f"The upload unpacks to {unpacked / 1e9:.1f} GB; at most {self._limits.unpacked_bytes / 1e9:g} GB are allowed."
            )
        if len(self.entries) > self._limits.entries:
            raise UploadRejected(
                f"The upload has {len(self.entries):,} files; at most {self._limits.entries:,} are allowed."
            )

    def _list_archive(self, one: Received, *, alone: bool) -> None:
        """Add an archive's entries. Several archives, or one among pictures, count as folders named like them; files that
        a browser packed to send them together with archives count as if they had come one by one.
        """
        path, problem = read_name(one.path)
        try:
            archive = self._stack.enter_context(open_archive(one.file, self._limits))
        except ArchiveRefused as refused:
            if alone:
                raise
            self.entries.append(Entry(path, 0, problem or Refusal(Code.ARCHIVE_REFUSED, refused.message)))
            return
        self._archives.append((len(self.entries), archive))
        folder = "" if alone or path == AMONG_ARCHIVES else without_archive_ending(path) + "/"
        self.entries.extend(_inside(folder, entry) for entry in archive.entries)

    def _decide_places(self) -> None:
        named = [entry for entry in self.entries if entry.refusal is None]
        pictures = [entry.path for entry in named if skip_reason(entry.path) is None]
        self.rules = FolderRules(pictures)
        self.manifest = self._read_manifest(pictures)

    def _read_manifest(self, pictures: list[str]) -> Manifest | None:
        found: list[Manifest] = []
        for ordinal, entry in enumerate(self.entries):
            if (
                entry.refusal is None
                and may_be_manifest(entry.path, self.rules.wrapper)
                and entry.size <= LARGEST_BYTES
            ):
                body = self._read(ordinal)
                manifest = read_manifest(entry.path, body, pictures, most_lines=self._limits.entries) if body else None
                found.extend([manifest] if manifest else [])
        if len(found) > 1:
            raise UploadRejected(
                f'There are two manifests, "{found[0].path}" and "{found[1].path}"; at most one is allowed.'
            )
        return found[0] if found else None

    def _read(self, ordinal: int) -> bytes | None:
        """The bytes of one small file; None when it cannot be read."""
        if ordinal < len(self._loose):
            return self._loose[ordinal].file.read_bytes()
        first, archive = self._archive_of(ordinal)
        _, _, chunks = next(archive.contents(ordinal - first))
        try:
            return b"".join(chunks) if chunks is not None else None
        except EntryRefused:
            return None

    def _archive_of(self, ordinal: int) -> tuple[int, Archive]:
        return next(found for found in reversed(self._archives) if found[0] <= ordinal)

    def place(self, path: str) -> Place | Refusal:
        """Class, split and group of a path."""
        return self.manifest.place(path) if self.manifest else self.rules.place(path)

    def _refusal(self, entry: Entry) -> Refusal | None:
        if entry.refusal is not None:
            return entry.refusal
        if self.manifest is not None and entry.path == self.manifest.path:
            sentence = f"Read as the manifest: {len(self.manifest.places):,} lines count."
            return Refusal(Code.MANIFEST, sentence, skipped=True)
        skipped = skip_reason(entry.path)
        if skipped is not None:
            return skipped
        place = self.place(entry.path)
        return place if isinstance(place, Refusal) else None

    def jobs(self, first: int, spool: Path, reserve: int = 0) -> Iterator[Job]:
        """Every file from ordinal `first`; entries of archives are unpacked to `spool`, one when it is asked for, and none into
        the last `reserve` bytes of the disk.

        Raises:
            ArchiveRefused: a tar archive breaks in the middle.
            DiskFull: there is no room to unpack one picture.
        """
        for ordinal in range(first, len(self._loose)):
            job = Job(ordinal, self.entries[ordinal].path, refusal=self._refusal(self.entries[ordinal]))
            if job.refusal is None:
                one = self._loose[ordinal]
                job.source, job.sha256, job.thumbnail = one.file, one.sha256, spool / f"{ordinal}.jpg"
                job.size = one.size
            yield job
        ordinal = max(first, len(self._loose))
        opened = dict(self._archives)
        while ordinal < len(self.entries):
            start = next((begin for begin in reversed(opened) if begin <= ordinal), None)
            if start is None or ordinal - start >= len(opened[start].entries):  # an archive that was refused
                yield Job(ordinal, self.entries[ordinal].path, refusal=self.entries[ordinal].refusal)
                ordinal += 1
                continue
            for number, _, chunks in opened[start].contents(ordinal - start):
                yield self._unpack(start + number, chunks, spool, reserve)
            ordinal = start + len(opened[start].entries)

    def _unpack(self, ordinal: int, chunks: Iterator[bytes] | None, spool: Path, reserve: int) -> Job:
        entry = self.entries[ordinal]
        job = Job(ordinal, entry.path, refusal=self._refusal(entry))
        if job.refusal is not None or chunks is None:
            return job
        job.source, job.thumbnail, job.spooled = spool / f"{ordinal}", spool / f"{ordinal}.jpg", True
        need_disk(spool, entry.size, reserve)
        try:
            job.sha256, job.size = _spooled(chunks, job.source, entry.size)
        except EntryRefused as refused:
            job.source.unlink(missing_ok=True)
            job.refusal = refused.refusal
        return job


def _loose_entry(one: Received) -> Entry:
    path, problem = read_name(one.path)
    return Entry(path, one.size, problem)


def _inside(folder: str, entry: Entry) -> Entry:
    path = folder + entry.path
    if len(path) > LONGEST_PATH:
        sentence = f"The path has {len(path)} characters; at most {LONGEST_PATH} are allowed."
        return Entry(path[-LONGEST_PATH:], entry.size, entry.refusal or Refusal(Code.NAME_TOO_LONG, sentence))
    return Entry(path, entry.size, entry.refusal)


def _spooled(chunks: Iterator[bytes], target: Path, most: int) -> tuple[str, int]:
    """Write an entry to a name of our own, counting its bytes; returns their SHA-256 and how many they are."""
    digest = hashlib.sha256()
    size = 0
    sentence = "The disk is full: there is no room to unpack the pictures. Free some space and try again."
    with full_disk_told(sentence), target.open("wb") as out:
        for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise EntryRefused(Code.DAMAGED_ENTRY, "The entry unpacks to more than it declares.")
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest(), size
