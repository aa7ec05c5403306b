"""Units of a version: groups and near duplicates joined, whatever order the pairs come in, each picture read once."""

import random

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core import near_pairs
from core.database import Database
from core.tables import DatasetVersion, NearPair, Split, VersionImage
from core.units import Units, units_of_test, version_units
from tests.core.rows import person, version
from tests.core.sqlite_steps import sqlite_steps

pytestmark = pytest.mark.both_databases


def pair(session: Session, one: str, other: str) -> None:
    first, second = sorted((one, other))
    session.merge(NearPair(image_id=first, other_id=second, score=0.9))


def ids(session: Session, of: DatasetVersion, split: Split | None = None) -> list[str]:
    asked = select(VersionImage.image_id).where(VersionImage.version_id == of.id).order_by(VersionImage.ordinal)
    return list(session.scalars(asked if split is None else asked.where(VersionImage.split == split)))


def test_chains_of_pairs_are_one_unit_whatever_their_order() -> None:
    links = [((f"i{number}", None), (f"i{number + 1}", None)) for number in range(300) if number % 100 != 99]
    random.Random(0).shuffle(links)
    found = Units(links)
    names = [found.of(f"i{number}", None) for number in range(300)]
    assert [len(set(names[start : start + 100])) for start in (0, 100, 200)] == [1, 1, 1]
    assert len(set(names)) == 3
    assert found.of("another", None) is None


def test_a_named_group_gives_its_name_to_its_near_duplicates_and_to_the_groups_that_they_join() -> None:
    found = Units([(("a", "patient 2"), ("b", None)), (("b", None), ("c", "patient 1"))])
    assert found.of("a", "patient 2") == found.of("b", None) == found.of("c", "patient 1") == "patient 1"
    assert found.of("d", "patient 2") == "patient 1"  # of a group with one that has a near duplicate there
    assert found.of("e", "patient 3") == "patient 3"


def test_pairs_count_where_both_pictures_are_in_the_version(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "_AT_ONCE", 3)
    kept = []
    with database.write() as session:
        owner = person(session)
        here, elsewhere = version(session, owner), version(session, owner, classes=3, name="More")
        mine, theirs = ids(session, here), ids(session, elsewhere)
        chain = (mine[0], mine[7], mine[3])
        pair(session, chain[0], chain[1])
        pair(session, chain[1], chain[2])
        outside = next(one for one in theirs if one not in mine)
        pair(session, mine[5], outside)
        named = update(VersionImage).where(VersionImage.version_id == here.id, VersionImage.image_id == mine[3])
        session.execute(named.values(group="roll 4"))
    found = version_units(database, here, lambda: kept.append(True))
    assert [found.of(one, None) for one in (mine[0], mine[7])] == ["roll 4"] * 2
    assert found.of(mine[5], None) is None
    assert len(kept) == 3  # ten pictures, three at a time


def test_units_of_the_test_know_only_test_pictures(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session), each=10)
        test, train = ids(session, made, Split.TEST), ids(session, made, Split.TRAIN)
        pair(session, test[0], test[2])
        pair(session, test[1], train[0])
    with database.read() as session:
        found = units_of_test(session, made.id)
    assert found.of(test[0], None) == found.of(test[2], None) is not None
    assert found.of(test[1], None) is None


def test_units_are_found_in_steps_by_the_number_of_pictures_not_by_its_square(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("counts the steps of SQLite")
    taken: list[int] = []
    for each in (100, 400):
        with database.write() as session:
            made = version(session, person(session), each=each, name=f"{each} each")
            test = ids(session, made, Split.TEST)
            for one, other in zip(test[::2], test[1::2], strict=True):
                pair(session, one, other)
        with database.read() as session, sqlite_steps(session, taken):
            units_of_test(session, made.id)
    assert taken[1] < 6 * taken[0], taken
