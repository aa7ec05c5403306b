"""Archives, honest and hostile: read entry by entry, refused with one sentence, nothing ever written under a foreign name."""

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import ArchiveRefused
from tests.worker.ingest import corpus
from tests.worker.ingest.corpus import ZipEntry, make_zip, tarred, zipped
from worker.ingest.archive import open_archive
from worker.ingest.entries import ArchiveLimits, Code, EntryRefused

Write = Callable[[bytes], Path]
FILES = {"roses/a.jpg": b"rose" * 1000, "tulips/b.jpg": b"tulip", "tulips/empty.jpg": b""}


DEFAULT = ArchiveLimits()
RATIO_BOMB = [ZipEntry(b"a/%d.jpg" % number, bytes(20_000_000)) for number in range(10)]
ENTRY_BOMB = [ZipEntry(b"a/%d.jpg" % number, method=0) for number in range(100_001)]


def read_all(path: Path, limits: ArchiveLimits = DEFAULT) -> dict[str, bytes | str]:
    """Path -> bytes, or the code of its refusal."""
    found: dict[str, bytes | str] = {}
    with open_archive(path, limits) as archive:
        for _, entry, chunks in archive.contents():
            if chunks is None:
                assert entry.refusal is not None
                found[entry.path] = str(entry.refusal.code)
                continue
            try:
                found[entry.path] = b"".join(chunks)
            except EntryRefused as refused:
                found[entry.path] = str(refused.refusal.code)
    return found


def refusal(path: Path, limits: ArchiveLimits = DEFAULT) -> str:
    """The sentence with which the whole archive is refused, in time."""
    began = time.process_time()  # not the clock on the wall: this machine may be busy
    with pytest.raises(ArchiveRefused) as caught:
        read_all(path, limits)
    assert time.process_time() - began < 2.0
    assert caught.value.message.endswith(".")
    return caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        zipped(FILES),
        tarred(FILES),
        tarred(FILES, mode="w:gz"),
        tarred(FILES, format_number=tarfile.GNU_FORMAT),
        tarred(FILES, format_number=tarfile.USTAR_FORMAT),
    ],
    ids=["zip", "pax", "tgz", "gnu", "ustar"],
)
def test_an_honest_archive_is_read_whole(body: bytes, write_file: Write) -> None:
    assert read_all(write_file(body)) == FILES


@pytest.mark.parametrize("body", [zipped(FILES), tarred(FILES), tarred(FILES, mode="w:gz")])
def test_reading_may_begin_anywhere(body: bytes, write_file: Write) -> None:
    with open_archive(write_file(body), ArchiveLimits()) as archive:
        assert [(number, entry.path) for number, entry, _ in archive.contents(1)] == [
            (1, "tulips/b.jpg"),
            (2, "tulips/empty.jpg"),
        ]


def test_folders_are_not_listed(write_file: Write) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("roses")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert read_all(write_file(make_zip([ZipEntry(b"roses/"), ZipEntry(b"roses/a.jpg", b"x")]))) == {
        "roses/a.jpg": b"x"
    }
    assert read_all(write_file(out.getvalue())) == {}


def test_a_zip64_archive_is_read(write_file: Write) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("roses/a.jpg", "w", force_zip64=True) as entry:
        entry.write(b"rose")
    assert read_all(write_file(out.getvalue())) == {"roses/a.jpg": b"rose"}


def test_sizes_and_offsets_of_zip64_come_from_the_extra_field(write_file: Write) -> None:
    body = bytearray(make_zip([ZipEntry(b"a/b.jpg", b"rose", method=0, extra=struct.pack("<HH3Q", 1, 24, 4, 4, 0))]))
    at = body.find(b"PK\x01\x02")
    body[at + 20 : at + 28] = b"\xff" * 8
    body[at + 42 : at + 46] = b"\xff" * 4
    assert read_all(write_file(bytes(body))) == {"a/b.jpg": b"rose"}


def test_a_zip64_end_record_is_followed(write_file: Write) -> None:
    body = make_zip([ZipEntry(b"a/b.jpg", b"rose")])
    end = body.rfind(b"PK\x05\x06")
    size, start = struct.unpack_from("<2L", body, end + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert read_all(write_file(body[:end] + record + locator + tail)) == {"a/b.jpg": b"rose"}


# names


@pytest.mark.parametrize(
    "name",
    [
        b"../../evil.jpg",
        b"a/../../evil.jpg",
        b"/etc/evil.jpg",
        b"C:\\evil.jpg",
        b"..\\evil.jpg",
        b"\\\\host\\share\\evil.jpg",
    ],
)
def test_a_path_that_leaves_the_archive_is_refused_and_the_rest_is_read(name: bytes, write_file: Write) -> None:
    found = read_all(write_file(make_zip([ZipEntry(name, b"evil"), ZipEntry(b"roses/a.jpg", b"rose")])))
    assert sorted(map(str, found.values())) == sorted([Code.UNSAFE_PATH, "b'rose'"])


def test_a_zip_slip_in_a_tar_is_refused(write_file: Write) -> None:
    assert read_all(write_file(tarred({"../evil.jpg": b"x", "a/b.jpg": b"y"}))) == {
        "../evil.jpg": Code.UNSAFE_PATH,
        "a/b.jpg": b"y",
    }


def test_backslashes_of_windows_are_levels(write_file: Write) -> None:
    assert read_all(write_file(make_zip([ZipEntry(b"roses\\a.jpg", b"x")]))) == {"roses/a.jpg": b"x"}


@pytest.mark.parametrize("bad", ["\x00", "\n", "\x1b", "\x7f", "\x85", "\u202e", "\u2066"])
def test_control_characters_in_a_name_are_refused_and_spelled_out(bad: str, write_file: Write) -> None:
    found = read_all(write_file(make_zip([ZipEntry(f"a/x{bad}y.jpg".encode(), b"x")])))
    assert found == {f"a/x\\x{ord(bad):02x}y.jpg": Code.CONTROL_CHARACTERS}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"a/" + b"x" * 1100 + b".jpg", Code.NAME_TOO_LONG),
        (b"a/" * 40 + b"b.jpg", Code.TOO_DEEP),
        (b"./", Code.BAD_NAME),
    ],
)
def test_names_beyond_measure_are_refused(name: bytes, code: Code, write_file: Write) -> None:
    found = read_all(write_file(make_zip([ZipEntry(name, b"x")])))
    assert list(found.values()) == [code]
    assert all(len(path) <= 1024 for path in found)


@pytest.mark.parametrize("name", ["розы/цвет.jpg", "バラ/写真.jpg", "ورود/أ.jpg", "🌹/é.jpg"])
def test_names_of_any_alphabet_are_kept(name: str, write_file: Write) -> None:
    assert read_all(write_file(zipped({name: b"x"}))) == {name: b"x"}
    assert read_all(write_file(make_zip([ZipEntry(name.encode(), b"x")]))) == {name: b"x"}  # UTF-8 without the flag
    assert read_all(write_file(tarred({name: b"x"}))) == {name: b"x"}


def test_a_name_of_code_page_437_is_read(write_file: Write) -> None:
    assert read_all(write_file(make_zip([ZipEntry("Blüte/é.jpg".encode("cp437"), b"x")]))) == {"Blüte/é.jpg": b"x"}


def test_a_name_marked_as_utf8_that_is_not_is_refused(write_file: Write) -> None:
    assert list(read_all(write_file(make_zip([ZipEntry(b"a/\xff.jpg", b"x", flags=0x800)]))).values()) == [
        Code.BAD_NAME
    ]


def test_the_unicode_path_field_wins_where_its_checksum_fits(write_file: Write) -> None:
    extra = struct.pack("<BL", 1, zlib.crc32(b"a/?.jpg")) + "a/バ.jpg".encode()
    entry = ZipEntry(b"a/?.jpg", b"x", extra=struct.pack("<HH", 0x7075, len(extra)) + extra)
    assert read_all(write_file(make_zip([entry]))) == {"a/バ.jpg": b"x"}


def test_names_are_composed(write_file: Write) -> None:
    assert list(read_all(write_file(zipped({"Blu\u0308te/a.jpg": b"x"})))) == ["Bl\u00fcte/a.jpg"]


def test_the_same_path_twice_counts_once(write_file: Write) -> None:
    body = make_zip(
        [ZipEntry(b"a/b.jpg", b"first"), ZipEntry(b"a/./b.jpg", b"second"), ZipEntry(b"a/B.jpg", b"case twin")]
    )
    with open_archive(write_file(body), ArchiveLimits()) as archive:
        codes = [(entry.path, entry.refusal and entry.refusal.code) for entry in archive.entries]
    assert codes == [("a/b.jpg", None), ("a/b.jpg", Code.DUPLICATE_NAME), ("a/B.jpg", None)]


# kinds of entries


@pytest.mark.parametrize(
    ("mode", "code"), [(0o120777, Code.LINK), (0o020666, Code.SPECIAL_FILE), (0o010666, Code.SPECIAL_FILE)]
)
def test_links_and_devices_in_a_zip_are_refused(mode: int, code: Code, write_file: Write) -> None:
    assert read_all(write_file(make_zip([ZipEntry(b"a/l.jpg", b"/etc/passwd", mode=mode)]))) == {"a/l.jpg": code}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (tarfile.SYMTYPE, Code.LINK),
        (tarfile.LNKTYPE, Code.LINK),
        (tarfile.CHRTYPE, Code.SPECIAL_FILE),
        (tarfile.FIFOTYPE, Code.SPECIAL_FILE),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, code: Code, write_file: Write) -> None:
    assert read_all(write_file(corpus.tar_with(corpus.link("a/l.jpg", "/etc/passwd", kind)))) == {"a/l.jpg": code}


def test_an_archive_inside_an_archive_is_not_opened(write_file: Write) -> None:
    assert read_all(write_file(zipped({"a/inner.zip": zipped(FILES)}))) == {"a/inner.zip": Code.NESTED_ARCHIVE}


def test_an_encrypted_entry_is_refused_and_the_rest_is_read(write_file: Write) -> None:
    body = make_zip([ZipEntry(b"a/secret.jpg", b"x", flags=1), ZipEntry(b"a/open.jpg", b"y")])
    assert read_all(write_file(body)) == {"a/secret.jpg": Code.ENCRYPTED, "a/open.jpg": b"y"}


def test_an_encrypted_archive_is_refused(write_file: Write) -> None:
    assert "encrypted" in refusal(write_file(make_zip([ZipEntry(b"a/secret.jpg", b"x", flags=1)])))


def test_an_unknown_compression_is_refused(write_file: Write) -> None:
    assert read_all(write_file(make_zip([ZipEntry(b"a/b.jpg", b"x", method=98)]))) == {
        "a/b.jpg": Code.UNKNOWN_COMPRESSION
    }


# lies and bombs


def test_an_entry_that_unpacks_to_more_than_it_says_is_refused(write_file: Write) -> None:
    assert read_all(write_file(make_zip([ZipEntry(b"a/b.jpg", bytes(5_000_000), size=10)]))) == {
        "a/b.jpg": Code.DAMAGED_ENTRY
    }


def test_a_wrong_checksum_is_refused(write_file: Write) -> None:
    assert read_all(write_file(make_zip([ZipEntry(b"a/b.jpg", b"rose", crc=1)]))) == {"a/b.jpg": Code.DAMAGED_ENTRY}


def test_a_name_that_differs_between_entry_and_directory_is_refused(write_file: Write) -> None:
    body = make_zip([ZipEntry(b"a/b.jpg", b"rose", local_name=b"a/c.jpg")])
    assert read_all(write_file(body)) == {"a/b.jpg": Code.DAMAGED_ENTRY}


def test_overlapping_entries_are_refused(write_file: Write) -> None:
    kernel = ZipEntry(b"a/0.jpg", bytes(1_000_000))
    again = [ZipEntry(f"a/{number}.jpg".encode(), bytes(1_000_000), offset=0) for number in range(1, 50)]
    assert "overlap" in refusal(write_file(make_zip([kernel, *again])))


def test_quoted_overlap_is_refused(write_file: Write) -> None:
    """The variant in which each entry's stored bytes hold the next entry's header."""
    inner = make_zip([ZipEntry(b"a/2.jpg", bytes(1000))])
    outer = ZipEntry(b"a/1.jpg", inner[: inner.find(b"PK\x01\x02")], method=0)
    second = ZipEntry(b"a/2.jpg", bytes(1000), offset=30 + len(b"a/1.jpg"))
    assert "overlap" in refusal(write_file(make_zip([outer, second])))


def test_a_bomb_by_ratio_is_refused_in_a_zip(write_file: Write) -> None:
    entries = [ZipEntry(f"a/{number}.jpg".encode(), bytes(10_000_000)) for number in range(12)]
    assert "bomb" in refusal(write_file(make_zip(entries)))


def test_a_bomb_by_ratio_is_refused_in_a_tar(write_file: Write) -> None:
    body = tarred({f"a/{number}.jpg": bytes(10_000_000) for number in range(12)}, mode="w:gz")
    assert "bomb" in refusal(write_file(body))


def test_one_huge_entry_is_refused_without_being_read(write_file: Write) -> None:
    limits = ArchiveLimits(image_bytes=1000)
    for body in (zipped({"a/b.jpg": bytes(1001)}), tarred({"a/b.jpg": bytes(1001)})):
        assert read_all(write_file(body), limits) == {"a/b.jpg": Code.TOO_LARGE}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpacked_bytes_have_a_limit(pack: Callable[[dict[str, bytes]], bytes], write_file: Write) -> None:
    body = pack({f"a/{number}.jpg": bytes(100_000) for number in range(20)})
    assert "allowed" in refusal(write_file(body), ArchiveLimits(unpacked_bytes=1_000_000, entries=100))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_bomb_by_entries_is_refused(pack: Callable[[dict[str, bytes]], bytes], write_file: Write) -> None:
    body = pack({f"{number}": b"" for number in range(25)})
    assert "at most 10" in refusal(write_file(body), ArchiveLimits(entries=10)).replace("more than", "at most")


def test_entries_are_counted_even_when_the_end_record_lies(write_file: Write) -> None:
    body = make_zip([ZipEntry(f"{number}".encode()) for number in range(25)], count=2)
    assert "at most 10" in refusal(write_file(body), ArchiveLimits(entries=10))
    assert "contradicts" in refusal(write_file(body))


def test_more_than_a_hundred_thousand_entries_are_refused_in_time(write_file: Write) -> None:
    path = write_file(make_zip(ENTRY_BOMB, count=0))
    assert "100,001 entries" in refusal(path)


def test_an_archive_over_its_limit_is_not_opened(write_file: Write) -> None:
    assert "GB" in refusal(write_file(zipped(FILES)), ArchiveLimits(archive_bytes=100))


def test_a_huge_extension_header_is_refused(write_file: Write) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8_000_000_000
    assert "header of 8,000,000,000 bytes" in refusal(write_file(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


@pytest.mark.parametrize("length", [b"0000999999" + b"9" * 5000, b"9" * 5000, b"0", b"-9", b""])
def test_a_record_that_lies_about_its_length_is_refused(length: bytes, write_file: Write) -> None:
    info = tarfile.TarInfo("x")
    body = (length + b" path=a\n").ljust(1_000_000, b"x")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    padding = bytes(-len(body) % 512)
    said = refusal(write_file(info.tobuf(tarfile.GNU_FORMAT) + body + padding + tarred(FILES)))
    assert "damaged" in said


def test_a_damaged_extension_header_is_refused(write_file: Write) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 20
    assert "damaged" in refusal(write_file(info.tobuf() + b"99999 path=a\n".ljust(512, b"\x00")))


# what is no archive, or not all of it


def test_what_is_no_archive_is_refused(write_file: Write) -> None:
    assert "not an archive" in refusal(write_file(b"hello" * 200))
    assert "not an archive" in refusal(write_file(corpus.picture(1)))


def test_an_empty_file_is_refused(write_file: Write) -> None:
    assert "0 bytes" in refusal(write_file(b""))


@pytest.mark.parametrize(
    ("head", "name"), [(b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"Rar!\x1a\x07", "RAR"), (b"BZh9", "bzip2")]
)
def test_another_kind_of_archive_is_named(head: bytes, name: str, write_file: Write) -> None:
    assert name in refusal(write_file(head + bytes(1000)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("mode", ["zip", "w", "w:gz"])
def test_a_truncated_archive_is_refused(mode: str, share: float, write_file: Write) -> None:
    files = {f"a/{number}.jpg": corpus.picture(number, "BMP") for number in range(8)}
    body = zipped(files) if mode == "zip" else tarred(files, mode=mode)
    if mode == "w":
        body = body[: body.rstrip(b"\x00").__len__()]  # the padding at the end may go without harm
    assert refusal(write_file(body[: int(len(body) * share)]))


def test_a_picture_that_is_also_an_archive_is_not_opened_as_one(write_file: Write) -> None:
    assert refusal(write_file(corpus.picture(1) + zipped(FILES)))
    assert "foreign bytes" in refusal(write_file(make_zip([ZipEntry(b"a/b.jpg", b"x")], before=b"PK\x03\x04 stub ")))


def test_a_split_archive_is_refused(write_file: Write) -> None:
    assert "split" in refusal(write_file(b"PK\x07\x08" + zipped(FILES)))


def test_garbage_after_a_gzipped_tar_is_ignored(write_file: Write) -> None:
    assert read_all(write_file(tarred(FILES, mode="w:gz") + bytes(100))) == FILES


def test_a_gzip_of_several_members_is_read(write_file: Write) -> None:
    body = tarred(FILES)
    assert read_all(write_file(gzip.compress(body[:1000]) + gzip.compress(body[1000:]))) == FILES


def test_a_gzip_of_no_tar_is_refused(write_file: Write) -> None:
    assert refusal(write_file(gzip.compress(b"hello" * 1000)))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("entries", [RATIO_BOMB, ENTRY_BOMB], ids=["ratio", "entries"])
def test_a_hostile_archive_costs_little_memory(entries: list[ZipEntry], write_file: Write) -> None:
    """Largest resident memory of a whole process that refuses it."""
    path = write_file(make_zip(entries, count=0 if entries is ENTRY_BOMB else None))
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from core.errors import ArchiveRefused
        from worker.ingest.archive import open_archive
        from worker.ingest.entries import ArchiveLimits
        try:
            open_archive(Path({str(path)!r}), ArchiveLimits()).__enter__()
        except ArchiveRefused:
            status = Path("/proc/self/status").read_text()
            print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 200_000
