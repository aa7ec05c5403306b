"""What became different from one dataset version to another. Read from their rows, so that any two versions can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select
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


def version_diff(session: Session, before: DatasetVersion, after: DatasetVersion) -> VersionDiff:
    """Count what differs between two versions of one person: three passes over indices, no list of pictures."""
    tests = _tests(before, after)
    both = select(*(func.sum(case((test, 1), else_=0)) for test in tests.values())).select_from(_OLD)
    both = both.join(_NEW, _pair(after)).where(_OLD.version_id == before.id)
    changed = session.execute(both).one()
    counts = dict(zip((kind.value for kind in tests), (int(count or 0) for count in changed), strict=True))
    counts[Difference.ADDED.value] = _count_alone(session, after, before)
    counts[Difference.REMOVED.value] = _count_alone(session, before, after)
    return VersionDiff(
        {kind.value: counts[kind.value] for kind in Difference},
        [name for name in after.class_names if name not in before.class_names],
        [name for name in before.class_names if name not in after.class_names],
    )


def _pair(after: DatasetVersion) -> ColumnElement[bool]:
    return and_(_NEW.version_id == after.id, _NEW.image_id == _OLD.image_id)


def _tests(before: DatasetVersion, after: DatasetVersion) -> dict[Difference, ColumnElement[bool]]:
    new_label = {name: label for label, name in enumerate(after.class_names)}
    meant = {label: new_label.get(name, -1) for label, name in enumerate(before.class_names)}
    return {
        Difference.RELABELLED: case(meant, value=_OLD.label, else_=-1) != _NEW.label,
        Difference.MOVED: _OLD.split != _NEW.split,
        Difference.REGROUPED: func.coalesce(_OLD.group, "") != func.coalesce(_NEW.group, ""),
    }


def _alone(here: DatasetVersion, other: DatasetVersion) -> ColumnElement[bool]:
    """Pictures (as `_OLD`) of one version that the other one has not."""
    there = select(_NEW.ordinal).where(_NEW.version_id == other.id, _NEW.image_id == _OLD.image_id)
    return and_(_OLD.version_id == here.id, ~there.exists())


def _count_alone(session: Session, here: DatasetVersion, other: DatasetVersion) -> int:
    return session.scalar(select(func.count()).select_from(_OLD).where(_alone(here, other))) or 0


def changes_between(
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
    rows: list[tuple[int, int, Change]] = []
    for number, query in ((0, _changed(before, after)), (1, _gone(before, after))):
        if number < turn:
            continue
        start = ordinal if number == turn else -1
        place = _NEW.ordinal if number == 0 else _OLD.ordinal
        some = query.where(place > start).order_by(place).limit(limit + 1 - len(rows))
        rows += [(number, row[0], _change(row, before, after)) for row in session.execute(some)]
        if len(rows) > limit:
            break
    items = [one for _, _, one in rows[:limit]]
    return Page(items, encode_cursor(list(rows[limit - 1][:2])) if len(rows) > limit else None)


_COLUMNS = (_OLD.label, _OLD.split, _OLD.group, _NEW.label, _NEW.split, _NEW.group)


def _changed(before: DatasetVersion, after: DatasetVersion) -> Any:
    pair = and_(_OLD.version_id == before.id, _OLD.image_id == _NEW.image_id)
    rows = select(_NEW.ordinal, _NEW.image_id, _NEW.filename, *_COLUMNS).join(_OLD, pair, isouter=True)
    return rows.where(_NEW.version_id == after.id, or_(_OLD.image_id.is_(None), *_tests(before, after).values()))


def _gone(before: DatasetVersion, after: DatasetVersion) -> Any:
    rows = select(_OLD.ordinal, _OLD.image_id, _OLD.filename, *_COLUMNS).join(_NEW, _pair(after), isouter=True)
    return rows.where(_OLD.version_id == before.id, _NEW.image_id.is_(None))


def _change(row: Any, before: DatasetVersion, after: DatasetVersion) -> Change:
    _, image_id, filename, *places = row
    old, new = (
        None if label is None else PlaceThen(version.class_names[label], split, group)
        for version, (label, split, group) in ((before, places[:3]), (after, places[3:]))
    )
    return Change(image_id, filename, old, new)
