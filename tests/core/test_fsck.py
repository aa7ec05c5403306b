"""Rows against files: every kind of trouble is found, only garbage is removed, in a folder and in a bucket."""

import hashlib
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from core.config import Settings
from core.database import Database
from core.datasets import Placed, VersionDraft, create_dataset, remember_image
from core.fsck import YOUNG_SECONDS, Fsck, Kind, Trouble
from core.ids import new_id
from core.storage import FolderStorage, Storage, blob_key, open_storage, thumbnail_key
from core.tables import (
    BatchPrediction,
    BatchStatus,
    Image,
    Split,
    Upload,
    UploadFile,
    UploadStatus,
    User,
    Weights,
    WeightsStatus,
)
from core.uploads import incoming_folder
from tests.app.people import belongings
from tests.core.rows import RememberingQueue, add_version

WEBP = b"RIFF" + (8).to_bytes(4, "little") + b"WEBPxxxx"
JPEG = b"\xff\xd8 small \xff\xd9"


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with each kind of storage."""
    given = request.getfixturevalue("bucket").settings if request.param == "bucket" else {}
    return Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0, **given)


class Stock:
    """Somebody's dataset of eight pictures, all stored."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database, self.storage = settings, database, open_storage(settings)
        self.keys: list[str] = []
        placed = []
        with database.write() as session:
            user = User(name="ada")
            session.add(user)
            session.flush()
            self.owner_id = user.id
            dataset = create_dataset(session, user.id, "Pets")
            for number in range(8):
                body = f"picture {number}".encode()
                sha = self.put(body)
                facts = {"width": 1, "height": 1, "format": "PNG", "size_bytes": len(body)}
                image_id = remember_image(session, user.id, sha, facts)
                placed.append(Placed(image_id, sha, f"cat/{number}.png", "cat", Split.TRAIN))
                self.keys.append(blob_key(sha))
            self.dataset_id = dataset.id
            add_version(session, dataset, VersionDraft(placed))

    def put(self, body: bytes) -> str:
        """Store a picture and its thumbnail."""
        sha = hashlib.sha256(body).hexdigest()
        self.storage.put(blob_key(sha), body)
        self.storage.put(thumbnail_key(sha), WEBP)
        return sha

    def check(self, *, hashes: bool = True, repair: bool = False, later: float = 0) -> tuple[list[Trouble], Fsck]:
        """What is found, as if `later` seconds had gone by."""
        looked = Fsck(
            self.settings, self.database, self.storage, hashes=hashes, repair=repair, now=lambda: time.time() + later
        )
        return list(looked.run()), looked


@pytest.fixture
def stock(settings: Settings, database: Database) -> Stock:
    """A sound stock."""
    return Stock(settings, database)


def found(stock: Stock, **how: bool | float) -> set[tuple[str, str]]:
    return {(one.kind.value, one.key) for one in stock.check(**how)[0]}  # type: ignore[arg-type]


def test_a_sound_stock_has_no_trouble(stock: Stock) -> None:
    troubles, looked = stock.check(later=2 * YOUNG_SECONDS)
    assert troubles == []
    assert looked.tally.whole
    assert looked.tally.files == 16


def test_missing_and_damaged_files_are_told_with_who_suffers_and_never_removed(stock: Stock) -> None:
    gone, changed, short, thumbnail = stock.keys[:4]
    stock.storage.put(changed.replace("blobs", "thumbnails") + ".webp", JPEG)
    stock.storage.put(short.replace("blobs", "thumbnails") + ".webp", JPEG[:-1])
    stock.storage.delete(gone)
    stock.storage.put(changed, b"pixture 1")
    stock.storage.put(short, b"pic")
    small = thumbnail.replace("blobs", "thumbnails") + ".webp"
    stock.storage.put(small, WEBP[:-1])
    wrong = {("missing", gone), ("damaged", changed), ("damaged", short), ("damaged", small)}
    wrong.add(("damaged", short.replace("blobs", "thumbnails") + ".webp"))
    assert found(stock) == wrong
    troubles, looked = stock.check(repair=True, later=2 * YOUNG_SECONDS)
    assert {(one.kind.value, one.key) for one in troubles} == wrong, "nothing of it is garbage"
    assert not any(one.removed for one in troubles)
    assert not looked.tally.whole
    detail = next(one.detail for one in troubles if one.key == gone)
    assert detail == '"cat/0.png" of "Pets" version 1'
    assert found(stock, hashes=False) == {("missing", gone), ("damaged", short)}, "without reading, sizes tell"


def test_files_without_a_row_are_garbage_once_they_are_an_hour_old(stock: Stock) -> None:
    sha = stock.put(b"nobody's")
    keys = {blob_key(sha), thumbnail_key(sha)}
    troubles, looked = stock.check()
    assert (troubles, looked.tally.young) == ([], 2)
    assert found(stock, later=2 * YOUNG_SECONDS) == {("orphaned", key) for key in keys}
    assert all(stock.storage.has(key) for key in keys), "looking removes nothing"
    troubles, looked = stock.check(repair=True, later=2 * YOUNG_SECONDS)
    assert {one.key for one in troubles if one.removed} == keys
    assert (looked.tally.removed, looked.tally.whole) == (2, True)
    assert not any(stock.storage.has(key) for key in keys)
    assert found(stock, later=2 * YOUNG_SECONDS) == set()


def test_garbage_is_left_while_an_upload_is_being_checked(stock: Stock) -> None:
    sha = stock.put(b"soon somebody's")
    with stock.database.write() as session:
        going = Upload(owner_id=stock.owner_id, dataset_id=stock.dataset_id, status=UploadStatus.INGESTING)
        session.add(going)
    troubles, _ = stock.check(repair=True, later=2 * YOUNG_SECONDS)
    assert {one.key for one in troubles} == {blob_key(sha), thumbnail_key(sha)}
    assert not any(one.removed for one in troubles)
    assert "Repair again later" in troubles[0].detail
    assert stock.storage.has(blob_key(sha))


def test_models_and_their_files_are_checked(stock: Stock, web_things: str) -> None:
    key = f"models/{web_things}/saved_model.zip"
    assert found(stock) == {("damaged", key)}, "its row names another SHA-256"
    stock.storage.put("models/nobody/saved_model.zip", b"x")
    stock.storage.delete(f"models/{web_things}")
    assert found(stock, later=2 * YOUNG_SECONDS) == {
        ("orphaned", "models/nobody"),
        ("missing", f"models/{web_things}"),
        ("missing", key),
    }
    stock.check(repair=True, later=2 * YOUNG_SECONDS)
    assert not stock.storage.has("models/nobody/saved_model.zip")


@pytest.fixture
def web_things(stock: Stock) -> str:
    """The id of a run with a model, whose thumbnails are no WebP in this fixture: they are made whole."""
    with stock.database.write() as session:
        user = session.scalars(select(User)).one()
        session.expunge(user)
    house = _House(stock)
    owned = belongings(house, user)  # type: ignore[arg-type]
    for image in _images(stock):
        stock.storage.put(thumbnail_key(image.sha256), WEBP)
    return owned.run_id


class _House:
    def __init__(self, stock: Stock) -> None:
        self.database, self.storage, self.settings = stock.database, stock.storage, stock.settings
        self.queue = RememberingQueue()


def _images(stock: Stock) -> list[Image]:
    with stock.database.read() as session:
        return list(session.scalars(select(Image)))


def test_received_bytes_and_folders_of_this_machine_are_checked(stock: Stock) -> None:
    with stock.database.write() as session:
        waiting = Upload(owner_id=stock.owner_id, dataset_id=stock.dataset_id, status=UploadStatus.RECEIVED)
        session.add(waiting)
        session.flush()
        there = UploadFile(upload_id=waiting.id, path="a.zip", sha256="a" * 64, size_bytes=3)
        lost = UploadFile(upload_id=waiting.id, path="b.zip", sha256="b" * 64, size_bytes=3)
        session.add_all([there, lost])
    folder = incoming_folder(stock.settings, waiting.id)
    folder.mkdir(parents=True)
    (folder / there.id).write_bytes(b"12")
    garbage = stock.settings.runs_folder / "gone"
    garbage.mkdir(parents=True)
    (garbage / "log").write_bytes(b"12345")
    for path in (garbage, folder):
        os.utime(path, (0, 0))
    expected = {
        ("damaged", f"incoming/{waiting.id}/{there.id}"),
        ("missing", f"incoming/{waiting.id}/{lost.id}"),
        ("orphaned", "runs/gone"),
    }
    assert found(stock) == expected
    stock.check(repair=True)
    assert not garbage.exists()
    assert folder.exists(), "its upload waits"


def test_archives_and_weights_are_checked(stock: Stock, web_things: str) -> None:
    sound = ("damaged", f"models/{web_things}/saved_model.zip")
    with stock.database.write() as session:
        batch = session.scalars(select(BatchPrediction)).one()
        batch.status = BatchStatus.QUEUED
        weights = session.scalars(select(Weights)).one()
    archive, arrays = f"batches/{batch.id}/archive", f"weights/{weights.id}/arrays.npz"
    assert found(stock) == {sound, ("missing", archive)}
    stock.storage.put(archive, b"zip")
    assert found(stock) == {sound}
    stock.storage.delete(arrays)
    assert found(stock) == {sound, ("missing", arrays)}
    stock.storage.put(arrays, b"arrays")
    with stock.database.write() as session:
        session.execute(update(BatchPrediction).values(status=BatchStatus.READY))
        session.execute(update(Weights).values(status=WeightsStatus.REJECTED))
    folder = stock.settings.folder / "batches" / f"{batch.id}-1"
    folder.mkdir(parents=True)
    garbage = {("orphaned", archive), ("orphaned", arrays), ("orphaned", f"batches/{folder.name}")}
    assert found(stock) == {sound}, "all of it is young"
    assert found(stock, later=2 * YOUNG_SECONDS) == {sound, *garbage}
    stock.check(repair=True, later=2 * YOUNG_SECONDS)
    assert not stock.storage.has(archive)
    assert not stock.storage.has(arrays)
    assert not folder.exists()


def test_half_written_files_of_a_crash_are_garbage(tmp_path: Path, database: Database) -> None:
    stock = Stock(Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0), database)
    assert isinstance(stock.storage, FolderStorage)
    target = stock.storage.local(stock.keys[0])
    aside = target.with_name(f".{target.name}.{new_id()}")
    aside.write_bytes(b"half")
    assert {key for kind, key in found(stock, later=2 * YOUNG_SECONDS) if kind == "orphaned"} == {
        aside.relative_to(stock.storage.folder).as_posix()
    }
    stock.check(repair=True, later=2 * YOUNG_SECONDS)
    assert not aside.exists()
    assert target.exists()


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, database: Database) -> None:
    """Rows without files: every one is told, and none is kept."""
    stock = Stock(Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0), database)

    def peak(count: int) -> int:
        with database.write() as session:
            session.execute(delete(Image).where(Image.format == "many"))
            rows = [
                {"owner_id": stock.owner_id, "sha256": hashlib.sha256(b"%d" % n).hexdigest(), "format": "many"}
                | {"id": new_id(), "width": 1, "height": 1, "size_bytes": 1}
                for n in range(count)
            ]
            session.execute(insert(Image), rows)
        tracemalloc.start()
        looked = Fsck(stock.settings, database, stock.storage, hashes=False)
        assert sum(one.kind == Kind.MISSING for one in looked.run()) == 2 * count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(50)
    small, large = peak(1100), peak(4400)
    assert large < 1.3 * small + 300_000, (small, large)


def test_a_listing_is_in_the_order_of_the_keys(settings: Settings) -> None:
    storage: Storage = open_storage(settings)
    keys = ["models/a/x", "models/a-b/y", "models/a.b", "models/b/c/d", "models/é/z"]
    for key in keys:
        storage.put(key, b"1")
    listed = [one.key for one in storage.listing("models")]
    assert listed == sorted(keys, key=str.encode)
    assert list(storage.listing("nothing")) == []
