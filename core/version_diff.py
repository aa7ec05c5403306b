"""What became different from one dataset version to another. Read from their rows, so that any two versions can be compared."""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, and_, case, func, null, or_, select
from sqlalchemy.orm import Session, aliased

from core.paging import DEFAULT_LIMIT, Page, checked_limit, decode_cursor, encode_cursor
from core.tables import DatasetVersion, Split, VersionImage


class Difference(StrEnum):
    """What may differ about one picture."""

    ADDED = "added"
    REMOVED = "removed"
    RELABELLED = "relabelled"
    MOVED = "moved"
    REGROUPED = "regrouped"


@dataclass(frozen=True)
class PlaceThen:
    """Where a picture is in one of the two versions."""

    class_name: str
    split: Split
    group: str | None


@dataclass(frozen=True)
class Change:
    """One picture that differs; `before` is None for an added one, `after` for a removed one."""

    image_id: str
    filename: str
    before: PlaceThen | None
    after: PlaceThen | None


@dataclass(frozen=True)
class VersionDiff:
    """From one version to another: pictures by difference, and classes that came or went (a renamed one did both)."""

    counts: dict[str, int]
    classes_added: Sequence[str]
    classes_removed: Sequence[str]

    @property
    def is_empty(self) -> bool:
        """True when both versions say the same."""
        return not any(self.counts.values())


_OLD, _NEW = aliased(VersionImage, name="old"), aliased(VersionImage, name="new")
_KINDS = (Difference.RELABELLED, Difference.MOVED, Difference.REGROUPED)
_AT_ONCE = 5000
_MOST_KEPT = 4_000_000  # places of pictures, of 4 bytes each


@dataclass(frozen=True)
class _Found:
    """All that differs between two versions: how many pictures by difference, and where they stand.

    Attributes:
        changed: ordinals in the newer version, int32 `[n]`, rising: of pictures in both, and of those only there.
        gone: ordinals in the older version of those only there.
    """

    counts: dict[str, int]
    changed: Any
    gone: Any


class Differences:
    """What differs between two versions of one person. Versions never change, so what was found is kept, the latest asked for longest.

    Finding it is one pass over the pictures of a version (0.3 s for 100,000), a page of what was found a few milliseconds.
    """

    def __init__(self, most_kept: int = _MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._known: OrderedDict[tuple[str, str], _Found] = OrderedDict()
        self._lock = threading.Lock()

    def counted(self, session: Session, before: DatasetVersion, after: DatasetVersion) -> VersionDiff:
        """How many pictures differ, and how; which classes came and went."""
        return VersionDiff(
            self._found(session, before, after).counts,
            [name for name in after.class_names if name not in before.class_names],
            [name for name in before.class_names if name not in after.class_names],
        )

    def page(
        self,
        session: Session,
        before: DatasetVersion,
        after: DatasetVersion,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Page[Change]:
        """Every picture that differs: those that are in both or only in `after` in its order, then those only in `before` in its order."""
        limit = checked_limit(limit)
        turn, ordinal = decode_cursor(cursor, int, int) if cursor else (0, -1)
        found = self._found(session, before, after)
        places: list[tuple[int, int]] = []
        for number, ordinals in ((0, found.changed), (1, found.gone)):
            if number >= turn:
                first = int(np.searchsorted(ordinals, ordinal, side="right")) if number == turn else 0
                some = ordinals[first : first + limit + 1 - len(places)]
                places += [(number, int(one)) for one in some]
        shown = places[:limit]
        changes: dict[tuple[int, int], Change] = {}
        for number, query in ((0, _both(before, after)), (1, _gone(before))):
            asked = [one for turn_of, one in shown if turn_of == number]
            place = _NEW.ordinal if number == 0 else _OLD.ordinal
            if asked:
                rows = session.execute(query.where(place.in_(asked)))
                changes |= {(number, row[0]): _change(row, before, after) for row in rows}
        items = [changes[one] for one in shown if one in changes]
        return Page(items, encode_cursor(list(shown[-1])) if len(places) > limit else None)

    def _found(self, session: Session, before: DatasetVersion, after: DatasetVersion) -> _Found:
        key = (before.id, after.id)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = _find(session, before, after)
        with self._lock:
            self._known[key] = found
            while len(self._known) > 1 and self._size() > self._most_kept:
                self._known.popitem(last=False)
        return found

    def _size(self) -> int:
        return sum(len(one.changed) + len(one.gone) + 1000 for one in self._known.values())


def _find(session: Session, before: DatasetVersion, after: DatasetVersion) -> _Found:
    """Read both versions side by side; the second pass only where a picture of the older one is missing."""
    tests = _tests(before, after)
    pair = and_(_OLD.version_id == before.id, _OLD.image_id == _NEW.image_id)
    rows = select(_NEW.ordinal, _OLD.ordinal, *(case((test, 1), else_=0) for test in tests)).join(
        _OLD, pair, isouter=True
    )
    rows = rows.where(_NEW.version_id == after.id, or_(_OLD.image_id.is_(None), *tests)).order_by(_NEW.ordinal)
    counts = dict.fromkeys((kind.value for kind in Difference), 0)
    changed = array("i")
    for some in session.execute(rows.execution_options(yield_per=_AT_ONCE)).partitions():
        for ordinal, old, *differs in some:
            changed.append(ordinal)
            for kind in (Difference.ADDED,) if old is None else compress(_KINDS, differs):
                counts[kind.value] += 1
    gone = array("i")
    counts[Difference.REMOVED.value] = before.image_count - (after.image_count - counts[Difference.ADDED.value])
    if counts[Difference.REMOVED.value]:
        there = select(_NEW.ordinal).where(_NEW.version_id == after.id, _NEW.image_id == _OLD.image_id)
        alone = select(_OLD.ordinal).where(_OLD.version_id == before.id, ~there.exists()).order_by(_OLD.ordinal)
        gone.extend(session.scalars(alone.execution_options(yield_per=_AT_ONCE)))
    return _Found(counts, np.array(changed, np.int32), np.array(gone, np.int32))


def _tests(before: DatasetVersion, after: DatasetVersion) -> list[ColumnElement[bool]]:
    """What makes a picture that is in both differ, in the order of `_KINDS`."""
    new_label = {name: label for label, name in enumerate(after.class_names)}
    meant = {label: new_label.get(name, -1) for label, name in enumerate(before.class_names)}
    # comparing numbers is quicker than looking each of them up
    same = all(old == new for old, new in meant.items())
    label = _OLD.label if same else case(meant, value=_OLD.label, else_=-1)
    return [
        label != _NEW.label,
        _OLD.split != _NEW.split,
        func.coalesce(_OLD.group, "") != func.coalesce(_NEW.group, ""),
    ]


def _both(before: DatasetVersion, after: DatasetVersion) -> Any:
    pair = and_(_OLD.version_id == before.id, _OLD.image_id == _NEW.image_id)
    columns = (_OLD.label, _OLD.split, _OLD.group, _NEW.label, _NEW.split, _NEW.group)
    rows = select(_NEW.ordinal, _NEW.image_id, _NEW.filename, *columns).join(_OLD, pair, isouter=True)
    return rows.where(_NEW.version_id == after.id)


def _gone(before: DatasetVersion) -> Any:
    nothing = (null(), null(), null())
    rows = select(_OLD.ordinal, _OLD.image_id, _OLD.filename, _OLD.label, _OLD.split, _OLD.group, *nothing)
    return rows.where(_OLD.version_id == before.id)


def _change(row: Any, before: DatasetVersion, after: DatasetVersion) -> Change:
    _, image_id, filename, *places = row
    old, new = (
        None if label is None else PlaceThen(version.class_names[label], split, group)
        for version, (label, split, group) in ((before, places[:3]), (after, places[3:]))
    )
    return Change(image_id, filename, old, new)
