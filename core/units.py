"""Which pictures of a dataset version belong together: those of a named group, and near duplicates of each other.

Joined as the split guard joins them (`core.splits.join_units`), but under names, and from the pairs alone: pictures that are in none
cost nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from sqlalchemy.orm import Session

from core.database import Database
from core.near_pairs import Near, near_pairs
from core.tables import DatasetVersion, Split

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
        keep: called between every some thousand pictures.
    """
    with database.read() as session:
        return Units(_kept(near_pairs(session, version.id), keep))


def units_of_test(session: Session, version_id: str | None) -> Units:
    """The units of a version's test pictures."""
    return Units(_kept(near_pairs(session, version_id, Split.TEST), lambda: None))


def _kept(found: Iterable[list[Near]], keep: Callable[[], None]) -> Iterator[tuple[Member, Member]]:
    for number, some in enumerate(found):
        if number:
            keep()
        for one, other, _ in some:
            yield (one.image_id, one.group), (other.image_id, other.group)
