"""Open a received archive safely, whatever it is called: ZIP, tar, gzipped tar.

What is refused as a whole (ArchiveRefused, one sentence): what is no archive, is cut off, has more entries or bytes than the
limits, overlapping entries, a bomb's ratio, or everything encrypted. What is refused entry by entry (the rest is read): paths that
climb out, links, devices, control characters, doubles, encrypted entries, damaged bytes, files larger than a picture may be.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from core.errors import ArchiveRefused
from worker.ingest.entries import ArchiveLimits
from worker.ingest.tar_archive import TarArchive
from worker.ingest.zip_archive import ZipArchive

Archive = ZipArchive | TarArchive

_OTHERS = (
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "packed with bzip2"),
    (b"\xfd7zXZ", "packed with xz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstandard"),
)
_ALLOWED = "allowed are .zip, .tar, .tar.gz and .tgz"


@contextmanager
def open_archive(path: Path, limits: ArchiveLimits) -> Iterator[Archive]:
    """Open an archive and pre-flight it. Its kind is told by its bytes, not by its name.

    Raises:
        ArchiveRefused: it is not an archive, broken, hostile or over a limit.
    """
    size = path.stat().st_size
    if size > limits.archive_bytes:
        allowed = f"at most {limits.archive_bytes / 1e9:g} GB are allowed"
        raise ArchiveRefused(f"The archive has {size / 1e9:.1f} GB; {allowed}.")
    if size == 0:
        raise ArchiveRefused("The archive is empty: it has 0 bytes.")
    with path.open("rb") as stream:
        yield _opened(stream, limits)


def _opened(stream: BinaryIO, limits: ArchiveLimits) -> Archive:
    head = stream.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipArchive(stream, limits)
    if head.startswith((b"PK\x07\x08", b"PK00PK")):
        raise ArchiveRefused("The ZIP archive is split over several files; make it again as one.")
    if head.startswith(b"\x1f\x8b"):
        return TarArchive(stream, limits, gzipped=True)
    if head[257:262] == b"ustar" or _has_tar_checksum(head):
        return TarArchive(stream, limits, gzipped=False)
    for signature, name in _OTHERS:
        if head.startswith(signature):
            raise ArchiveRefused(f"The file is {name}; {_ALLOWED}.")
    raise ArchiveRefused(f"The file is not an archive, whatever its name says; {_ALLOWED}.")


def _has_tar_checksum(head: bytes) -> bool:
    """True for the header of an archive older than "ustar", which has no signature but its checksum."""
    if len(head) < 512 or not head[148:156].strip(b"\x00 ").isdigit():
        return False
    try:
        return int(head[148:156].strip(b"\x00 "), 8) == 256 + sum(head[:148]) + sum(head[156:])
    except ValueError:
        return False
