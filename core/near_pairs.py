"""Pairs of near duplicates (`near_pairs`) within a dataset version, some thousand pictures at a time.

In plain queries by ids: joined in one, SQLite took the pictures of a version times themselves, within a writing transaction.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from core.tables import NearPair, Split, VersionImage

_AT_ONCE = 5000


class Place(NamedTuple):
    """A picture's place in the version."""

    ordinal: int
    image_id: str
    label: int
    split: Split
    group: str | None


class Near(NamedTuple):
    """Two pictures of a version that are one; the first has the lower id."""

    one: Place
    other: Place
    score: float


_COLUMNS = (VersionImage.ordinal, VersionImage.image_id, VersionImage.label, VersionImage.split, VersionImage.group)


def near_pairs(session: Session, version_id: str | None, split: Split | None = None) -> Iterator[list[Near]]:
    """Every pair of which both are in the version (in this split of it), by the ordinals of the first and of the second.

    A list for every 5,000 pictures, empty perhaps.
    """
    mine = VersionImage.version_id == version_id
    if split is not None:
        mine = and_(mine, VersionImage.split == split)
    listed, last = select(VersionImage.ordinal, VersionImage.image_id).where(mine).order_by(VersionImage.ordinal), None
    while rows := session.execute(
        (listed if last is None else listed.where(VersionImage.ordinal > last)).limit(_AT_ONCE)
    ).all():
        last = rows[-1].ordinal
        paired = NearPair.image_id.in_([row.image_id for row in rows])
        pairs = session.execute(select(NearPair.image_id, NearPair.other_id, NearPair.score).where(paired)).all()
        # most pictures have no near duplicate: only of the others more is read than the id
        asked = sorted({one for image_id, other_id, _ in pairs for one in (image_id, other_id)})
        places: dict[str, Place] = {}
        for start in range(0, len(asked), _AT_ONCE):
            some = VersionImage.image_id.in_(asked[start : start + _AT_ONCE])
            places |= {row.image_id: Place(*row) for row in session.execute(select(*_COLUMNS).where(mine, some))}
        yield sorted(Near(places[one], places[other], score) for one, other, score in pairs if other in places)
