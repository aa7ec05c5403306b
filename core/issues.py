"""What is wrong or odd in a dataset version, as rows that are frozen with it: written once, listed and counted from an index.

Pairs of near duplicates are facts about two pictures (`near_pairs`), found when pictures are ingested or, by their features, after a run;
which of them matter in a version, across which splits and classes, is read off its rows here. So a version made by moving pictures gets its
own issues without a picture being looked at.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from core.clusters import SMALL, Clusters
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
COLUMNS = ("version_id", "kind", "number", "image_id", "other_id", "score", "detail")
_Found = tuple[Kind, str | None, str | None, float | None, str]  # kind, one picture, another one, score, detail


def find_issues(
    session: Session, version: DatasetVersion, clusters: Clusters, *, upload_id: str | None = None
) -> Iterator[list[dict[str, Any]]]:
    """The issues of a version that has all its rows, as rows of `VersionIssue`, at most some thousand at a time; only reads.

    `clusters` of its ordinals are joined by its near duplicates.
    """
    found = itertools.chain(
        *(_exact(session, upload_id, code, kind) for code, kind in _CODES.items() if upload_id is not None),
        _near(session, version, clusters),
        _torn_groups(session, version),
        _flagged(session, version),
        _classes(version),
    )
    numbers: Counter[Kind] = Counter()
    while some := list(itertools.islice(found, _AT_ONCE)):
        rows = []
        for kind, image_id, other_id, score, detail in some:
            number = numbers[kind]
            rows.append(
                dict(zip(COLUMNS, (version.id, kind.value, number, image_id, other_id, score, detail), strict=True))
            )
            numbers[kind] += 1
        yield rows


def _exact(session: Session, upload_id: str, code: str, kind: Kind) -> Iterator[_Found]:
    told = select(ReceiptRow.image_id, ReceiptRow.path, ReceiptRow.reason)
    told = told.where(ReceiptRow.upload_id == upload_id, ReceiptRow.code == code).order_by(ReceiptRow.ordinal)
    for image_id, path, reason in session.execute(told.execution_options(yield_per=_AT_ONCE)):
        yield kind, image_id, None, 1.0, f"{path}: {reason}"


def _near(session: Session, version: DatasetVersion, clusters: Clusters) -> Iterator[_Found]:
    """Near duplicates, and which of them are in two splits or in two classes.

    A pair that was found while the version was being made may have been added to it already (`core.near_checks`): read after the pairs,
    because both are written in one transaction.
    """
    for some in near_pairs(session, version.id):
        if not some:
            continue
        told = select(VersionIssue.image_id, VersionIssue.other_id)
        told = told.where(VersionIssue.version_id == version.id, VersionIssue.kind == Kind.FOUND_LATER.value)
        known = {(one, other) for one, other in session.execute(told)}
        for pair in some:
            clusters.join(pair.one.ordinal, pair.other.ordinal)
            ids = (pair.one.image_id, pair.other.image_id)
            if ids in known:
                continue
            yield Kind.NEAR_DUPLICATES, *ids, pair.score, ""
            if pair.one.split != pair.other.split:
                yield Kind.LEAKS, *ids, pair.score, ""
            if pair.one.label != pair.other.label:
                yield Kind.CONFLICTS, *ids, pair.score, ""


def _torn_groups(session: Session, version: DatasetVersion) -> Iterator[_Found]:
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
        for one, two in itertools.combinations(_TEST_FIRST, 2)
        if one in places and two in places
    )
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        asked = {place for one, two, _ in some for place in (one, two)}
        found = select(VersionImage.ordinal, VersionImage.image_id)
        found = found.where(VersionImage.version_id == version.id, VersionImage.ordinal.in_(asked))
        images = {ordinal: image_id for ordinal, image_id in session.execute(found)}  # noqa: C416 - rows are no pairs
        for one, two, group in some:
            yield Kind.LEAKS, images[one], images[two], None, f"group {group}"


def _flagged(session: Session, version: DatasetVersion) -> Iterator[_Found]:
    """Odd pictures, in one pass over the looks of all: each of them is a row of a kilobyte."""
    odd = select(VersionImage.image_id, ImageLook.flags).join(ImageLook, ImageLook.image_id == VersionImage.image_id)
    odd = odd.where(VersionImage.version_id == version.id, ImageLook.flags != 0).order_by(VersionImage.ordinal)
    for image_id, flags in session.execute(odd.execution_options(yield_per=_AT_ONCE)):
        for flag in Flag:
            if flags & bit(flag):
                yield Kind(flag.value), image_id, None, None, ""


def _classes(version: DatasetVersion) -> Iterator[_Found]:
    totals = {name: sum(counts.values()) for name, counts in version.counts.items()}
    for name, count in totals.items():
        if count < FEWEST:
            yield Kind.SMALL_CLASSES, None, None, None, f'Class "{name}" has {count} pictures.'
    least, most = min(totals, key=totals.__getitem__), max(totals, key=totals.__getitem__)
    if totals[most] > MOST_UNEQUAL * totals[least]:
        times = totals[most] / max(1, totals[least])
        said = f'Class "{most}" has {totals[most]:,} pictures, {times:.0f} times as many as "{least}".'
        yield Kind.IMBALANCE, None, None, None, said


def cluster_notes(clusters: Clusters) -> list[str]:
    """How many pictures are in clusters of which not every pair is listed, in a sentence."""
    sizes = sorted(int(size) for size in clusters.size[np.unique(clusters.of)] if size > SMALL)
    if not sizes:
        return []
    said = f"{sizes[0]:,} pictures are"
    if len(sizes) > 1:
        said = f"{sum(sizes):,} pictures are in {len(sizes)} clusters of {sizes[0]:,} to {sizes[-1]:,}, each"
    return [f"{said} near duplicates of one another; the issues list some pairs that join them, not all pairs."]


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
