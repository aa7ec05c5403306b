"""What is inside an archive, before anything of it is read: names made safe, refusals worded.

Nothing is ever written under a name that came from an archive; names are only shown, and read for class and split.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from core.errors import ArchiveRefused, ThawError

LONGEST_PATH = 1024  # characters: what the receipt's column holds
DEEPEST = 32  # levels
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
NESTED_ENDINGS = (*ARCHIVE_ENDINGS, ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
AMONG_ARCHIVES = "unnamed.tar"  # what a browser makes of files picked together with archives: no folder of its own
CHUNK = 1 << 18

# C0 and C1 controls, line and paragraph separators, and the marks that make a name read backwards
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DRIVE = re.compile(r"^[A-Za-z]:")


class Code(StrEnum):
    """Why a file of an upload is not simply kept. (Pictures add the reasons of `worker.training.pictures.Reason`.)"""

    UNSAFE_PATH = "unsafe_path"  # absolute, with a drive letter, or climbing out with ".."
    CONTROL_CHARACTERS = "control_characters"  # in the name
    NAME_TOO_LONG = "name_too_long"
    TOO_DEEP = "too_deep"
    BAD_NAME = "bad_name"  # empty, or not in the encoding it declares
    DUPLICATE_NAME = "duplicate_name"  # the same path a second time
    LINK = "link"  # symbolic or hard
    SPECIAL_FILE = "special_file"  # device, pipe, socket, sparse file
    ENCRYPTED = "encrypted"
    UNKNOWN_COMPRESSION = "unknown_compression"
    NESTED_ARCHIVE = "nested_archive"
    TOO_LARGE = "too_large"
    DAMAGED_ENTRY = "damaged_entry"  # its bytes do not unpack, or not to what the directory promised
    JUNK = "junk"  # what operating systems leave behind
    NOT_A_PICTURE = "not_a_picture"  # by its ending: text, tables, code
    MANIFEST = "manifest"  # the CSV that was read
    MANIFEST_LINE = "manifest_line"  # a line of the CSV that cannot be used
    NOT_IN_MANIFEST = "not_in_manifest"
    NO_CLASS_FOLDER = "no_class_folder"
    CLASS_NAME_TOO_LONG = "class_name_too_long"
    DUPLICATE = "duplicate"  # the same bytes again under the same class
    LEAK = "leak"  # the same bytes again, in another split
    LABEL_CONFLICT = "label_conflict"  # the same bytes under two classes
    ARCHIVE_REFUSED = "archive_refused"  # one of several archives of an upload
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TOO_SLOW = "decoder_too_slow"


@dataclass(frozen=True)
class Refusal:
    """A code to count by and a sentence for the person; `skipped` when nothing is wrong with the file itself."""

    code: str
    sentence: str
    skipped: bool = False


class EntryRefused(ThawError):
    """One entry of an archive cannot be read; the others can."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = Refusal(code, sentence)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may cost. The defaults are those of the settings.

    Attributes:
        archive_bytes: size of the archive file.
        unpacked_bytes: sum of its unpacked files.
        entries: files and folders in it.
        name_bytes: of all their names together, which are in memory at once; 250 for each of 100,000 files.
        image_bytes: one unpacked file; larger ones are refused one by one, and never read.
        ratio: unpacked to packed bytes, looked at once `ratio_from` bytes are unpacked. (Photographs are near 1; deflate
            can reach 1,032.)
    """

    archive_bytes: int = 10_000_000_000
    unpacked_bytes: int = 20_000_000_000
    entries: int = 100_000
    name_bytes: int = 25_000_000
    image_bytes: int = 30_000_000
    ratio: int = 100
    ratio_from: int = 100_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive (folders are not listed).

    Attributes:
        path: its name, safe to show: "/" between levels, NFC, no control characters, at most `LONGEST_PATH` characters.
        size: bytes it declares to unpack to.
        refusal: why it will not be read; None when it will.
    """

    path: str
    size: int
    refusal: Refusal | None = None


def read_name(raw: str) -> tuple[str, Refusal | None]:
    """Make a name safe to show, and say what is wrong with it, if anything.

    Backslashes count as "/" (archives made on Windows); empty levels and "." vanish; letters are composed (NFC), so that a
    name from a Mac equals the same name from Linux.
    """
    name = unicodedata.normalize("NFC", raw.replace("\\", "/"))
    levels = [level for level in name.split("/") if level not in {"", "."}]
    shown = shown_path("/".join(levels))
    return shown, _name_problem(name, levels)


def _name_problem(name: str, levels: list[str]) -> Refusal | None:
    if not levels:
        return Refusal(Code.BAD_NAME, "The entry has no name.")
    if name.startswith("/") or _DRIVE.match(name):
        return Refusal(Code.UNSAFE_PATH, "The path is absolute; only paths inside the archive are allowed.")
    if ".." in levels:
        return Refusal(
            Code.UNSAFE_PATH, 'The path climbs out of the archive with ".."; only paths inside it are allowed.'
        )
    if _CONTROL.search(name):
        return Refusal(Code.CONTROL_CHARACTERS, "The name has control characters in it.")
    return _length_problem(name, levels)


def _length_problem(name: str, levels: list[str]) -> Refusal | None:
    if len(name) > LONGEST_PATH:
        return Refusal(Code.NAME_TOO_LONG, f"The path has {len(name)} characters; at most {LONGEST_PATH} are allowed.")
    if len(levels) > DEEPEST:
        return Refusal(Code.TOO_DEEP, f"The path has {len(levels)} levels; at most {DEEPEST} are allowed.")
    return None


def shown_path(path: str) -> str:
    """A path without control characters (they are spelled out) and short enough for the receipt."""
    spelled = _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", path) or "(no name)"
    return spelled if len(spelled) <= LONGEST_PATH else spelled[: LONGEST_PATH - 3] + "..."


def check_names(size: int, limits: ArchiveLimits) -> None:
    """See that the names so far do not take too much memory.

    Raises:
        ArchiveRefused: they do.
    """
    if size > limits.name_bytes:
        allowed = f"at most {limits.name_bytes / 1e6:g} MB are allowed"
        raise ArchiveRefused(
            f"The names of the files in the archive take more memory than a list of pictures needs; {allowed}."
        )


def size_problem(size: int, limits: ArchiveLimits) -> Refusal | None:
    """Say when one file is larger than a picture may be."""
    if size <= limits.image_bytes:
        return None
    allowed = f"at most {limits.image_bytes / 1e6:g} MB are allowed for one picture"
    return Refusal(Code.TOO_LARGE, f"The file has {size / 1e6:.1f} MB; {allowed}.")


def kind_problem(path: str) -> Refusal | None:
    """Say when a file is an archive inside the archive."""
    if path.lower().endswith(NESTED_ENDINGS):
        sentence = "An archive inside an archive is not opened; unpack it first, or upload it by itself."
        return Refusal(Code.NESTED_ARCHIVE, sentence, skipped=True)
    return None


def is_archive_name(path: str) -> bool:
    """True when a received file is to be opened as an archive, by its ending."""
    return path.lower().endswith(ARCHIVE_ENDINGS)


def without_archive_ending(path: str) -> str:
    """`a/roses.tar.gz` becomes `a/roses`."""
    for ending in sorted(ARCHIVE_ENDINGS, key=len, reverse=True):
        if path.lower().endswith(ending) and len(PurePosixPath(path).name) > len(ending):
            return path[: -len(ending)]
    return path


def refuse_doubles(entries: list[Entry]) -> Iterator[Entry]:
    """Refuse every entry whose path was there before: which of the two is meant cannot be known by its name."""
    seen: set[str] = set()
    for entry in entries:
        if entry.refusal is None and entry.path in seen:
            sentence = "Another file has the very same path; the first one counts."
            yield Entry(entry.path, entry.size, Refusal(Code.DUPLICATE_NAME, sentence))
        else:
            yield entry
        seen.add(entry.path)
