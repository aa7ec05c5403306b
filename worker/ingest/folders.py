"""Class and split of a picture, read from its folders.

- The class is the last level that is not a split name. `flowers/train/roses/a.jpg` and `roses/train/a.jpg` are both a rose.
- A level named train/training, val/valid/validation, test/testing (in any case of letters) sets the split; with several, the deepest.
- Folders around everything (`flowers/…`, `dataset/images/…`) are wrappers. A picture that lies right in the wrapper, beside the class
  folders, has no class: it is refused, not put into a class called like the wrapper. The same holds for pictures right in a split
  folder (`flowers/test/1.jpg` where the others are in `flowers/train/roses`).
- One exception: where all class folders lie side by side and one of them is `train` (`vehicles/bus`, `vehicles/car`,
  `vehicles/train`), it is the vehicle. `test` and `val` beside class folders stay splits (of pictures without a class).
- Names are compared composed (NFC) and without space at their ends, else exactly: `Roses` and `roses` are two classes, and the
  receipt says so.
- What operating systems leave behind is skipped and counted, as is what by its ending is text, a table or code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from core.errors import UploadRejected
from core.tables import Split
from worker.ingest.entries import Code, Refusal

SPLIT_NAMES: Mapping[str, Split] = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}
SMALLEST_CLASS = 3
LONGEST_CLASS_NAME = 200  # characters

_JUNK_FOLDERS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
_JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon", "icon\\x0d"})
_NOT_PICTURES = frozenset(
    {
        ".txt",
        ".md",
        ".rst",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".html",
        ".htm",
        ".pdf",
        ".doc",
    }
    | {
        ".docx",
        ".xls",
        ".xlsx",
        ".log",
        ".py",
        ".ipynb",
        ".sh",
        ".bat",
        ".npy",
        ".npz",
        ".mat",
        ".pkl",
        ".h5",
        ".hdf5",
        ".pb",
    }
    | {
        ".tfrecord",
        ".parquet",
        ".db",
        ".sqlite",
        ".ini",
        ".cfg",
        ".lnk",
        ".url",
        ".exe",
        ".dll",
        ".mp4",
        ".mov",
        ".avi",
    }
    | {".mkv", ".mp3", ".wav"}
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture belongs; `split` is None where nobody said. `keeps_split`: although others of its group are elsewhere."""

    class_name: str
    split: Split | None = None
    group: str | None = None
    keeps_split: bool = False


def is_split(level: str) -> bool:
    """True for the name of a split, in any case of letters."""
    return level.strip().lower() in SPLIT_NAMES


def skip_reason(path: str) -> Refusal | None:
    """Why a file is no picture by its name alone: junk, text, a table, code."""
    *folders, name = path.lower().split("/")
    if (
        name in _JUNK_FILES
        or name.startswith((".", "~$"))
        or any(f.startswith(".") or f in _JUNK_FOLDERS for f in folders)
    ):
        return Refusal(Code.JUNK, "Left behind by an operating system or a tool; not a picture.", skipped=True)
    ending = PurePosixPath(name).suffix
    if ending in _NOT_PICTURES:
        return Refusal(Code.NOT_A_PICTURE, f'Not a picture by its ending "{ending}".', skipped=True)
    return None


class FolderRules:
    """The rules above, for one upload. All paths are needed once, to see what is a wrapper."""

    def __init__(self, paths: Iterable[str]) -> None:
        folders = {tuple(path.split("/")[:-1]) for path in paths}
        self.wrapper = _common(folders)
        inside = [folder[len(self.wrapper) :] for folder in folders]
        self._has_classes_inside = any(not is_split(level) for folder in inside for level in folder)
        self._train_is_a_class = _train_is_a_class(inside)

    def place(self, path: str) -> Place | Refusal:
        """Class and split of one path."""
        folders = path.split("/")[:-1]
        if self._train_is_a_class:
            return _checked(Place(folders[-1].strip()))
        levels = folders[len(self.wrapper) :] if self._has_classes_inside else folders
        names = [level.strip() for level in levels if not is_split(level)]
        splits = [SPLIT_NAMES[level.strip().lower()] for level in folders if is_split(level)]
        if not names:
            return Refusal(Code.NO_CLASS_FOLDER, f"No class folder: the file lies {_where(folders)}.")
        return _checked(Place(names[-1], splits[-1] if splits else None))


def _where(folders: list[str]) -> str:
    if not folders:
        return "at the top"
    return f'right in "{folders[-1]}", which is {"a split" if is_split(folders[-1]) else "around the class folders"}'


def _common(folders: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The levels that all folders begin with."""
    if not folders:
        return ()
    lowest, highest = min(folders), max(folders)
    length = 0
    while length < min(len(lowest), len(highest)) and lowest[length] == highest[length]:
        length += 1
    return lowest[:length]


def _train_is_a_class(inside: list[tuple[str, ...]]) -> bool:
    """True for flat class folders of which one is called `train` (and none is another split)."""
    if any(len(folder) != 1 for folder in inside):
        return False
    splits = [folder[0] for folder in inside if is_split(folder[0])]
    return len(splits) == 1 and splits[0].strip().lower() == "train" and len(inside) >= 3


def _checked(place: Place) -> Place | Refusal:
    if len(place.class_name) > LONGEST_CLASS_NAME:
        sentence = f"The class name has {len(place.class_name)} characters; at most {LONGEST_CLASS_NAME} are allowed."
        return Refusal(Code.CLASS_NAME_TOO_LONG, sentence)
    if not place.class_name:
        return Refusal(Code.NO_CLASS_FOLDER, "No class folder: its name is empty.")
    return place


def check_classes(counts: Mapping[str, int], *, most: int) -> None:
    """Check that what was kept can be learned from.

    Args:
        counts: pictures kept, by class name.
        most: largest number of classes.

    Raises:
        UploadRejected: no pictures, one class only, too many classes, or fewer than 3 pictures in a class (named).
    """
    if not counts:
        raise UploadRejected("No picture could be used. The receipt says why for every file.")
    if len(counts) == 1:
        name = next(iter(counts))
        raise UploadRejected(
            f'All pictures are of one class, "{name}"; a classifier needs at least two. Put the pictures of each class into a folder '
            "of its own, named like the class."
        )
    if len(counts) > most:
        raise UploadRejected(f"There are {len(counts):,} classes; at most {most:,} are allowed.")
    small = sorted(name for name, count in counts.items() if count < SMALLEST_CLASS)
    if small:
        named = ", ".join(f'"{name}" ({counts[name]})' for name in small[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise UploadRejected(
            f"Each class needs at least {SMALLEST_CLASS} different pictures: one to learn from, one to validate, one to test. "
            f"Too few in: {named}{more}."
        )


def case_twins(class_names: Iterable[str]) -> list[str]:
    """One sentence for each pair of classes whose names differ in the case of letters only."""
    seen: dict[str, str] = {}
    found = []
    for name in sorted(class_names):
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            found.append(f'"{first}" and "{name}" differ only in the case of letters and were kept as two classes.')
    return found
