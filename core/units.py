"""Which pictures of a dataset version belong together: those of a named group, and near duplicates of each other.

Joined as the split guard joins them (`core.splits.join_units`), but under names, and from the pairs alone: pictures that are in none
cost nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, aliased

from core.database import Database
from core.tables import DatasetVersion, NearPair, Split, VersionImage

AT_ONCE = 2000
Member = tuple[str, str | None]  # id of a picture, name of its group


class Units:
    """Names of units: what groups become when pairs of near duplicates join them."""

    def __init__(self, pairs: Iterable[tuple[Member, Member]]) -> None:
        parent: dict[Member, Member] = {}

        def root(one: Member) -> Member:
            parent.setdefault(one, one)
            while parent[one] != one:
                parent[one] = one = parent[parent[one]]
            return one

        for one, other in pairs:
            parent[root(_node(*one))] = root(_node(*other))
        members: dict[Member, list[Member]] = defaultdict(list)
        for one in parent:
            members[root(one)].append(one)
        self._names = {one: name for unit in members.values() for name in [_name(unit)] for one in unit}

    def of(self, image_id: str, group: str | None) -> str | None:
        """Name of a picture's unit: that of its group where one is named; None for a picture by itself."""
        return self._names.get(_node(image_id, group), group)


def _node(image_id: str, group: str | None) -> Member:
    return ("", group) if group else (image_id, None)


def _name(unit: list[Member]) -> str:
    named = [group for _, group in unit if group]
    return min(named) if named else f"near duplicates of {min(image_id for image_id, _ in unit)}"


def version_units(database: Database, version: DatasetVersion, keep: Callable[[], None] = lambda: None) -> Units:
    """The units of a version.

    Args:
        keep: called between every 2,000 pictures.
    """

    def pairs() -> Iterator[tuple[Member, Member]]:
        with database.read() as session:
            last = session.scalar(_last_ordinal(version.id))
        for start in range(0, -1 if last is None else last + 1, AT_ONCE):
            if start:
                keep()
            with database.read() as session:
                found = session.execute(_pairs(version.id, range(start, start + AT_ONCE))).all()
            yield from (((one, group), (other, its_group)) for one, group, other, its_group in found)

    return Units(pairs())


def units_of_test(session: Session, version_id: str) -> Units:
    """The units of a version's test pictures."""
    rows = session.execute(_pairs(version_id, None).execution_options(yield_per=AT_ONCE))
    return Units(((one, group), (other, its_group)) for one, group, other, its_group in rows)


def _last_ordinal(version_id: str) -> Any:
    return select(func.max(VersionImage.ordinal)).where(VersionImage.version_id == version_id)


def _pairs(version_id: str, ordinals: range | None) -> Any:
    """Pairs of which both are in the version, by the ordinals of the first; None: both in test."""
    one, other = aliased(VersionImage), aliased(VersionImage)
    asked = (
        select(one.image_id, one.group, other.image_id, other.group)
        .select_from(one)
        .join(NearPair, NearPair.image_id == one.image_id)
        .join(other, and_(other.version_id == version_id, other.image_id == NearPair.other_id))
        .where(one.version_id == version_id)
    )
    if ordinals is None:
        return asked.where(one.split == Split.TEST, other.split == Split.TEST)
    return asked.where(one.ordinal >= ordinals.start, one.ordinal < ordinals.stop)
