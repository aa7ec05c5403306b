"""Versions made from versions: every change, what may not come out, numbers and fingerprints as if made from a list."""

import threading

import pytest
from pydantic import ValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core import datasets
from core.database import Database
from core.errors import Conflict, InputInvalid
from core.new_version import change_version
from core.tables import DatasetVersion, Image, Split, VersionImage
from core.version_changes import MOST_PICKED, VersionChanges
from core.version_diff import Differences
from tests.core.rows import add_version, person, version
from tests.core.rows import changed as made

pytestmark = pytest.mark.both_databases


def ids(session: Session, base: DatasetVersion, class_name: str, split: str | None = None) -> list[str]:
    """Pictures of a class, by file name."""
    return [
        one.image_id
        for one in datasets.placed_pictures(session, base)
        if one.class_name == class_name and split in {None, one.split.value}
    ]


def places(session: Session, base: DatasetVersion) -> dict[str, tuple[str, str]]:
    """Class and split of every picture."""
    return {one.image_id: (one.class_name, one.split.value) for one in datasets.placed_pictures(session, base)}


def test_moved_relabelled_and_removed_pictures_make_a_version_and_the_base_stays(database: Database) -> None:
    with database.write() as session:
        base = version(session, person(session), classes=3)
        before = places(session, base)
        first = [ids(session, base, "class 0", "train")[0], *ids(session, base, "class 1", "train")[:2]]
        new = made(
            session,
            base,
            move=[{"image_ids": [first[0]], "split": "test"}],
            relabel=[{"image_ids": [first[1]], "class_name": "class 2"}],
            remove=[first[2]],
        )
        after = places(session, new)
        assert after[first[0]] == ("class 0", "test")
        assert after[first[1]] == ("class 2", "train")
        assert first[2] not in after
        untouched = set(before) - set(first)
        assert all(after[one] == before[one] for one in untouched)
        assert places(session, base) == before
        assert (new.number, new.base_version_id, new.image_count) == (2, base.id, 14)
        assert new.counts["class 2"] == {"train": 4, "validation": 1, "test": 1}
        assert session.scalar(select(func.count()).select_from(Image)) == 15


def test_rows_and_fingerprints_are_those_of_a_version_made_from_a_list(database: Database) -> None:
    with database.write() as session:
        base = version(session, person(session), classes=3)
        moved = ids(session, base, "class 0")[0]
        merge = [{"class_names": ["class 2"], "into": "class 1"}]
        new = made(session, base, move=[{"image_ids": [moved], "split": "test"}], merge=merge)
        placed = datasets.placed_pictures(session, new)
        again = add_version(session, session.get_one(datasets.Dataset, base.dataset_id), datasets.VersionDraft(placed))
        for one in ("fingerprint", "test_fingerprint", "class_names", "counts", "image_count"):
            assert getattr(new, one) == getattr(again, one), one
        assert datasets.placed_pictures(session, again) == placed
        ordinals = select(VersionImage.ordinal).where(VersionImage.version_id == new.id).order_by(VersionImage.ordinal)
        assert list(session.scalars(ordinals)) == list(range(15))


def test_classes_are_renamed_merged_and_go_when_they_are_empty(database: Database) -> None:
    with database.write() as session:
        base = version(session, person(session), classes=4)
        new = made(
            session,
            base,
            rename={"class 0": "zebra", "class 1": "class 0"},
            relabel=[{"image_ids": ids(session, base, "class 2"), "class_name": "an ox"}],
        )
        assert new.class_names == ["an ox", "class 0", "class 3", "zebra"]
        assert set(ids(session, new, "zebra")) == set(ids(session, base, "class 0"))
        assert set(ids(session, new, "an ox")) == set(ids(session, base, "class 2"))
        merged = made(session, new, merge=[{"class_names": ["zebra", "an ox"], "into": "animal"}])
        assert merged.class_names == ["animal", "class 0", "class 3"]
        assert sum(merged.counts["animal"].values()) == 10


def test_a_new_split_is_seeded_and_keeps_groups_whole(database: Database) -> None:
    wish = {"fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}, "seed": 3}
    with database.write() as session:
        base = version(session, person(session), each=20)
        dataset = session.get_one(datasets.Dataset, base.dataset_id)
        grouped = [
            datasets.Placed(one.image_id, one.sha256, one.filename, one.class_name, one.split, f"g{index // 2}")
            for index, one in enumerate(datasets.placed_pictures(session, base))
        ]
        base = add_version(session, dataset, datasets.VersionDraft(grouped))
        new, again = (made(session, base, resplit=wish) for _ in range(2))
        other = made(session, base, resplit={**wish, "seed": 4})
        loose = made(session, base, resplit={**wish, "group_by": "none"})
        assert new.fingerprint == again.fingerprint != other.fingerprint
        for name in new.class_names:
            assert new.counts[name] == {"train": 10, "validation": 5, "test": 5} or sum(new.counts[name].values()) == 20
        torn = {
            one.id: len({(p.group, p.split) for p in datasets.placed_pictures(session, one)}) - 20
            for one in (new, loose)
        }
        assert torn[new.id] == 0
        assert torn[loose.id] > 0


def test_an_older_version_is_brought_back_by_changing_nothing(database: Database) -> None:
    with database.write() as session:
        base = version(session, person(session))
        second = made(session, base, remove=ids(session, base, "class 0")[:1])
        third = made(session, base)
        assert (third.number, third.fingerprint) == (3, base.fingerprint)
        assert third.fingerprint != second.fingerprint
        with pytest.raises(Conflict, match="Nothing would be different from version 3"):
            made(session, third)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"remove": ["nothing"]}, 'no picture "nothing"'),
        ({"rename": {"cow": "ox"}}, 'no class "cow"'),
        ({"rename": {"class 0": "class 1"}}, "merge them"),
        ({"merge": [{"class_names": ["class 0", "class 1"], "into": "all"}]}, "at least two classes"),
        ({"relabel": "all but two of class 0"}, 'class "class 0" would have 2 pictures'),
        ({"move": "all of class 0 to test"}, 'class "class 0" would have no training picture'),
        ({"move": "every validation picture to train"}, "No validation picture would be left"),
    ],
)
def test_what_cannot_be_done_or_learned_from_is_refused(
    database: Database, changes: dict[str, object], sentence: str
) -> None:
    with database.write() as session:
        base = version(session, person(session))
        mine = ids(session, base, "class 0")
    if changes.get("relabel"):
        changes = {"relabel": [{"image_ids": mine[:3], "class_name": "class 1"}]}
    elif changes.get("move") == "all of class 0 to test":
        changes = {"move": [{"image_ids": mine, "split": "test"}]}
    elif changes.get("move"):
        with database.read() as session:
            every = [one for name in base.class_names for one in ids(session, base, name, "validation")]
        changes = {"move": [{"image_ids": every, "split": "train"}]}
    with pytest.raises(InputInvalid, match=sentence), database.write() as session:
        made(session, session.get_one(DatasetVersion, base.id), **changes)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(DatasetVersion)) == 1
        assert session.scalar(select(func.count()).select_from(VersionImage)) == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"remove": ["a", "a"]},
        {"remove": ["a"], "move": [{"image_ids": ["a"], "split": "test"}]},
        {"move": [{"image_ids": ["a"], "split": "exam"}]},
        {"remove": [str(number) for number in range(MOST_PICKED + 1)]},
        {"relabel": [{"image_ids": ["a"], "class_name": "  "}]},
        {"resplit": {"fractions": {"train": 0.8, "validation": 0.1, "test": 0.2}}},
        {
            "resplit": {"fractions": {"train": 0.8, "validation": 0.1, "test": 0.1}},
            "move": [{"image_ids": ["a"], "split": "test"}],
        },
        {"shuffle": True},
    ],
)
def test_changes_that_contradict_themselves_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VersionChanges.model_validate(changes)


def test_two_changes_at_once_become_two_numbers(database: Database) -> None:
    with database.write() as session:
        base = version(session, person(session))
        pictures = ids(session, base, "class 0")
    start = threading.Barrier(3)
    failed: list[Exception] = []

    def change(picture: str) -> None:
        start.wait()
        try:
            change_version(database, base, VersionChanges(remove=[picture]))
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            failed.append(error)

    threads = [threading.Thread(target=change, args=(picture,)) for picture in pictures[:3]]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failed == []
    with database.read() as session:
        numbers = session.scalars(select(DatasetVersion.number).order_by(DatasetVersion.number)).all()
        assert numbers == [1, 2, 3, 4]


def test_a_difference_names_every_picture_once_and_counts_them(database: Database) -> None:
    differences = Differences()
    with database.write() as session:
        base = version(session, person(session), classes=3, each=10)
        mine = ids(session, base, "class 0")
        new = made(
            session,
            base,
            remove=[mine[0]],
            move=[{"image_ids": mine[1:3], "split": "validation"}],
            relabel=[{"image_ids": [mine[2]], "class_name": "class 1"}],
            rename={"class 2": "third"},
        )
        there = differences.counted(session, base, new)
        assert there.counts == {"added": 0, "removed": 1, "relabelled": 11, "moved": 2, "regrouped": 0}
        assert (there.classes_added, there.classes_removed) == (["third"], ["class 2"])
        back = differences.counted(session, new, base)
        assert back.counts == {"added": 1, "removed": 0, "relabelled": 11, "moved": 2, "regrouped": 0}
        seen, cursor = [], None
        while True:
            page = differences.page(session, base, new, limit=3, cursor=cursor)
            seen += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert [one.image_id for one in seen if one.after is None] == [mine[0]]
        assert {one.image_id for one in seen} == {*mine[:3], *ids(session, base, "class 2")}
        assert len(seen) == 13
        both = next(one for one in seen if one.image_id == mine[2])
        assert both.before is not None
        assert both.after is not None
        assert (both.before.class_name, both.after.class_name) == ("class 0", "class 1")
        assert (both.before.split, both.after.split) == (Split.TRAIN, Split.VALIDATION)
        assert differences.counted(session, base, base).is_empty


def test_differences_that_were_found_are_kept_the_latest_longest(database: Database) -> None:
    differences = Differences(most_kept=2100)
    with database.write() as session:
        base = version(session, person(session), each=20)
        mine = ids(session, base, "class 0")
        others = [made(session, base, remove=[one]) for one in mine[:3]]
        expected = {"added": 0, "removed": 1, "relabelled": 0, "moved": 0, "regrouped": 0}
        for _ in range(2):
            assert [differences.counted(session, base, one).counts for one in others] == [expected] * 3
        assert list(differences._known) == [(base.id, one.id) for one in others[1:]]
        session.execute(
            delete(VersionImage).where(VersionImage.version_id == base.id)
        )  # so that a pass would find nothing
        assert differences.counted(session, base, others[2]).counts == expected
        assert [one.after for one in differences.page(session, others[2], others[1]).items] != []


def test_changes_that_change_nothing_make_no_version(database: Database) -> None:
    with database.write() as session:
        base = version(session, person(session))
        first = ids(session, base, "class 0", "train")[0]
        nothing: list[dict[str, object]] = [
            {"move": [{"image_ids": [first], "split": "train"}]},
            {"relabel": [{"image_ids": [first], "class_name": "class 0"}]},
            {"rename": {"class 0": "class 0"}},
        ]
    for changes in nothing:
        with pytest.raises(Conflict, match="Nothing would be different from version 1"), database.write() as session:
            made(session, session.get_one(DatasetVersion, base.id), **changes)
    with database.write() as session:
        base = session.get_one(DatasetVersion, base.id)
        second = made(session, base, move=[{"image_ids": [first], "split": "test"}])
        third = made(session, base)  # takes the move back
        assert (second.number, third.number, third.fingerprint) == (2, 3, base.fingerprint)
    with pytest.raises(Conflict, match="from version 3, which is the newest"), database.write() as session:
        made(session, session.get_one(DatasetVersion, base.id))
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(DatasetVersion)) == 3
