"""Whatever bytes an archive has, the reader refuses them with a sentence or keeps true bytes under safe names; no other error comes.

`THAW_TEST_EXAMPLES=20000 pytest tests/worker/ingest/test_claims.py` tries harder than the suite does.
"""

import contextlib
import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ArchiveRefused
from tests.worker.ingest.corpus import ZipEntry, classes, make_zip, tarred, zipped
from worker.ingest.archive import open_archive
from worker.ingest.entries import ArchiveLimits, EntryRefused

EXAMPLES = int(os.environ.get("THAW_TEST_EXAMPLES", "300"))
FILES = classes(["roses", "tulips"])
WHOLE = [zipped(FILES), tarred(FILES), tarred(FILES, mode="w:gz"), make_zip([ZipEntry(b"a/b.jpg", b"x" * 300)])]
often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every example writes anew."""
    return tmp_path_factory.mktemp("claims") / "x.zip"


def read(path: Path, body: bytes) -> Iterator[tuple[str, bytes]]:
    """What is kept of an archive; nothing is where it is refused."""
    path.write_bytes(body)
    with contextlib.suppress(ArchiveRefused), open_archive(path, ArchiveLimits()) as archive:
        for _, entry, chunks in archive.contents():
            with contextlib.suppress(EntryRefused):
                if chunks is not None:
                    yield entry.path, b"".join(chunks)


def check_name(name: str) -> None:
    """A name that may be shown, and never leads anywhere."""
    assert not name.startswith("/")
    assert not {"..", ".", ""} & set(name.split("/"))
    assert not any(ord(one) < 32 or one in "\u202e\x7f" for one in name)
    assert len(name) <= 1024


texts = st.text(min_size=1, max_size=30).map(lambda text: text.encode("utf-8", "ignore") or b"x")
names = st.one_of(
    texts, st.binary(min_size=1, max_size=20), st.sampled_from([b"../a", b"/a", b"a/../b", b"a//b", b"C:\\a"])
)
numbers = st.one_of(st.none(), st.integers(0, 2**32 - 1))
extras = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.builds(lambda kind, body: kind + len(body).to_bytes(2, "little") + body,
              st.sampled_from([b"\x01\x00", b"\x75\x70"]), st.binary(max_size=28)),
)  # fmt: skip
zip_entries = st.builds(
    ZipEntry,
    name=names,
    body=st.binary(max_size=200),
    method=st.sampled_from([0, 8, 8, 12]),
    flags=st.sampled_from([0, 0, 0, 1, 0x800]),
    size=st.one_of(numbers, st.just(2**32 - 1)),
    crc=numbers,
    mode=st.sampled_from([0o100644, 0o100644, 0o120777, 0o040755, 0]),
    local_name=st.one_of(st.none(), names),
    offset=st.one_of(st.none(), st.none(), st.integers(0, 1000), st.just(2**32 - 1)),
    extra=extras,
)


@often
@given(
    claims=st.lists(zip_entries, max_size=6),
    count=st.one_of(st.none(), st.integers(0, 10), st.just(0xFFFF)),
    comment=st.binary(max_size=30),
)
def test_whatever_a_zip_claims_only_true_bytes_under_safe_names_are_kept(
    claims: list[ZipEntry], count: int | None, comment: bytes, path: Path
) -> None:
    true = {one.body for one in claims}
    for name, body in read(path, make_zip(claims, count=count, comment=comment)):
        assert body in true
        check_name(name)


@dataclass
class TarEntry:
    """A header as a tar archive claims it, and what stands behind it; only its checksum is true."""

    name: bytes
    body: bytes
    kind: bytes
    size: bytes | None
    prefix: bytes
    magic: bytes

    def packed(self) -> bytes:
        """Its blocks."""
        block = bytearray(512)
        for at, value in (
            (0, self.name[:100]),
            (124, self.size if self.size is not None else b"%011o\0" % len(self.body)),
            (156, self.kind),
            (257, self.magic),
            (345, self.prefix[:155]),
        ):
            block[at : at + len(value)] = value
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + self.body + bytes(-len(self.body) % 512)


def pax_record(key: bytes, value: bytes, length: bytes | None) -> bytes:
    """A record of an extended header; its length may be a lie."""
    if length is not None:
        return length + b" " + key + b"=" + value + b"\n"
    rest = len(key) + len(value) + 3
    whole = rest + len(str(rest))
    return b"%d %s=%s\n" % (rest + len(str(whole)), key, value)


lengths = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.integers(0, 2000).map(lambda one: str(one).encode()),
    st.integers(1, 6000).map(lambda zeros: b"0" * zeros + b"99"),
    st.integers(1, 6000).map(lambda nines: b"0000000099" + b"9" * nines),
    st.binary(max_size=4),
)
keys = st.sampled_from([b"path", b"path", b"size", b"size", b"GNU.sparse.map", b"mtime", b"linkpath"])
values = st.one_of(names, st.integers(-1, 10**20).map(lambda one: str(one).encode()), st.binary(max_size=30))
pax_bodies = st.lists(st.builds(pax_record, keys, values, lengths), max_size=3).map(b"".join)
sizes = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.integers(0, 2000).map(lambda one: b"%011o\0" % one),
    st.binary(max_size=12),
    st.sampled_from(
        [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80" + b"\0" * 9 + b"\x01\0", b"-1\0", b"1_0\0"]
    ),
)
magics = st.sampled_from([b"ustar\x0000", b"ustar\x0000", b"ustar  \0", b""])
plain_entries = st.builds(
    TarEntry,
    name=names,
    body=st.binary(max_size=20).map(lambda body: body * 40),
    kind=st.sampled_from([b"0", b"0", b"0", b"\0", b"7", b"1", b"2", b"3", b"5", b"6", b"S", b"z"]),
    size=sizes,
    prefix=st.one_of(st.just(b""), names),
    magic=magics,
)
extensions = st.builds(
    TarEntry,
    name=st.just(b"pax"),
    body=st.one_of(pax_bodies, pax_bodies, st.binary(max_size=60), names),
    kind=st.sampled_from([b"x", b"x", b"x", b"g", b"L", b"K"]),
    size=sizes,
    prefix=st.just(b""),
    magic=magics,
)


@often
@given(
    claims=st.lists(st.one_of(plain_entries, plain_entries, extensions), min_size=1, max_size=6),
    ends=st.sampled_from([0, 512, 1024, 1024, 1024, 10_240]),
    packed=st.booleans(),
)
def test_whatever_a_tar_claims_only_its_own_bytes_under_safe_names_are_kept(
    claims: list[TarEntry], ends: int, packed: bool, path: Path
) -> None:
    whole = b"".join(one.packed() for one in claims) + bytes(ends)
    for name, body in read(path, gzip.compress(whole, 1) if packed else whole):
        assert body in whole
        check_name(name)


@often
@given(
    body=st.sampled_from(WHOLE),
    damage=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    share=st.floats(0.2, 1),
)
def test_damage_anywhere_is_refused_or_harmless(
    body: bytes, damage: list[tuple[float, bytes]], share: float, path: Path
) -> None:
    wrong = bytearray(body)
    for where, what in damage:
        at = int(where * len(wrong))
        wrong[at : at + len(what)] = what
    for name, _ in read(path, bytes(wrong[: max(1, int(len(wrong) * share))])):
        check_name(name)
