"""Pictures that belong together because they show one patient, one film, one burst: read from file names and from EXIF.

Names are evidence only where they say so themselves; a plain number (`rose_12.jpg`, `IMG_0042.JPG`) says nothing. The patterns, on the
file name without its ending, in any case of letters:

- a person: `person12_virus_3`, `patient_0007-b`, `subject3`, `subj-04`, `participant9_left`: all pictures of that number;
- a study of a medical archive: `IM-0453-0001`, `NORMAL2-IM-0971-0001-0001`: the part before the number of the picture;
- a film: `street_frame_00012`, `cam2-frame7`: what stands before `frame`;
- a burst of a telephone: `00001IMG_00001_BURST20180703121212345_COVER`: its time.

By EXIF, pictures of one camera belong together when each was taken within 2 seconds of the one before.

A rule is left out for an upload, and the receipt's notes say so, where it would leave a class with fewer than 3 groups and single
pictures: then it is no such name, or the class could not be split. Groups of one picture are no groups.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

BURST_SECONDS = 2.0
LEAST_PARTS = 3
LONGEST = 255  # characters: what the column holds
_RULES: Mapping[str, re.Pattern[str]] = {
    "person": re.compile(
        r"(?:^|.*[_\-. ])((?:patient|person|subject|subj|participant)[_\-]?\d+)(?:[_\-. ].*)?$", re.IGNORECASE
    ),
    "study": re.compile(r"((?:.*[_\-])?IM-\d+)-\d+(?:-\d+)*$", re.IGNORECASE),
    "film": re.compile(r"(.*[^_\-. ])[_\-. ]+(?:frame|frm)[_\-. ]?\d+$", re.IGNORECASE),
    "burst": re.compile(r".*(BURST\d{14,})(?:[_\-].*)?$", re.IGNORECASE),
}
WORDS = {"person": "person", "study": "study", "film": "film", "burst": "burst", "camera": "burst by camera and time"}


def group_by_name(path: str) -> tuple[str, str] | None:
    """(rule, group) of a file name, or None."""
    stem = PurePosixPath(path).stem
    for rule, pattern in _RULES.items():
        found = pattern.fullmatch(stem)
        if found is not None:
            return rule, found[1].lower()[:LONGEST]
    return None


def group_all(
    paths: Sequence[str], labels: Sequence[int], shots: Sequence[tuple[str, float] | None]
) -> tuple[list[str | None], dict[str, int]]:
    """The group of every picture, or None, and how many groups each rule made.

    Args:
        paths: names in the upload.
        labels: class of each.
        shots: camera and seconds of each, where known.
    """
    named = [group_by_name(path) for path in paths]
    filmed = _bursts(shots)
    found = [by_name or by_camera for by_name, by_camera in zip(named, filmed, strict=True)]
    sizes = Counter(one for one in found if one)
    found = [one if one and sizes[one] > 1 else None for one in found]
    for rule in WORDS:
        if any(one and one[0] == rule for one in found) and not _can_be_split(found, labels, rule):
            found = [None if one and one[0] == rule else one for one in found]
    counts = Counter(rule for rule, _ in {one for one in found if one})
    return [one and one[1] for one in found], dict(counts)


def _bursts(shots: Sequence[tuple[str, float] | None]) -> list[tuple[str, str] | None]:
    order = sorted((shot[0], shot[1], index) for index, shot in enumerate(shots) if shot is not None)
    found: list[tuple[str, str] | None] = [None] * len(shots)
    name, last = "", ("", 0.0)
    for camera, taken, index in order:
        if camera != last[0] or taken - last[1] > BURST_SECONDS:
            name = f"{camera[:200]} at {taken:.0f}"
        found[index], last = ("camera", name), (camera, taken)
    return found


def _can_be_split(found: Sequence[tuple[str, str] | None], labels: Sequence[int], rule: str) -> bool:
    parts: dict[int, set[object]] = defaultdict(set)
    touched = set()
    for index, (one, label) in enumerate(zip(found, labels, strict=True)):
        parts[label].add(one or index)
        if one and one[0] == rule:
            touched.add(label)
    return all(len(parts[label]) >= LEAST_PARTS for label in touched)
