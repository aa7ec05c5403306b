"""Our own reader of ZIP archives (APPNOTE 6.3.10, Zip64 included).

Python's `zipfile` loads the whole directory before anything can be counted, and before 3.11.14 opens archives whose entries
overlap. Here the directory is read record by record with the limits at hand, and every promise of the directory is checked
against what is really there.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import BinaryIO

from core.errors import ArchiveRefused
from worker.ingest.entries import (
    CHUNK,
    ArchiveLimits,
    Code,
    Entry,
    EntryRefused,
    Refusal,
    check_names,
    kind_problem,
    read_name,
    refuse_doubles,
    size_problem,
)

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_RECORD = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5HL2L2H")
_LONGEST_NAME = 4096  # bytes
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8, _HIDDEN_DIRECTORY = 0x1, 0x800, 0x2000
_KINDS = {
    0o120000: "a symbolic link",
    0o020000: "a device",
    0o060000: "a device",
    0o010000: "a pipe",
    0o140000: "a socket",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an entry's bytes are, as the directory says. Of its name there are length and digest: names may be long and many."""

    offset: int
    packed: int
    size: int
    method: int
    crc: int
    name_length: int
    name_digest: bytes


@dataclass(frozen=True)
class _Directory:
    offset: int
    size: int
    count: int


class ZipArchive:
    """A ZIP archive that passed its pre-flight. `entries` lists its files; `chunks(i)` unpacks one of them."""

    def __init__(self, stream: BinaryIO, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._limits = limits
        directory = _find_directory(stream, limits)
        found = list(_read_directory(stream, directory, limits))
        self._places = [place for _, place in found]
        self.entries = list(refuse_doubles([entry for entry, _ in found]))
        self._ends = _check_overlaps(self._places, directory)
        self._check_totals()

    def contents(self, first: int = 0) -> Iterator[tuple[int, Entry, Iterator[bytes] | None]]:
        """Every entry from the one numbered `first`, with its bytes in chunks; None where it is refused.

        The chunks raise EntryRefused when the entry does not unpack to what it promised.
        """
        for number in range(first, len(self.entries)):
            entry = self.entries[number]
            yield number, entry, None if entry.refusal else self._chunks(number)

    def _chunks(self, number: int) -> Iterator[bytes]:
        place = self._places[number]
        start = _data_start(self._stream, place)
        if start + place.packed > self._ends[number]:
            raise EntryRefused(Code.DAMAGED_ENTRY, "The entry runs into the one after it.")
        crc = size = 0
        for chunk in _unpacked(self._stream, start, place):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
            if size > place.size:
                raise EntryRefused(Code.DAMAGED_ENTRY, "The entry unpacks to more than the archive's directory says.")
            yield chunk
        if size != place.size or crc != place.crc:
            raise EntryRefused(Code.DAMAGED_ENTRY, "The entry's bytes are damaged: its checksum does not fit.")

    def _check_totals(self) -> None:
        unpacked = sum(place.size for place in self._places)
        packed = sum(place.packed for place in self._places)
        if unpacked > self._limits.unpacked_bytes:
            raise ArchiveRefused(
                f"The archive unpacks to {unpacked / 1e9:.1f} GB; at most {self._limits.unpacked_bytes / 1e9:g} GB are allowed."
            )
        if unpacked > self._limits.ratio_from and unpacked > self._limits.ratio * max(packed, 1):
            raise ArchiveRefused(
                f"The archive unpacks to {unpacked // max(packed, 1)} times its size; at most {self._limits.ratio} times is "
                "allowed. Pictures never pack like that: this is a bomb."
            )
        readable = [entry for entry in self.entries if entry.refusal is None]
        if not readable and any(e.refusal and e.refusal.code == Code.ENCRYPTED for e in self.entries):
            raise ArchiveRefused("The archive is encrypted; make one without a password.")


def _cut_off() -> ArchiveRefused:
    return ArchiveRefused(
        "The ZIP archive is cut off or damaged: its directory is missing. Make it again, or send it again."
    )


def _find_directory(stream: BinaryIO, limits: ArchiveLimits) -> _Directory:
    length = stream.seek(0, 2)
    start = max(0, length - _END.size - 0xFFFF)
    stream.seek(start)
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END.size:
        raise _cut_off()
    _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, at)
    end = start + at
    if 0xFFFF in (disk, count) or 0xFFFFFFFF in (size, offset):
        disk, first_disk, count, size, offset, end = _read_end64(stream, end) or (
            disk,
            first_disk,
            count,
            size,
            offset,
            end,
        )
    if disk or first_disk:
        raise ArchiveRefused("The archive is split over several files; make it again as one.")
    if count > limits.entries:
        raise _too_many(count, limits)
    if offset + size > end:
        raise _cut_off()
    # Bytes before the archive (a self-extractor, a polyglot) would shift every offset: we want none.
    if offset + size != end:
        raise ArchiveRefused(
            "The archive has foreign bytes in it (before its files, or before its directory); make it again."
        )
    return _Directory(offset, size, count)


def _read_end64(stream: BinaryIO, end: int) -> tuple[int, int, int, int, int, int] | None:
    if end < _LOCATOR.size:
        return None
    stream.seek(end - _LOCATOR.size)
    signature, _, position, _ = _LOCATOR.unpack(stream.read(_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    if position + _END64.size > end:
        raise _cut_off()
    stream.seek(position)
    signature, _, _, _, disk, first_disk, _, count, size, offset = _END64.unpack(stream.read(_END64.size))
    if signature != b"PK\x06\x06":
        raise _cut_off()
    return disk, first_disk, count, size, offset, position


def _too_many(count: int, limits: ArchiveLimits) -> ArchiveRefused:
    return ArchiveRefused(f"The archive has {count:,} entries; at most {limits.entries:,} are allowed.")


def _read_directory(stream: BinaryIO, where: _Directory, limits: ArchiveLimits) -> Iterator[tuple[Entry, _Place]]:
    count = _count_records(stream, where, limits)
    stream.seek(where.offset)
    for _ in range(count):
        record = _read_record(stream)
        if record is not None:
            yield _entry(record, limits), record.place


def _count_records(stream: BinaryIO, where: _Directory, limits: ArchiveLimits) -> int:
    """Walk over the directory, reading only lengths: a bomb of entries or of names is refused before anything is made of them."""
    stream.seek(where.offset)
    count, at, end, names = 0, where.offset, where.offset + where.size, 0
    while at < end:
        head = stream.read(_RECORD.size)
        if len(head) < _RECORD.size or head[:4] != b"PK\x01\x02":
            raise _cut_off()
        count += 1
        if count > limits.entries:
            raise _too_many(count, limits)
        lengths = struct.unpack_from("<3H", head, 28)
        names += lengths[0]
        check_names(names, limits)
        rest = sum(lengths)
        stream.seek(rest, 1)
        at += _RECORD.size + rest
    if at != end or count != where.count:
        raise ArchiveRefused("The archive's directory contradicts itself: it does not hold as many entries as it says.")
    return count


@dataclass(frozen=True, slots=True)
class _Record:
    place: _Place
    flags: int
    unix_mode: int
    raw_name: bytes
    name: str | None


def _read_record(stream: BinaryIO) -> _Record | None:
    """One record of the directory; None for a folder."""
    head = stream.read(_RECORD.size)
    if len(head) < _RECORD.size or head[:4] != b"PK\x01\x02":
        raise _cut_off()
    fields = _RECORD.unpack(head)
    made_by, flags, method, crc = fields[2], fields[5], fields[6], fields[9]
    packed, size, name_length, extra_length, comment_length = fields[10:15]
    outside, offset = fields[17], fields[18]
    raw_name, extra = stream.read(name_length), stream.read(extra_length)
    if len(raw_name) < name_length or len(extra) < extra_length:
        raise _cut_off()
    stream.seek(comment_length, 1)
    size, packed, offset = _zip64_sizes(extra, size, packed, offset)
    if flags & _HIDDEN_DIRECTORY:
        raise ArchiveRefused("The archive's directory is encrypted; make one without a password.")
    if raw_name.endswith((b"/", b"\\")) and size == 0:
        return None
    mode = outside >> 16 if made_by in {3, 19} else 0  # 3 Unix, 19 macOS: the upper half is st_mode
    place = _Place(offset, packed, size, method, crc, len(raw_name), _digest(raw_name))
    return _Record(place, flags, mode, raw_name, _decoded_name(raw_name, extra, flags))


def _digest(name: bytes) -> bytes:
    return hashlib.sha256(name).digest()[:16]


def _zip64_sizes(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    values = [size, packed, offset]
    body = _extra_field(extra, 0x0001)
    for index, value in enumerate(values):
        if value == 0xFFFFFFFF and body is not None:
            if len(body) < 8:
                raise _cut_off()
            values[index] = struct.unpack_from("<Q", body)[0]
            body = body[8:]
    return values[0], values[1], values[2]


def _extra_field(extra: bytes, wanted: int) -> bytes | None:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _decoded_name(raw: bytes, extra: bytes, flags: int) -> str | None:
    """The name in Unicode; None when it is not in the encoding it declares.

    Without the UTF-8 flag the standard says code page 437. Most tools write UTF-8 all the same, and hardly any other text is
    valid UTF-8 by chance, so that is tried first. The Unicode path field (0x7075) wins where its checksum fits.
    """
    unicode_path = _extra_field(extra, 0x7075)
    if unicode_path is not None and unicode_path[1:5] == struct.pack("<L", zlib.crc32(raw)):
        raw, flags = unicode_path[5:], flags | _UTF8
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None if flags & _UTF8 else raw.decode("cp437")


def _entry(record: _Record, limits: ArchiveLimits) -> Entry:
    place = record.place
    if record.name is None:
        shown = read_name(record.raw_name.decode("utf-8", "replace"))[0]
        return Entry(shown, place.size, Refusal(Code.BAD_NAME, "The name is marked as UTF-8 and is not."))
    path, problem = read_name(record.name)
    if place.name_length > _LONGEST_NAME:
        problem = Refusal(Code.NAME_TOO_LONG, f"The name has {place.name_length} bytes.")
    return Entry(path, place.size, problem or _problem(record, path, limits))


def _problem(record: _Record, path: str, limits: ArchiveLimits) -> Refusal | None:
    kind = _KINDS.get(record.unix_mode & 0o170000)
    if kind is not None:
        code = Code.LINK if "link" in kind else Code.SPECIAL_FILE
        return Refusal(code, f"The entry is {kind}, not a file.")
    if record.flags & _ENCRYPTED:
        return Refusal(Code.ENCRYPTED, "The entry is encrypted; make an archive without a password.")
    if record.place.method not in {_STORED, _DEFLATED}:
        sentence = f"The entry is packed by method {record.place.method}; allowed are 0 (stored) and 8 (deflate)."
        return Refusal(Code.UNKNOWN_COMPRESSION, sentence)
    return kind_problem(path) or size_problem(record.place.size, limits)


def _check_overlaps(places: list[_Place], directory: _Directory) -> list[int]:
    """Where each entry must have ended: the start of the next one.

    Raises:
        ArchiveRefused: two entries share bytes (one picture declared a thousand times is a bomb).
    """
    order = sorted(range(len(places)), key=lambda number: places[number].offset)
    ends = [directory.offset] * len(places)
    for number, following in zip_longest(order, order[1:]):
        end = directory.offset if following is None else places[following].offset
        place = places[number]
        if place.offset + _LOCAL.size + place.name_length + place.packed > end:
            raise ArchiveRefused(
                "Entries of the archive overlap: the same bytes are declared more than once. This is a bomb."
            )
        ends[number] = end
    return ends


def _data_start(stream: BinaryIO, place: _Place) -> int:
    stream.seek(place.offset)
    head = stream.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise EntryRefused(Code.DAMAGED_ENTRY, "The entry is not where the archive's directory says.")
    name_length, extra_length = _LOCAL.unpack(head)[-2:]
    if name_length != place.name_length or _digest(stream.read(name_length)) != place.name_digest:
        raise EntryRefused(Code.DAMAGED_ENTRY, "The entry has another name than in the archive's directory.")
    return place.offset + _LOCAL.size + int(name_length) + int(extra_length)


def _unpacked(stream: BinaryIO, start: int, place: _Place) -> Iterator[bytes]:
    stream.seek(start)
    left = place.packed
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if place.method == _DEFLATED else None
    while left > 0:
        packed = stream.read(min(CHUNK, left))
        if not packed:
            raise EntryRefused(Code.DAMAGED_ENTRY, "The entry is cut off.")
        left -= len(packed)
        if unpacker is None:
            yield packed
        else:
            yield from _inflated(unpacker, packed)


def _inflated(unpacker: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    while True:  # a bounded piece at a time: one packed chunk may unpack to a thousand
        try:
            piece = unpacker.decompress(packed, CHUNK)
        except zlib.error as error:
            raise EntryRefused(Code.DAMAGED_ENTRY, "The entry's packed bytes are damaged.") from error
        packed = unpacker.unconsumed_tail
        if piece:
            yield piece
        if unpacker.eof or (not packed and len(piece) < CHUNK):
            return
