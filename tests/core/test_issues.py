"""Issues of a version: which near duplicates matter in it, and that finding them takes as long as it has pictures."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core import datasets, near_pairs
from core.database import Database
from core.issues import list_issues
from core.tables import DatasetVersion, ImageLook, NearPair, VersionImage
from core.version_changes import VersionChanges
from core.version_plan import make_plan
from tests.core.rows import changed, person, record_issues, version
from tests.core.sqlite_steps import sqlite_steps


def pair_up(session: Session, base: DatasetVersion, *, by: int) -> None:
    """Every picture looks like the one that is `by` places after it."""
    ids = [one.image_id for one in datasets.placed_pictures(session, base)]
    for place, image_id in enumerate(ids):
        one, other = sorted((image_id, ids[(place + by) % len(ids)]))
        session.merge(NearPair(image_id=one, other_id=other, score=0.97))
        session.merge(ImageLook(image_id=image_id, hashes=b"", grey=b"", flags=0))
    session.flush()


@pytest.mark.both_databases
@pytest.mark.parametrize("at_once", [3, 5000])
def test_near_duplicates_of_a_version_are_found_in_its_order_however_far_apart(
    database: Database, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(near_pairs, "_AT_ONCE", at_once)
    with database.write() as session:
        base = version(session, person(session), each=10)
        pair_up(session, base, by=7)
        gone = datasets.placed_pictures(session, base)[4].image_id
        record_issues(session, base)
        left = changed(session, base, remove=[gone])
        known = session.execute(select(NearPair.image_id, NearPair.other_id)).all()
        for one, count in ((base, 20), (left, 18)):
            rows = session.scalars(select(VersionImage).where(VersionImage.version_id == one.id))
            places = {row.image_id: row for row in rows}
            there = [(places[a], places[b]) for a, b in known if a in places and b in places]
            there.sort(key=lambda pair: (pair[0].ordinal, pair[1].ordinal))
            assert len(there) == count
            for kind, wanted in (
                ("near_duplicates", there),
                ("conflicts", [(a, b) for a, b in there if a.label != b.label]),
                ("leaks", [(a, b) for a, b in there if a.split != b.split]),
            ):
                found = list_issues(session, one, kind=kind, limit=100).items
                assert [(issue.image_id, issue.other_id) for issue in found] == [
                    (a.image_id, b.image_id) for a, b in wanted
                ]
                assert [issue.number for issue in found] == list(range(len(wanted)))
                assert {(issue.score, issue.detail) for issue in found} == {(0.97, "")}
                assert one.issues[kind] == len(wanted) > 0


@pytest.mark.sqlite_only
@pytest.mark.parametrize("analyzed", [False, True])
def test_sqlite_takes_steps_by_the_number_of_pictures_not_by_its_square(database: Database, analyzed: bool) -> None:
    taken: list[int] = []
    resplit = {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "seed": 1}
    with database.write() as session:
        for each in (100, 400):
            base = version(session, person(session), each=each, name=f"{each} each")
            pair_up(session, base, by=1)
            if analyzed:
                session.execute(text("ANALYZE"))
            session.commit()
            with sqlite_steps(session, taken):
                make_plan(session, base, VersionChanges.model_validate({"resplit": resplit}))
                record_issues(session, base)
            assert base.issues["near_duplicates"] >= 2 * each
    assert taken[1] < 6 * taken[0], taken
