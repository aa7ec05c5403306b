"""Dataset versions: fingerprints, labels, counts, pictures stored once."""

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from core import catalog, datasets
from core.database import Database
from core.errors import InputInvalid, NotFound
from core.tables import Image, Split
from tests.core.rows import add_version, person, version

pytestmark = pytest.mark.both_databases


def test_labels_follow_the_stored_class_names_and_counts_add_up(database: Database) -> None:
    with database.write() as session:
        frozen = version(session, person(session), classes=3)
        assert frozen.class_names == ["class 0", "class 1", "class 2"]
        assert frozen.counts["class 1"] == {"train": 3, "validation": 1, "test": 1}
        page = catalog.version_images(session, frozen, class_name="class 2", split="test")
        assert [(one.label, one.split) for one in page.items] == [(2, Split.TEST)]


def test_the_fingerprint_ignores_file_names_and_order_but_not_splits(database: Database) -> None:
    with database.write() as session:
        placed = datasets.placed_pictures(session, version(session, person(session)))
    renamed = [replace(one, filename="other.jpg") for one in reversed(placed)]
    moved = [replace(placed[0], split=Split.TEST), *placed[1:]]
    assert datasets.fingerprint(renamed) == datasets.fingerprint(placed)
    assert datasets.fingerprint(moved) != datasets.fingerprint(placed)


def test_the_test_fingerprint_stays_when_only_training_pictures_change(database: Database) -> None:
    with database.write() as session:
        first = version(session, person(session))
        placed = datasets.placed_pictures(session, first)
        dataset = datasets.find_dataset(session, first.owner_id, first.dataset_id)
        fewer = [one for one in placed if one.split != Split.TRAIN or one.filename != "c0/0.png"]
        second = add_version(session, dataset, datasets.VersionDraft(fewer))
        assert second.number == 2
        assert second.fingerprint != first.fingerprint
        assert second.test_fingerprint == first.test_fingerprint


def test_the_same_bytes_are_stored_once_per_owner(database: Database) -> None:
    with database.write() as session:
        facts = {"width": 1, "height": 1, "format": "PNG", "size_bytes": 9}
        mine, other = person(session), person(session, "other")
        ids = [datasets.remember_image(session, owner.id, "f" * 64, facts) for owner in (mine, mine, other)]
        assert ids[0] == ids[1] != ids[2]
        assert session.scalar(select(func.count()).select_from(Image)) == 2


def test_another_persons_dataset_is_not_found(database: Database) -> None:
    with database.write() as session:
        frozen = version(session, person(session))
        other = person(session, "other")
        with pytest.raises(NotFound):
            datasets.find_version(session, other.id, frozen.id)
        with pytest.raises(NotFound):
            catalog.find_image(session, other.id, datasets.placed_pictures(session, frozen)[0].image_id)


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 201])
def test_an_unusable_name_is_refused(name: str) -> None:
    with pytest.raises(InputInvalid, match="1 to 200 printable"):
        datasets.checked_name(name)


@pytest.mark.parametrize("name", ["Blumen für Anfänger", "花の写真", "زهور"])
def test_names_in_any_alphabet_are_welcome(name: str) -> None:
    assert datasets.checked_name(f" {name} ") == name
