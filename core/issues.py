"""What is wrong or odd in a dataset version, as rows that are frozen with it: written once, listed and counted from an index.

Pairs of near duplicates are facts about two pictures (`near_pairs`), found when pictures are ingested or, by their features, after a run;
which of them matter in a version, across which splits and classes, is read off its rows here. So a version made by moving pictures gets its
own issues without a picture being looked at.
"""

from collections.abc import Iterable
from enum import StrEnum
from itertools import combinations
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, func, insert, literal, null, or_, select
from sqlalchemy.orm import Session

from core.near_pairs import near_pairs
from core.paging import DEFAULT_LIMIT, Page, checked_limit, decode_cursor, encode_cursor, wrong_query
from core.quality import Flag, bit
from core.tables import DatasetVersion, ImageLook, ReceiptRow, Split, VersionImage, VersionIssue

FEWEST = 10  # pictures of a class below this: too small to say much about
MOST_UNEQUAL = 10  # times as many pictures in the largest class as in the smallest


class Kind(StrEnum):
    """What an issue is about."""

    LEAKS = "leaks"
    CONFLICTS = "conflicts"
    DUPLICATES = "duplicates"
    NEAR_DUPLICATES = "near_duplicates"
    BLANK = "blank"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    BLURRY = "blurry"
    TINY = "tiny"
    ODD_ASPECT = "odd_aspect"
    SMALL_CLASSES = "small_classes"
    IMBALANCE = "imbalance"
    FOUND_LATER = "found_later"  # near duplicates that were found after the version was made (`core.near_checks`)


_CODES = {"duplicate": Kind.DUPLICATES, "leak": Kind.LEAKS, "label_conflict": Kind.CONFLICTS}
_TEST_FIRST = (Split.TEST, Split.VALIDATION, Split.TRAIN)
_AT_ONCE = 5000
_COLUMNS = ["version_id", "kind", "number", "image_id", "other_id", "score", "detail"]


def record_issues(session: Session, version: DatasetVersion, *, upload_id: str | None = None) -> dict[str, int]:
    """Write the issues of a version that has all its rows, and its counts by kind.

    Args:
        session: the writing session that makes the version.
        version: the new version.
        upload_id: the upload whose exact duplicates were taken out, if an upload made it.
    """
    if upload_id is not None:
        for code, kind in _CODES.items():
            _write(session, version, kind, _exact(upload_id, code))
    _write_near(session, version)
    _write_torn_groups(session, version)
    _write_flagged(session, version)
    _write_classes(session, version)
    counted = select(VersionIssue.kind, func.count()).where(VersionIssue.version_id == version.id)
    found = {kind: count for kind, count in session.execute(counted.group_by(VersionIssue.kind))}  # noqa: C416 - rows are no pairs
    version.issues = {kind.value: found.get(kind.value, 0) for kind in Kind}
    session.flush()
    return version.issues


def _write(session: Session, version: DatasetVersion, kind: Kind, rows: Any) -> None:
    """Rows of (image, other image, score, detail), numbered in their order after those of the same kind that are there."""
    there = _count(session, version, kind)
    found = rows.subquery()
    number = func.row_number().over(order_by=(found.c.place, found.c.second)) - 1 + there
    values = (literal(version.id), literal(kind.value), number, found.c.image, found.c.other, found.c.score)
    session.execute(insert(VersionIssue).from_select(_COLUMNS, select(*values, found.c.detail)))


def _exact(upload_id: str, code: str) -> Any:
    said = ReceiptRow.path + literal(": ") + ReceiptRow.reason
    return select(
        ReceiptRow.ordinal.label("place"),
        literal(0).label("second"),
        ReceiptRow.image_id.label("image"),
        cast(null(), String(36)).label("other"),
        literal(1.0).label("score"),
        said.label("detail"),
    ).where(ReceiptRow.upload_id == upload_id, ReceiptRow.code == code)


def _write_near(session: Session, version: DatasetVersion) -> None:
    """Near duplicates, and which of them are in two splits or in two classes."""
    kinds = (Kind.NEAR_DUPLICATES, Kind.LEAKS, Kind.CONFLICTS)
    there = {kind: _count(session, version, kind) for kind in kinds}
    for some in near_pairs(session, version.id):
        parted = {Kind.NEAR_DUPLICATES: some}
        parted[Kind.LEAKS] = [pair for pair in some if pair.one.split != pair.other.split]
        parted[Kind.CONFLICTS] = [pair for pair in some if pair.one.label != pair.other.label]
        rows = [
            {
                "version_id": version.id,
                "kind": kind.value,
                "number": number,
                "image_id": pair.one.image_id,
                "other_id": pair.other.image_id,
                "score": pair.score,
            }
            for kind in kinds
            for number, pair in enumerate(parted[kind], there[kind])
        ]
        there = {kind: there[kind] + len(parted[kind]) for kind in kinds}
        if rows:
            session.execute(insert(VersionIssue), rows)


def _count(session: Session, version: DatasetVersion, kind: Kind) -> int:
    """Issues of this kind that are there."""
    mine = (VersionIssue.version_id == version.id, VersionIssue.kind == kind.value)
    return session.scalar(select(func.count()).select_from(VersionIssue).where(*mine)) or 0


def _write_torn_groups(session: Session, version: DatasetVersion) -> None:
    """For every group and every two splits that it is in: its first picture in each.

    In two plain queries: joined with themselves, SQLite took the pictures of a version times themselves.
    """
    grouped = (VersionImage.version_id == version.id, VersionImage.group.is_not(None))
    torn = select(VersionImage.group).where(*grouped).group_by(VersionImage.group)
    torn = torn.having(func.count(VersionImage.split.distinct()) > 1)
    firsts = select(VersionImage.group, VersionImage.split, func.min(VersionImage.ordinal)).where(*grouped)
    firsts = firsts.where(VersionImage.group.in_(torn)).group_by(VersionImage.group, VersionImage.split)
    groups: dict[str, dict[Split, int]] = {}
    for group, split, ordinal in session.execute(firsts):
        groups.setdefault(str(group), {})[split] = ordinal
    pairs = sorted(
        (places[one], places[two], group)
        for group, places in groups.items()
        for one, two in combinations(_TEST_FIRST, 2)
        if one in places and two in places
    )
    there = _count(session, version, Kind.LEAKS)
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        asked = {place for one, two, _ in some for place in (one, two)}
        found = select(VersionImage.ordinal, VersionImage.image_id)
        found = found.where(VersionImage.version_id == version.id, VersionImage.ordinal.in_(asked))
        images = {ordinal: image_id for ordinal, image_id in session.execute(found)}  # noqa: C416 - rows are no pairs
        session.execute(
            insert(VersionIssue),
            [
                {
                    "version_id": version.id,
                    "kind": Kind.LEAKS.value,
                    "number": there + start + number,
                    "image_id": images[one],
                    "other_id": images[two],
                    "detail": f"group {group}",
                }
                for number, (one, two, group) in enumerate(some)
            ],
        )


def _write_flagged(session: Session, version: DatasetVersion) -> None:
    """Odd pictures, in one pass over the looks of all: each of them is a row of a kilobyte."""
    there = {flag: _count(session, version, Kind(flag.value)) for flag in Flag}
    odd = select(VersionImage.image_id, ImageLook.flags).join(ImageLook, ImageLook.image_id == VersionImage.image_id)
    odd = odd.where(VersionImage.version_id == version.id, ImageLook.flags != 0).order_by(VersionImage.ordinal)
    for some in session.execute(odd.execution_options(yield_per=_AT_ONCE)).partitions():
        rows = []
        for image_id, flags in some:
            for flag in Flag:
                if flags & bit(flag):
                    row = {"version_id": version.id, "kind": flag.value, "number": there[flag], "image_id": image_id}
                    rows.append(row)
                    there[flag] += 1
        session.execute(insert(VersionIssue), rows)


def _write_classes(session: Session, version: DatasetVersion) -> None:
    totals = {name: sum(counts.values()) for name, counts in version.counts.items()}
    small = [f'Class "{name}" has {count} pictures.' for name, count in totals.items() if count < FEWEST]
    least, most = min(totals, key=totals.__getitem__), max(totals, key=totals.__getitem__)
    unequal = []
    if totals[most] > MOST_UNEQUAL * totals[least]:
        times = totals[most] / max(1, totals[least])
        unequal = [f'Class "{most}" has {totals[most]:,} pictures, {times:.0f} times as many as "{least}".']
    rows = [
        {"version_id": version.id, "kind": kind.value, "number": number, "detail": sentence}
        for kind, sentences in ((Kind.SMALL_CLASSES, small), (Kind.IMBALANCE, unequal))
        for number, sentence in enumerate(sentences)
    ]
    if rows:
        session.execute(insert(VersionIssue), rows)


def checked_kind(kind: str) -> Kind:
    """A kind by name.

    Raises:
        InputInvalid: there is no such kind.
    """
    try:
        return Kind(kind)
    except ValueError as error:
        allowed = ", ".join(Kind)
        raise wrong_query("kind", f"kind: one of {allowed}. Received: {kind[:80]!r}.", kind) from error


def list_issues(
    session: Session,
    version: DatasetVersion,
    *,
    kind: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[VersionIssue]:
    """Issues of a version by kind and number."""
    limit = checked_limit(limit)
    query = select(VersionIssue).where(VersionIssue.version_id == version.id)
    if kind is not None:
        query = query.where(VersionIssue.kind == checked_kind(kind).value)
    if cursor:
        last_kind, last_number = decode_cursor(cursor, str, int)
        later = and_(VersionIssue.kind == last_kind, VersionIssue.number > last_number)
        query = query.where(or_(VersionIssue.kind > last_kind, later))
    rows = session.scalars(query.order_by(VersionIssue.kind, VersionIssue.number).limit(limit + 1)).all()
    last = [rows[limit - 1].kind, rows[limit - 1].number] if len(rows) > limit else None
    return Page(rows[:limit], encode_cursor(last) if last else None)


def has_issue(version: DatasetVersion, kind: Kind) -> ColumnElement[bool]:
    """Rows of `VersionImage` of this version whose picture is in an issue of this kind."""
    mine = and_(VersionIssue.version_id == version.id, VersionIssue.kind == kind.value)
    one = select(VersionIssue.image_id).where(mine, VersionIssue.image_id.is_not(None))
    other = select(VersionIssue.other_id).where(mine, VersionIssue.other_id.is_not(None))
    return VersionImage.image_id.in_(one.union(other))


def pictures_of(found: Iterable[VersionIssue]) -> list[str]:
    """The ids of all their pictures."""
    return [one for issue in found for one in (issue.image_id, issue.other_id) if one is not None]
