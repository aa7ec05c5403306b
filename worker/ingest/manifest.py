"""A CSV manifest `filename,class_name[,split][,group][,keep_split]` at the top of the tree overrides the folders.

"At the top" is right in the upload, or in the folder around everything. File names are relative to the manifest's own folder; where no
such file exists, a name without folders is looked for anywhere in the upload and taken if it is unique. Pictures that the manifest does
not list are skipped, and the receipt says so: a folder beside it (`images/`) is no class. Separators may be `,` `;` or tab.
`yes` in `keep_split` keeps a picture in its split although others of its group are elsewhere, or its class lacks a split: exports say so,
because a person may have made their version like that.
"""

import csv
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import StringIO

from core.errors import UploadRejected
from core.tables import Split
from worker.ingest.entries import Code, Refusal, shown_path
from worker.ingest.folders import LONGEST_CLASS_NAME, SPLIT_NAMES, Place

LARGEST_BYTES = 50_000_000
_REQUIRED = ("filename", "class_name")


@dataclass(frozen=True)
class LineRefusal:
    """One line that cannot be used; `line` counts from 1, the header included."""

    line: int
    sentence: str


@dataclass
class Manifest:
    """What a manifest says, by path inside the upload."""

    path: str
    places: dict[str, Place] = field(default_factory=dict)
    refused: list[LineRefusal] = field(default_factory=list)

    def place(self, path: str) -> Place | Refusal:
        """Class, split and group of one path."""
        found = self.places.get(path)
        if found is None:
            return Refusal(Code.NOT_IN_MANIFEST, f'Not listed in the manifest "{self.path}".', skipped=True)
        return found


def may_be_manifest(path: str, wrapper: tuple[str, ...]) -> bool:
    """True for a CSV file right at the top, or right in the folder around everything."""
    levels = path.split("/")
    return levels[-1].lower().endswith(".csv") and levels[:-1] in ([], list(wrapper), list(wrapper[: len(levels) - 1]))


def read_manifest(path: str, body: bytes, pictures: Iterable[str], *, most_lines: int) -> Manifest | None:
    """Read a CSV file; None when it is no manifest (its header lacks `filename` or `class_name`).

    Args:
        path: where it lies in the upload.
        body: its bytes.
        pictures: every path of the upload that may be a picture.
        most_lines: lines beyond this reject the upload.

    Raises:
        UploadRejected: a manifest that is not UTF-8 text, or has too many lines.
    """
    header = body[:4096].lower()
    if not all(name.encode() in header for name in _REQUIRED):
        return None
    if len(body) > LARGEST_BYTES:
        raise UploadRejected(
            f'The manifest "{path}" has {len(body) / 1e6:.0f} MB; at most {LARGEST_BYTES / 1e6:g} MB are allowed.'
        )
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UploadRejected(f'The manifest "{path}" is not UTF-8 text. Save it as CSV UTF-8.') from error
    lines = _lines(text, path)
    columns = next(lines, None)
    if columns is None or not set(_REQUIRED) <= set(columns[1]):
        return None
    manifest = Manifest(path)
    names = _Names(path, pictures)
    for line, row in lines:
        if line > most_lines + 1:
            raise UploadRejected(f'The manifest "{path}" has more than {most_lines:,} lines, the most that is allowed.')
        _read_line(manifest, names, line, dict(zip(columns[1], row, strict=False)))
    return manifest


def _lines(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = [unicodedata.normalize("NFC", cell.strip()) for cell in row]
                yield reader.line_num, [cell.lower() for cell in cells] if reader.line_num == 1 else cells
    except csv.Error as error:
        raise UploadRejected(f'The manifest "{path}" is no valid CSV near line {reader.line_num}: {error}.') from error


class _Names:
    """Finds the path that a line of the manifest means."""

    def __init__(self, manifest_path: str, pictures: Iterable[str]) -> None:
        self._folder = manifest_path.rpartition("/")[0]
        self._paths: set[str] = set()
        self._by_name: dict[str, str | None] = {}
        for path in pictures:
            self._paths.add(path)
            name = path.rpartition("/")[2]
            self._by_name[name] = None if name in self._by_name else path

    def find(self, filename: str) -> str | None:
        asked = "/".join(level for level in filename.replace("\\", "/").split("/") if level not in {"", "."})
        for candidate in (f"{self._folder}/{asked}" if self._folder else asked, asked):
            if candidate in self._paths:
                return candidate
        return self._by_name.get(asked)


def _read_line(manifest: Manifest, names: _Names, line: int, cells: dict[str, str]) -> None:
    filename, class_name = cells.get("filename", ""), cells.get("class_name", "")
    split_name, group = cells.get("split", ""), cells.get("group", "") or None
    path = names.find(filename)
    problem = None
    if not filename or not class_name:
        problem = f"{'filename' if not filename else 'class_name'} is empty."
    elif len(class_name) > LONGEST_CLASS_NAME or shown_path(class_name) != class_name:
        problem = f"The class name must have at most {LONGEST_CLASS_NAME} characters and no control characters."
    elif group is not None and len(group) > 255:
        problem = f"The group has {len(group)} characters; at most 255 are allowed."
    elif split_name and split_name.lower() not in SPLIT_NAMES:
        problem = f'There is no split "{shown_path(split_name)[:40]}"; allowed are train, validation, test, or nothing.'
    elif path is None:
        problem = f'There is no picture "{shown_path(filename)[:200]}" in the upload (or several have that name).'
    elif path in manifest.places:
        problem = f'"{shown_path(filename)[:200]}" was listed before; the first line counts.'
    if problem or path is None:
        manifest.refused.append(LineRefusal(line, problem or ""))
        return
    split: Split | None = SPLIT_NAMES[split_name.lower()] if split_name else None
    keeps = split is not None and cells.get("keep_split", "").lower() == "yes"
    manifest.places[path] = Place(class_name, split, group, keeps)
