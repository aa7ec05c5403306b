"""Near duplicates found after versions were made: frozen counts stay, `found_later` grows, and what is made afterwards goes by them."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core import near_checks
from core.database import Database
from core.datasets import delete_dataset, placed_pictures
from core.errors import Fenced
from core.issues import list_issues
from core.leases import LIVES, NEAR_CHECK_LIFE, Claim, claim
from core.tables import Dataset, DatasetVersion, NearCheck, NearCheckStatus, NearPair, Split
from tests.core.rows import changed, ended_run, person, record_issues, version

pytestmark = pytest.mark.both_databases


def at_work(session: Session, made: DatasetVersion) -> Claim:
    """A check of this version that somebody works on."""
    near_checks.request_check(session, made)
    held = claim(session, NEAR_CHECK_LIFE, "tests", 60)
    assert held is not None
    return held


def by_split(session: Session, made: DatasetVersion, label: int, split: Split) -> list[str]:
    wanted = (f"class {label}", split)
    return [one.image_id for one in placed_pictures(session, made) if (one.class_name, one.split) == wanted]


def found_later(session: Session, made: DatasetVersion) -> list[tuple[str | None, str | None, str]]:
    page = list_issues(session, made, kind="found_later", limit=100)
    return [(one.image_id, one.other_id, one.detail) for one in page.items]


def test_a_version_that_exists_gets_them_as_issues_of_their_own_kind(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session))
        record_issues(session, made)
        frozen = {kind: count for kind, count in made.issues.items() if kind != "found_later"}
        assert made.issues["found_later"] == 0
        (train, *_), (test,) = by_split(session, made, 0, Split.TRAIN), by_split(session, made, 0, Split.TEST)
        (other,) = by_split(session, made, 1, Split.TEST)
        held = at_work(session, made)
        assert near_checks.record_pairs(session, held, [(test, train, 0.91)]) == 1
        assert near_checks.record_pairs(session, held, [(train, test, 0.91), (other, test, 0.9)]) == 1, "each once"
        near_checks.finish_ready(session, held, 10, frozenset())
    with database.read() as session:
        made = session.get_one(DatasetVersion, made.id)
        first, second = found_later(session, made)
        assert first == (*sorted((train, test)), first[2])
        assert first[2] in {"leak between train and test", "leak between test and train"}
        assert second == (
            *sorted((test, other)),
            'label conflict: "class 0" and "class 1"' if test < other else 'label conflict: "class 1" and "class 0"',
        )
        assert made.issues == {**frozen, "found_later": 2}
        check = session.scalars(select(NearCheck)).one()
        assert (check.status, check.compared, check.pairs) == (NearCheckStatus.READY, 10, 2)


def test_what_is_made_afterwards_goes_by_them(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session), each=10)
        record_issues(session, made)
        pairs = [
            (one, other, 0.9)
            for one, other in zip(
                by_split(session, made, 0, Split.TRAIN), by_split(session, made, 0, Split.TEST) * 3, strict=True
            )
        ]
        near_checks.record_pairs(session, at_work(session, made), pairs)
        moved = by_split(session, made, 1, Split.TRAIN)[0]
        later = changed(session, made, remove=[moved])
        assert later.issues["leaks"] == 6
        assert later.issues["found_later"] == 0, "it knew them when it was made"
        fractions = {"train": 0.6, "validation": 0.2, "test": 0.2}
        again = changed(session, later, resplit={"fractions": fractions})
        assert again.issues["near_duplicates"] == 6
        assert again.issues["leaks"] == 0, "they stay on one side"


def test_every_version_that_has_both_pictures_is_told_and_no_other(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session))
        record_issues(session, made)
        one, other, third = by_split(session, made, 0, Split.TRAIN)
        without = changed(session, made, remove=[other])
        both = changed(session, made, remove=[third])
        near_checks.record_pairs(session, at_work(session, made), [(one, other, 0.9), (one, third, 0.9)])
        for version_id, count in ((made.id, 2), (without.id, 1), (both.id, 1)):
            session.expire_all()
            assert session.get_one(DatasetVersion, version_id).issues["found_later"] == count


def test_pictures_that_are_gone_and_a_lost_lease_write_nothing(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session))
        held = at_work(session, made)
        one, other, _ = by_split(session, made, 0, Split.TRAIN)
        assert near_checks.record_pairs(session, held, [(one, "gone", 0.9)]) == 0
        session.commit()
        with pytest.raises(Fenced):
            near_checks.record_pairs(session, Claim(held.id, held.attempt + 1), [(one, other, 0.9)])
        assert session.scalars(select(NearPair)).all() == []


def test_a_version_is_looked_at_again_only_where_features_were_missing(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session))
        held = at_work(session, made)
        near_checks.request_check(session, made)
        assert claim(session, NEAR_CHECK_LIFE, "tests", 60) is None, "it is at work"
        near_checks.finish_ready(session, held, made.image_count - 1, frozenset())
        near_checks.finish_ready(session, at_work(session, made), made.image_count, frozenset())
        near_checks.request_check(session, made)
        assert claim(session, NEAR_CHECK_LIFE, "tests", 60) is None, "all were compared"
        failed = {"status": NearCheckStatus.FAILED, "failures": 3, "error": "Lost."}
        session.execute(update(NearCheck).values(**failed))
        near_checks.request_check(session, made)
        check = session.scalars(select(NearCheck).execution_options(populate_existing=True)).one()
        assert (check.status, check.failures, check.error) == (NearCheckStatus.QUEUED, 0, None)


def test_a_run_that_ends_while_the_check_is_at_work_has_it_look_again(database: Database) -> None:
    with database.write() as session:
        made = version(session, person(session))
        held = at_work(session, made)
        known = near_checks.runs_known(session, held)
        assert known == frozenset()
        run = ended_run(session, made, None)
        near_checks.request_check(session, made)
        near_checks.finish_ready(session, held, made.image_count - 1, known)
        again = claim(session, NEAR_CHECK_LIFE, "tests", 60)
        assert again is not None, "its features are not compared"
        known = near_checks.runs_known(session, again)
        assert known == {run.id}
        near_checks.finish_ready(session, again, made.image_count - 1, known)
        assert claim(session, NEAR_CHECK_LIFE, "tests", 60) is None, "nothing came since"
        third = at_work(session, made)
        near_checks.finish_ready(session, third, made.image_count, frozenset())
        assert claim(session, NEAR_CHECK_LIFE, "tests", 60) is None, "all are compared"


def test_deleting_the_dataset_meanwhile_waits_and_nobody_waits_in_a_circle(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        made = version(session, person(session))
        one, other, _ = by_split(session, made, 0, Split.TRAIN)
        held = at_work(session, made)
    at_it, failed = threading.Event(), []
    tell = near_checks._tell_versions

    def slowly(*given: Any) -> None:
        at_it.set()
        time.sleep(0.5)  # the other is at the dataset by now
        tell(*given)

    def attempt(call: Callable[[Session], object]) -> None:
        try:
            with database.write() as session:
                call(session)
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            failed.append(error)

    def removed(session: Session) -> None:
        delete_dataset(session, session.get_one(Dataset, made.dataset_id), force=True)

    monkeypatch.setattr(near_checks, "_tell_versions", slowly)
    pair: list[near_checks.Pair] = [(one, other, 0.9)]
    recording = threading.Thread(target=attempt, args=(lambda session: near_checks.record_pairs(session, held, pair),))
    deleting = threading.Thread(target=attempt, args=(removed,))
    recording.start()
    assert at_it.wait(10)
    deleting.start()
    for thread in (recording, deleting):
        thread.join()
    assert failed == []
    with database.read() as session:
        assert session.scalars(select(Dataset)).all() == []
        assert session.scalars(select(NearCheck)).all() == []


def test_near_checks_are_leased_like_all_work() -> None:
    assert NEAR_CHECK_LIFE in LIVES
    assert NEAR_CHECK_LIFE.queue == "batch"
