"""Our own reader of tar archives (POSIX ustar and pax, GNU long names), plain or packed with gzip.

Python's `tarfile` reads extended headers whole into memory, whatever size they declare, and has to be told to be careful.
Here headers are bounded, links and special files are never followed, and unpacked bytes are counted as they come. A tar has no
directory: the pre-flight reads it once from end to end (which also finds one that is cut off), the contents are a second reading.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from core.errors import ArchiveRefused
from worker.ingest.entries import (
    CHUNK,
    ArchiveLimits,
    Code,
    Entry,
    Refusal,
    check_names,
    kind_problem,
    read_name,
    refuse_doubles,
    size_problem,
)

_BLOCK = 512
_LARGEST_EXTENSION = 1 << 20  # bytes of one pax or long-name header
_LONGEST_LENGTH = 10  # digits of the length of a pax record
_FILES = frozenset(b"0\x007")
_LINKS = {ord("1"): "a hard link", ord("2"): "a symbolic link"}
_SPECIAL = {ord("3"): "a device", ord("4"): "a device", ord("6"): "a pipe", ord("S"): "a sparse file"}
_FOLDER = ord("5")


class _Source:
    """Bytes of the tar, unpacked when it is gzipped; counts, and refuses a bomb while it unpacks."""

    def __init__(self, stream: BinaryIO, limits: ArchiveLimits, *, gzipped: bool) -> None:
        self._stream = stream
        self._limits = limits
        self._gzipped = gzipped
        self._unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS) if gzipped else None
        self._packed = b""
        self._ready, self._at = b"", 0  # unpacked bytes, and how many of them were read
        self._read = 0
        self._unpacked = 0
        stream.seek(0)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        parts = []
        while size > 0:
            if self._at == len(self._ready) and not self._fill():
                break
            # from a place, not off the front: that copied the whole rest for every header of 512 bytes
            parts.append(self._ready[self._at : self._at + size])
            self._at += len(parts[-1])
            size -= len(parts[-1])
        return b"".join(parts)

    def _fill(self) -> bool:
        if self._unpacker is None:
            self._ready = self._stream.read(CHUNK)
        else:
            self._ready = self._inflate()
        self._at = 0
        self._unpacked += len(self._ready)
        self._check()
        return bool(self._ready)

    def _inflate(self) -> bytes:
        assert self._unpacker is not None  # noqa: S101 - only called when gzipped
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data or self._packed or self._more()
                if not rest.startswith(b"\x1f\x8b"):  # padding after the last member
                    return b""
                self._unpacker, self._packed = zlib.decompressobj(16 + zlib.MAX_WBITS), rest
            packed = self._packed or self._more()
            try:
                piece = self._unpacker.decompress(packed, CHUNK)
            except zlib.error as error:
                raise _damaged() from error
            self._packed = self._unpacker.unconsumed_tail
            if piece:
                return piece
            if not packed and not self._unpacker.eof:
                raise _cut_off()

    def _more(self) -> bytes:
        packed = self._stream.read(CHUNK)
        self._read += len(packed)
        return packed

    def _check(self) -> None:
        limits = self._limits
        if self._unpacked > limits.unpacked_bytes + limits.entries * 2 * _BLOCK:
            raise ArchiveRefused(
                f"The archive unpacks to more than the {limits.unpacked_bytes / 1e9:g} GB that are allowed."
            )
        if self._gzipped and self._unpacked > limits.ratio_from and self._unpacked > limits.ratio * max(self._read, 1):
            raise ArchiveRefused(
                f"The archive unpacks to more than {limits.ratio} times its size. Pictures never pack like that: this is a bomb."
            )


def _cut_off() -> ArchiveRefused:
    return ArchiveRefused("The tar archive is cut off: it ends in the middle. Make it again, or send it again.")


def _damaged() -> ArchiveRefused:
    return ArchiveRefused("The tar archive is damaged: its bytes do not unpack. Make it again, or send it again.")


@dataclass(frozen=True, slots=True)
class _Header:
    kind: int
    size: int
    name: str


class TarArchive:
    """A tar archive that passed its pre-flight. `entries` lists its files."""

    def __init__(self, stream: BinaryIO, limits: ArchiveLimits, *, gzipped: bool) -> None:
        self._stream = stream
        self._limits = limits
        self._gzipped = gzipped
        found: list[Entry] = []
        source, names = self._source(), 0
        for header in _headers(source, limits):
            found.append(_entry(header, limits))
            names += len(found[-1].path.encode())
            check_names(names, limits)
            _skip(source, _padded(header.size))
        self.entries = list(refuse_doubles(found))

    def _source(self) -> _Source:
        return _Source(self._stream, self._limits, gzipped=self._gzipped)

    def contents(self, first: int = 0) -> Iterator[tuple[int, Entry, Iterator[bytes] | None]]:
        """Every entry from the one numbered `first`, with its bytes in chunks; None where it is refused.

        Chunks left unread are skipped when the next entry is asked for.
        """
        source = self._source()
        for number, header in enumerate(_headers(source, self._limits)):
            entry = self.entries[number]
            body = _Body(source, header.size)
            if number >= first:
                yield number, entry, None if entry.refusal else body.chunks()
            _skip(source, body.left + _padded(header.size) - header.size)


class _Body:
    def __init__(self, source: _Source, size: int) -> None:
        self._source = source
        self.left = size

    def chunks(self) -> Iterator[bytes]:
        while self.left:
            piece = self._source.read(min(CHUNK, self.left))
            if not piece:
                raise _cut_off()
            self.left -= len(piece)
            yield piece


def _headers(source: _Source, limits: ArchiveLimits) -> Iterator[_Header]:
    """Headers of everything but folders. The caller reads or skips the body of each before it asks for the next."""
    count = 0
    extended: dict[str, str] = {}
    while (block := source.read(_BLOCK)) and block.strip(b"\x00"):
        count += 1
        if count > limits.entries * 2:  # each file may have one extension before it
            raise ArchiveRefused(
                f"The archive has more than {limits.entries:,} entries, which is the most that is allowed."
            )
        kind, size = _kind_and_size(block)
        if kind in b"xgLK":
            body = _extension(source, size)
            extended |= _meaning(kind, body)
            continue
        name = extended.get("path") or _short_name(block)
        size = _declared_size(extended, size)
        if "sparse" in extended:
            kind = ord("S")
        extended = {}
        if kind == _FOLDER or (kind in _FILES and name.endswith("/")):
            _skip(source, _padded(size))
            continue
        yield _Header(kind, 0 if kind in _LINKS else size, name)
    if not block and count == 0:
        raise ArchiveRefused("The tar archive is empty.")
    if (
        len(block) < _BLOCK
    ):  # an archive ends with a block of zeros: without it entries may be missing, even if no entry is torn
        raise _cut_off()


def _kind_and_size(block: bytes) -> tuple[int, int]:
    if len(block) < _BLOCK:
        raise _cut_off()
    expected = 256 + sum(block[:148]) + sum(block[156:])
    if _number(block[148:156]) != expected:
        raise _damaged()
    return block[156], _number(block[124:136])


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: base 256
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        text = field.strip(b"\x00 ")
        try:
            value = int(text or b"0", 8)
        except ValueError as error:
            raise _damaged() from error
    if not 0 <= value < 1 << 62:
        raise _damaged()
    return value


def _extension(source: _Source, size: int) -> bytes:
    if size > _LARGEST_EXTENSION:
        raise ArchiveRefused(f"The archive has a header of {size:,} bytes; at most {_LARGEST_EXTENSION:,} are allowed.")
    body = source.read(_padded(size))
    if len(body) < _padded(size):
        raise _cut_off()
    return body[:size]


def _meaning(kind: int, body: bytes) -> dict[str, str]:
    """What an extension says about the next entry: its path, its size, that it is sparse."""
    if kind == ord("L"):
        return {"path": _text(body.rstrip(b"\x00"))}
    if kind != ord("x"):  # global headers speak of times and owners, "K" of a link's target
        return {}
    found: dict[str, str] = {}
    while body.strip(b"\x00"):
        length_text, _, _ = body.partition(b" ")
        if not length_text.isdigit() or len(length_text) > _LONGEST_LENGTH:
            raise _damaged()
        length = int(length_text)
        if not len(length_text) + 2 < length <= len(body):
            raise _damaged()
        key, _, value = body[len(length_text) + 1 : length - 1].partition(b"=")
        body = body[length:]
        if key in {b"path", b"size"}:
            found[key.decode()] = _text(value)
        elif key.startswith(b"GNU.sparse"):
            found["sparse"] = "yes"
    return found


def _declared_size(extended: dict[str, str], size: int) -> int:
    text = extended.get("size")
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _damaged()
    return int(text)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _short_name(block: bytes) -> str:
    name = block[:100].split(b"\x00", 1)[0]
    prefix = block[345:500].split(b"\x00", 1)[0] if block[257:263] == b"ustar\x00" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _entry(header: _Header, limits: ArchiveLimits) -> Entry:
    path, problem = read_name(header.name)
    return Entry(path, header.size, problem or _problem(header, path, limits))


def _problem(header: _Header, path: str, limits: ArchiveLimits) -> Refusal | None:
    if header.kind in _LINKS:
        return Refusal(Code.LINK, f"The entry is {_LINKS[header.kind]}, not a file.")
    if header.kind not in _FILES:
        return Refusal(
            Code.SPECIAL_FILE, f"The entry is {_SPECIAL.get(header.kind, 'of an unknown kind')}, not a file."
        )
    return kind_problem(path) or size_problem(header.size, limits)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _skip(source: _Source, size: int) -> None:
    while size > 0:
        piece = source.read(min(CHUNK, size))
        if not piece:
            raise _cut_off()
        size -= len(piece)
