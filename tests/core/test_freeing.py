"""Pictures go when nobody uses them any more, never before: rows at once, files an hour later."""

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from core import freeing
from core.accounts import create_user, delete_user
from core.config import Settings
from core.database import Database
from core.datasets import (
    Placed,
    VersionDraft,
    create_dataset,
    delete_dataset,
    remember_image,
    remember_images,
    remember_looks,
)
from core.errors import StorageAway
from core.freeing import Freeing, bytes_to_free, free_rows
from core.fsck import YOUNG_SECONDS, Fsck
from core.quota import used_bytes
from core.storage import FolderStorage, Storage, blob_key, open_storage, thumbnail_key
from core.tables import (
    Dataset,
    Decision,
    FreedFile,
    Image,
    ImageLook,
    LabelDecision,
    NearPair,
    Outcome,
    ReceiptRow,
    Split,
    Upload,
    UploadStatus,
    User,
)
from core.uploads import delete_upload
from tests.core.rows import add_version
from tests.s3 import Bucket

pytestmark = pytest.mark.both_databases
WEBP = b"RIFF" + (8).to_bytes(4, "little") + b"WEBPxxxx"
LATER = 2 * YOUNG_SECONDS


class House:
    """A database with files beside it."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.storage: Storage = open_storage(settings)
        self.freeing = Freeing(settings, database, self.storage)

    def person(self, name: str) -> str:
        """The id of a new user."""
        with self.database.write() as session:
            return create_user(session, name, "a long enough password").id

    def picture(self, session: Session, owner_id: str, number: int) -> Placed:
        """A stored picture with its row."""
        sha256 = f"{number:064x}"
        body = f"picture {number:03d}".encode()
        if not self.storage.has(blob_key(sha256)):
            self.storage.put(blob_key(sha256), body)
            self.storage.put(thumbnail_key(sha256), WEBP)
        image_id = remember_image(session, owner_id, sha256, facts())
        return Placed(image_id, sha256, f"cat/{number}.png", "cat", Split.TRAIN)

    def dataset(self, owner_id: str, numbers: range) -> str:
        """The id of a dataset with one version of these pictures."""
        with self.database.write() as session:
            dataset = create_dataset(session, owner_id, "Pets")
            add_version(session, dataset, VersionDraft([self.picture(session, owner_id, one) for one in numbers]))
            return dataset.id

    def upload(self, owner_id: str, dataset_id: str, number: int, status: UploadStatus) -> str:
        """The id of an upload in whose receipt a picture is that no version has."""
        with self.database.write() as session:
            upload = Upload(owner_id=owner_id, dataset_id=dataset_id, status=status, by_reason={})
            session.add(upload)
            session.flush()
            self.receipt(session, upload.id, self.picture(session, owner_id, number).image_id)
            return upload.id

    def receipt(self, session: Session, upload_id: str, image_id: str) -> None:
        """Name a picture in the receipt."""
        row = {"upload_id": upload_id, "ordinal": 0, "path": "a.png", "outcome": Outcome.KEPT, "image_id": image_id}
        session.execute(insert(ReceiptRow), [row | {"code": "", "reason": ""}])

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset."""
        with self.database.write() as session:
            delete_dataset(session, session.get_one(Dataset, dataset_id), force=True)

    def sweep(self, *, hours: int = 0) -> None:
        """Free what can be freed, after some hours."""
        with self.database.write() as session:
            session.execute(update(FreedFile).values(freed_at=FreedFile.freed_at - hours * 3601))
        while self.freeing.step(time.monotonic() + 60):
            pass

    def pictures(self, owner_id: str) -> set[int]:
        """The pictures that a person has."""
        with self.database.read() as session:
            return {int(one, 16) for one in session.scalars(select(Image.sha256).where(Image.owner_id == owner_id))}

    def files(self) -> set[int]:
        """The pictures whose file and thumbnail are there."""
        blobs = {int(Path(one.key).name, 16) for one in self.storage.listing("blobs")}
        small = {int(Path(one.key).stem, 16) for one in self.storage.listing("thumbnails")}
        assert blobs == small
        return blobs

    def troubles(self) -> list[str]:
        """What `thaw fsck` says two hours from now."""
        looked = Fsck(self.settings, self.database, self.storage, hashes=False, now=lambda: time.time() + LATER)
        return [f"{one.kind} {one.key}" for one in looked.run()]

    def used(self, owner_id: str) -> int:
        """Bytes that count for the quota."""
        with self.database.read() as session:
            return used_bytes(session, owner_id)


def facts() -> dict[str, object]:
    return {"width": 1, "height": 1, "format": "PNG", "size_bytes": 11}


@pytest.fixture
def house(tmp_path: Path, database: Database) -> House:
    """An empty one."""
    return House(Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0), database)


def test_the_pictures_of_a_deleted_dataset_go_with_all_that_hangs_on_them(house: House) -> None:
    ada = house.person("ada")
    doomed, kept = house.dataset(ada, range(5)), house.dataset(ada, range(3, 8))
    with house.database.write() as session:
        ids = sorted(session.scalars(select(Image.id)))
        look = {"hashes": b"", "grey": b"", "flags": 0, "camera": None, "taken_at": None}
        remember_looks(session, dict.fromkeys(ids, look))
        pairs = [{"image_id": ids[0], "other_id": other, "score": 1.0} for other in (ids[1], ids[7])]
        session.execute(insert(NearPair), pairs)
        said = LabelDecision(
            dataset_id=doomed, image_id=ids[0], owner_id=ada, decision=Decision.DISMISS, class_name="cat"
        )
        session.add(said)
    house.sweep()
    assert (house.used(ada), house.pictures(ada)) == (8 * 11, set(range(8))), "all are in use"
    house.delete(doomed)
    house.sweep()
    assert house.pictures(ada) == {3, 4, 5, 6, 7}
    assert house.used(ada) == 5 * 11, "the quota falls at once"
    assert house.files() == set(range(8)), "somebody may be reading them"
    assert house.troubles() == []
    with house.database.read() as session:
        for table, count in ((ImageLook, 5), (NearPair, 0), (LabelDecision, 0)):
            assert session.scalar(select(func.count()).select_from(table)) == count
    house.sweep(hours=1)
    assert house.files() == {3, 4, 5, 6, 7}
    assert house.troubles() == []
    house.delete(kept)
    house.sweep()
    house.sweep(hours=1)
    assert (house.files(), house.used(ada)) == (set(), 0)


def test_shared_bytes_stay_until_the_last_person_is_gone(house: House) -> None:
    ada, bob = house.person("ada"), house.person("bob")
    first, second, his = house.dataset(ada, range(2)), house.dataset(ada, range(2)), house.dataset(bob, range(1, 3))
    house.delete(first)
    house.sweep(hours=1)
    assert house.pictures(ada) == {0, 1}, "another dataset of hers has them"
    house.delete(second)
    house.sweep()
    house.sweep(hours=1)
    assert (house.pictures(ada), house.pictures(bob), house.files()) == (set(), {1, 2}, {1, 2})
    house.delete(his)
    house.sweep()
    house.sweep(hours=1)
    assert (house.pictures(bob), house.files()) == (set(), set())


def test_a_picture_that_comes_again_within_the_hour_keeps_its_file(house: House) -> None:
    ada, bob = house.person("ada"), house.person("bob")
    house.delete(house.dataset(ada, range(3)))
    house.sweep()
    house.dataset(bob, range(1))
    house.sweep(hours=1)
    assert house.files() == {0}
    with house.database.read() as session:
        assert session.scalar(select(func.count()).select_from(FreedFile)) == 0


@pytest.mark.parametrize("status", [UploadStatus.RECEIVED, UploadStatus.INGESTING])
def test_an_upload_that_goes_on_keeps_its_pictures(house: House, status: UploadStatus) -> None:
    ada = house.person("ada")
    upload_id = house.upload(ada, house.dataset(ada, range(1)), 7, status)
    house.sweep()
    assert house.pictures(ada) == {0, 7}
    with house.database.write() as session:
        delete_upload(session, house.settings, session.get_one(Upload, upload_id))
    house.sweep()
    assert house.pictures(ada) == {0}


def test_a_rejected_upload_keeps_its_pictures_as_long_as_it_can_be_tried_again(house: House) -> None:
    ada = house.person("ada")
    upload_id = house.upload(ada, house.dataset(ada, range(1)), 7, UploadStatus.REJECTED)
    received = house.settings.incoming_folder / upload_id
    received.mkdir(parents=True)
    house.sweep()
    assert house.pictures(ada) == {0, 7}
    received.rmdir()
    house.freeing.look_again()
    house.sweep()
    assert house.pictures(ada) == {0}
    with house.database.read() as session:
        assert session.scalars(select(ReceiptRow.image_id)).all() == [None], "its receipt stays readable"


def test_many_pictures_go_in_small_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeing, "LOOKED_AT", 4)
    monkeypatch.setattr(freeing, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(freeing, "FILES_AT_ONCE", 3)
    ada = house.person("ada")
    dataset_id = house.dataset(ada, range(10))
    house.dataset(ada, range(5, 6))
    house.delete(dataset_id)
    left = []
    while house.freeing.step(time.monotonic() + 60):
        left.append(len(house.pictures(ada)))
    assert left == [6, 3, 1], "four are looked at in each step"
    with house.database.write() as session:
        session.execute(update(FreedFile).values(freed_at=1.0))
    gone = []
    while house.freeing.step(time.monotonic() + 60):
        gone.append(len(house.files()))
    assert gone == [7, 4, 1]
    assert house.files() == {5}


def test_a_deleted_person_leaves_no_file_that_no_other_has(house: House) -> None:
    ada, bob = house.person("ada"), house.person("bob")
    house.dataset(ada, range(3))
    house.dataset(bob, range(1))
    with house.database.write() as session:
        delete_user(session, session.get_one(User, ada))
    house.sweep()
    assert house.files() == {0, 1, 2}
    assert house.troubles() == []
    house.sweep(hours=1)
    assert (house.pictures(bob), house.files()) == ({0}, {0})


def test_a_person_who_was_not_deleted_after_all_loses_nothing(house: House) -> None:
    ada = house.person("ada")
    house.dataset(ada, range(3))
    with house.database.write() as session:
        freeing.note_all_left(session, ada)
    house.sweep(hours=1)
    assert (house.pictures(ada), house.files()) == ({0, 1, 2}, {0, 1, 2})


def test_a_storage_that_goes_away_in_the_middle_loses_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = house.person("ada")
    house.delete(house.dataset(ada, range(4)))
    house.sweep()
    with monkeypatch.context() as away:
        real, asked = FolderStorage.delete, []

        def fail_later(storage: FolderStorage, key: str) -> None:
            asked.append(key)
            if len(asked) > 3:
                raise StorageAway("The bucket does not answer.")
            real(storage, key)

        away.setattr(FolderStorage, "delete", fail_later)
        with pytest.raises(StorageAway):
            house.sweep(hours=1)
    assert house.troubles() == [], "half of it is gone, and that is known"
    house.sweep()
    assert house.files() == set()


def test_a_sweeper_whose_lease_is_over_touches_no_file(house: House) -> None:
    ada = house.person("ada")
    house.delete(house.dataset(ada, range(4)))
    house.sweep()
    with house.database.write() as session:
        session.execute(update(FreedFile).values(freed_at=1.0))
    assert not house.freeing.step(time.monotonic() - 1)
    assert house.files() == {0, 1, 2, 3}
    house.sweep()
    assert house.files() == set()


def test_a_picture_about_to_be_named_is_not_freed(house: House) -> None:
    """An ingest holds the row, its receipt is not committed: whoever wants to free it waits, or leaves it."""
    ada = house.person("ada")
    dataset_id = house.dataset(ada, range(1))
    upload_id = house.upload(ada, dataset_id, 6, UploadStatus.INGESTING)
    with house.database.write() as session:
        placed = house.picture(session, ada, 7)
    with house.database.write() as session:
        assert remember_image(session, ada, placed.sha256, facts()) == placed.image_id
        sweeping = threading.Thread(target=house.sweep)
        sweeping.start()
        sweeping.join(0.5)
        session.execute(update(ReceiptRow).where(ReceiptRow.upload_id == upload_id).values(image_id=placed.image_id))
    sweeping.join(30)
    house.sweep()
    assert house.pictures(ada) >= {0, 7}
    with house.database.read() as session:
        assert session.scalars(select(ReceiptRow.image_id)).all() == [placed.image_id]


def test_a_picture_that_is_just_being_freed_is_made_anew(house: House) -> None:
    """Its row is deleted, that is not committed: an ingest that finds it waits, and makes another one."""
    ada = house.person("ada")
    with house.database.write() as session:
        old = [house.picture(session, ada, number) for number in range(3)]
    made: dict[str, str] = {}

    def ingest() -> None:
        with house.database.write() as session:
            made.update(remember_images(session, ada, {one.sha256: facts() for one in old}))

    with house.database.write() as session:
        free_rows(session, house.settings, [one.image_id for one in old[:2]])
        ingesting = threading.Thread(target=ingest)
        ingesting.start()
        ingesting.join(0.5)
    ingesting.join(30)
    with house.database.read() as session:
        rows = {row.sha256: row.id for row in session.scalars(select(Image))}
    assert made == rows
    assert {one.image_id for one in old} & set(rows.values()) == {old[2].image_id}


def test_the_page_that_asks_says_what_only_this_dataset_has(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = house.person("ada")
    first = house.dataset(ada, range(5))
    house.dataset(ada, range(3, 8))
    house.dataset(house.person("bob"), range(5))
    with house.database.read() as session:
        dataset = session.get_one(Dataset, first)
        assert bytes_to_free(session, dataset) == (3, 33)
        monkeypatch.setattr("core.freeing.MOST_COUNTED", 4)  # the versions have five
        assert bytes_to_free(session, dataset) is None


def test_files_in_a_bucket_go_too(tmp_path: Path, database: Database, bucket: Bucket) -> None:
    given = Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0, **bucket.settings)
    house = House(given, database)
    ada = house.person("ada")
    doomed = house.dataset(ada, range(5))
    house.dataset(ada, range(4, 6))
    house.delete(doomed)
    house.sweep()
    house.sweep(hours=1)
    assert house.files() == {4, 5}
    assert house.troubles() == []
