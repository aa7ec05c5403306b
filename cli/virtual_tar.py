"""A folder as one tar archive that is never made: its length is known beforehand, its bytes are read where they are asked for."""

import bisect
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import ThawError

BLOCK = 512
END = 2 * BLOCK


@dataclass(frozen=True)
class Sent:
    """One file to be sent.

    Attributes:
        path: on this machine.
        name: relative path with forward slashes, as the class rules read it.
        size: bytes.
        seconds: when it was changed last, whole seconds since 1970.
    """

    path: Path
    name: str
    size: int
    seconds: int = 0


class Source(Protocol):
    """Bytes that can be read from anywhere, again and again."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the end."""


class OneFile:
    """A file as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = _size(path)

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`."""
        return _bytes_of(self._path, self.size, start, min(length, self.size - start))


class VirtualTar:
    """Files below a folder as one archive; names that are long or not ASCII stand in pax headers."""

    def __init__(self, files: Sequence[Sent]) -> None:
        self._files = files
        self._starts = [0]
        for one in files:
            self._starts.append(self._starts[-1] + len(_head(one)) + _padded(one.size))
        self.size = self._starts[-1] + END

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`."""
        end = min(start + length, self.size)
        parts = []
        index = bisect.bisect_right(self._starts, start) - 1
        while index < len(self._files) and self._starts[index] < end:
            begins = self._starts[index]
            parts.append(self._part(self._files[index], max(0, start - begins), end - begins))
            index += 1
        filled = sum(len(part) for part in parts)
        return b"".join([*parts, bytes(end - start - filled)])

    def _part(self, one: Sent, first: int, last: int) -> bytes:
        """Header, bytes and padding of one file, from `first` to `last` of them."""
        head = _head(one)
        tail = len(head) + one.size
        whole = len(head) + _padded(one.size)
        found = [head[first:last]]
        if first < tail and last > len(head):
            begin = max(0, first - len(head))
            found.append(_bytes_of(one.path, one.size, begin, min(last - len(head), one.size) - begin))
        found.append(bytes(max(0, min(last, whole) - max(first, tail))))
        return b"".join(found)


def _head(one: Sent) -> bytes:
    info = tarfile.TarInfo(one.name)
    info.size, info.mtime = one.size, one.seconds
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ThawError(f"{path} cannot be read: {error.strerror}.") from error


def _bytes_of(path: Path, size: int, start: int, length: int) -> bytes:
    """Some bytes of a file.

    Raises:
        ThawError: it cannot be read, or is not as large as it was.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            found = file.read(length)
    except OSError as error:
        raise ThawError(f"{path} cannot be read: {error.strerror}.") from error
    if len(found) < length or _size(path) != size:
        raise ThawError(f"{path} has changed while it was being sent. Try again.")
    return found
