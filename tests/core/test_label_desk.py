"""The label desk's verbs: decisions are kept, test is apart, and changed labels make the next version."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from sqlalchemy.orm import Session

from core import label_desk
from core.database import Database
from core.datasets import Placed, VersionDraft, create_dataset, placed_pictures, remember_image
from core.errors import Conflict, Fenced, InputInvalid, NotFound
from core.leases import LABEL_CHECK_LIFE, LIVES, claim
from core.presets import PRESETS
from core.queue import Queue
from core.runs import NewRun, create_runs
from core.tables import DatasetVersion, Decision, LabelCheckStatus, Split, User
from tests.core import rows
from tests.core.rows import RememberingQueue, add_version
from tests.core.sqlite_steps import sqlite_steps

pytestmark = pytest.mark.both_databases
CLASSES = ("cat", "dog", "fox")
SPLITS = (Split.TRAIN,) * 6 + (Split.VALIDATION,) * 2 + (Split.TEST,) * 2


def make_version(session: Session, user: User | None = None) -> DatasetVersion:
    """Three classes of ten pictures, of a new person where none is given."""
    if user is None:
        user = User(name="ada")
        session.add(user)
        session.flush()
    dataset = create_dataset(session, user.id, "Pets")
    placed = []
    for label, name in enumerate(CLASSES):
        for number, split in enumerate(SPLITS):
            sha = f"{label}{number}".ljust(64, "0")
            facts = {"width": 1, "height": 1, "format": "PNG", "size_bytes": 1}
            image_id = remember_image(session, user.id, sha, facts)
            placed.append(Placed(image_id, sha, f"{name}/{number}.png", name, split))
    return add_version(session, dataset, VersionDraft(placed))


def images(session: Session, version: DatasetVersion) -> dict[str, str]:
    """Picture ids by file name."""
    return {one.filename: one.image_id for one in placed_pictures(session, version)}


def checked(session: Session, version: DatasetVersion, doubted: list[tuple[str, int, int, bool]]) -> None:
    """A check that is ready: (picture, given label, suggested label, likely)."""
    label_desk.request_check(session, None, version)
    held = claim(session, LABEL_CHECK_LIFE, "tests", 60)
    assert held is not None
    found = [
        {"image_id": one, "given": given, "suggested": other, "given_probability": 0.1, "likely": likely}
        | {"suggested_probability": 0.8}
        for one, given, other, likely in doubted
    ]
    label_desk.finish_ready(session, held, found, version.class_names, {"pictures": 24})


@pytest.fixture
def session(database: Database) -> Session:  # type: ignore[misc]
    with database.write() as writing:
        yield writing


def test_a_check_is_one_of_the_lives_of_the_house() -> None:
    assert LABEL_CHECK_LIFE in LIVES
    assert LABEL_CHECK_LIFE.queue == "batch"


def test_a_check_is_asked_for_once_and_again_only_when_it_failed(session: Session) -> None:
    version = make_version(session)
    queue = RememberingQueue()
    first = label_desk.request_check(session, cast("Queue", queue), version)
    assert label_desk.request_check(session, cast("Queue", queue), version).id == first.id
    held = claim(session, LABEL_CHECK_LIFE, "tests", 60)
    assert held is not None
    label_desk.finish_failed(session, held, "The weights are away.")
    session.expire_all()
    assert (first.status, first.error) == (LabelCheckStatus.FAILED, "The weights are away.")
    again = label_desk.request_check(session, cast("Queue", queue), version)
    assert (again.id, again.status, again.error) == (first.id, LabelCheckStatus.QUEUED, None)
    with pytest.raises(Fenced):
        label_desk.finish_cancelled(session, held)


def all_at_once(database: Database, call: Callable[[Session], object]) -> None:
    """Four people do the same, each in a transaction of its own."""
    start, failed = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        try:
            with database.write() as session:
                call(session)
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failed == []


def test_the_same_pressed_at_once_is_done_once(database: Database) -> None:
    with database.write() as session:
        version = make_version(session)
        cat = images(session, version)["cat/0.png"]
    queue = RememberingQueue()
    all_at_once(database, lambda session: label_desk.request_check(session, cast("Queue", queue), version))
    assert queue.rung == [LABEL_CHECK_LIFE.queue]
    all_at_once(database, lambda session: label_desk.decide(session, version, cat, Decision.RELABEL, "dog"))
    with database.read() as session:
        assert [one.class_name for one in label_desk.pending(session, version)] == ["dog"]


def test_who_stops_a_check_does_not_undo_what_the_worker_did_meanwhile(database: Database) -> None:
    with database.write() as session:
        seen = label_desk.request_check(session, None, make_version(session))
    with database.write() as session:
        held = claim(session, LABEL_CHECK_LIFE, "tests", 60)
    assert held is not None
    with database.write() as session:
        check = session.merge(seen, load=False)  # as it was read: still queued
        assert check.status == LabelCheckStatus.QUEUED
        label_desk.cancel_check(session, check)
        assert (check.status, check.finished_at) == (LabelCheckStatus.CHECKING, None)
        assert check.cancel_requested_at is not None
        seen = check
    with database.write() as session:
        label_desk.finish_ready(session, held, [], CLASSES, {"pictures": 24})
    with database.write() as session:
        check = session.merge(seen, load=False)
        label_desk.cancel_check(session, check)
        assert check.status == LabelCheckStatus.READY


def test_doubts_come_in_order_and_leave_the_list_when_they_are_decided(session: Session) -> None:
    version = make_version(session)
    ids = images(session, version)
    first, second, third = ids["cat/0.png"], ids["dog/1.png"], ids["fox/6.png"]
    checked(session, version, [(first, 0, 1, True), (second, 1, 2, True), (third, 2, 0, False)])
    check = label_desk.find_check(session, version)
    assert check is not None
    page = label_desk.doubts(session, version, check, limit=2)
    assert [one.suggestion.image_id for one in page.items] == [first, second]
    rest = label_desk.doubts(session, version, check, limit=2, cursor=page.next_cursor)
    assert [one.suggestion.image_id for one in rest.items] == [third]
    label_desk.decide(session, version, first, Decision.RELABEL, "dog")
    label_desk.decide(session, version, second, Decision.DISMISS, None)
    assert [one.suggestion.image_id for one in label_desk.doubts(session, version, check, decided=False).items] == [
        third
    ]
    assert label_desk.progress(session, version, check) == label_desk.Progress(2, 0, 1, 0)
    label_desk.take_back(session, version, second)
    assert label_desk.progress(session, version, check).open == 1


def test_accepted_labels_make_the_next_version_and_leave_the_test_alone(session: Session) -> None:
    version = make_version(session)
    ids = images(session, version)
    label_desk.decide(session, version, ids["cat/0.png"], Decision.RELABEL, "dog")
    label_desk.decide(session, version, ids["cat/8.png"], Decision.RELABEL, "fox")  # of test
    after = applied_to(session, version, test=False)
    assert (after.number, after.base_version_id) == (2, version.id)
    assert after.fingerprint != version.fingerprint
    assert after.test_fingerprint == version.test_fingerprint
    assert (after.counts["cat"]["train"], after.counts["dog"]["train"], after.counts["cat"]["test"]) == (5, 7, 2)
    assert any("test is untouched" in note for note in after.notes)
    left = label_desk.progress(session, after, None)
    assert (left.pending, left.pending_test) == (0, 1), "what is applied does not wait any more"
    with pytest.raises(Conflict):
        applied_to(session, after, test=False)
    tested = applied_to(session, after, test=True)
    assert tested.test_fingerprint != version.test_fingerprint
    assert any("not comparable" in note for note in tested.notes)


def applied_to(session: Session, version: DatasetVersion, *, test: bool) -> DatasetVersion:
    """The next version with what was said at the desk."""
    session.refresh(version)
    with rows.database_of(session) as database:
        made = label_desk.apply_decisions(database, version, test=test)
    session.expire_all()
    return session.get_one(DatasetVersion, made.id)


def test_decisions_follow_the_names_of_classes_and_do_not_wait_again(session: Session) -> None:
    version = make_version(session)
    ids = images(session, version)
    label_desk.decide(session, version, ids["cat/0.png"], Decision.RELABEL, "dog")
    after = applied_to(session, version, test=False)
    label_desk.decide(session, after, ids["cat/1.png"], Decision.RELABEL, "fox")  # not applied yet
    swapped = rows.changed(session, after, rename={"cat": "dog", "dog": "cat"})
    waiting = label_desk.Pending(ids["cat/1.png"], Split.TRAIN, "fox")
    assert label_desk.pending(session, swapped) == [waiting]
    renamed = rows.changed(session, swapped, rename={"fox": "vixen", "cat": "hound"})
    assert label_desk.pending(session, renamed) == [replace(waiting, class_name="vixen")]
    merged = rows.changed(session, renamed, merge=[{"class_names": ["hound", "vixen"], "into": "canine"}])
    assert label_desk.pending(session, merged) == [replace(waiting, class_name="canine")]
    applied = applied_to(session, merged, test=False)
    assert (applied.class_names, applied.counts["dog"]["train"]) == (["canine", "dog"], 4)
    assert label_desk.pending(session, applied) == []


def test_a_label_given_by_hand_is_the_last_word(session: Session) -> None:
    version = make_version(session)
    ids = images(session, version)
    label_desk.decide(session, version, ids["cat/0.png"], Decision.RELABEL, "dog")
    after = applied_to(session, version, test=False)
    by_hand = rows.changed(session, after, relabel=[{"image_ids": [ids["cat/0.png"]], "class_name": "fox"}])
    assert label_desk.pending(session, by_hand) == []
    label_desk.decide(session, by_hand, ids["cat/1.png"], Decision.RELABEL, "fox")
    without = rows.changed(
        session, by_hand, remove=[ids["cat/0.png"], *(ids[f"fox/{number}.png"] for number in range(10))]
    )
    assert without.class_names == ["cat", "dog"]
    assert label_desk.pending(session, without) == [], "a class that is gone does not come back"


def test_what_waits_is_read_from_the_decisions_not_from_every_picture(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("counts the steps of SQLite")
    taken: list[int] = []
    with database.write() as session:
        for each in (20, 400):
            version = rows.version(session, rows.person(session), each=each, name=f"{each} each")
            some = [one.image_id for one in placed_pictures(session, version) if one.class_name == "class 0"]
            for image_id in some[:4]:
                label_desk.decide(session, version, image_id, Decision.RELABEL, "class 1")
            session.flush()
            with sqlite_steps(session, taken):
                waiting = label_desk.pending(session, version)
            assert len(waiting) == 4
    assert taken[1] < 2 * taken[0], taken


def test_a_dismissal_holds_for_later_versions_as_long_as_the_class_is_the_same(session: Session) -> None:
    version = make_version(session)
    ids = images(session, version)
    dismissed, moved = ids["cat/0.png"], ids["cat/1.png"]
    label_desk.decide(session, version, dismissed, Decision.DISMISS, None)
    label_desk.decide(session, version, moved, Decision.RELABEL, "dog")
    after = applied_to(session, version, test=False)
    checked(session, after, [(dismissed, 0, 2, True), (ids["fox/0.png"], 2, 0, True)])
    check = label_desk.find_check(session, after)
    assert check is not None
    assert [one.suggestion.image_id for one in label_desk.doubts(session, after, check, decided=False).items] == [
        ids["fox/0.png"]
    ]
    checked_again = label_desk.doubts(session, after, check, decided=True).items
    assert [one.suggestion.image_id for one in checked_again] == [dismissed]


def test_test_pictures_come_in_the_order_of_the_version_until_they_are_looked_at(session: Session) -> None:
    version = make_version(session)
    seen = []
    while (place := label_desk.next_test_place(session, version)) is not None:
        assert place.split == Split.TEST
        seen.append(place.filename)
        label_desk.decide(session, version, place.image_id, Decision.DISMISS, None)
    assert seen == [f"{name}/{number}.png" for name in CLASSES for number in (8, 9)]
    assert label_desk.test_looked_at(session, version) == 6


def test_wrong_decisions_are_refused_with_a_sentence(session: Session) -> None:
    version = make_version(session)
    cat = images(session, version)["cat/0.png"]
    for decision, class_name, words in [
        (Decision.RELABEL, "cow", "no class 'cow'"),
        (Decision.RELABEL, None, "no class None"),
        (Decision.RELABEL, "cat", '"cat" already'),
        (Decision.DISMISS, "dog", "is right"),
    ]:
        with pytest.raises(InputInvalid, match=words):
            label_desk.decide(session, version, cat, decision, class_name)
    with pytest.raises(NotFound):
        label_desk.decide(session, version, "nobody", Decision.DISMISS, None)


def test_training_again_queues_the_quick_preset_on_both_versions_once(session: Session) -> None:
    version = make_version(session)
    queue = cast("Queue", RememberingQueue())
    label_desk.decide(session, version, images(session, version)["cat/0.png"], Decision.RELABEL, "dog")
    after = applied_to(session, version, test=False)
    create_runs(session, queue, version, NewRun(config=PRESETS["standard"].config, preset="standard"))
    made = label_desk.train_again(session, queue, after)
    assert [run.dataset_version_id for run in made] == [version.id, after.id]
    assert {run.preset for run in made} == {"quick"}
    assert label_desk.train_again(session, queue, after) == []
