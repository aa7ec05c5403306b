"""Files appear whole or not at all, never outside their place, and never into the disk reserve: in a folder and in a bucket."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from core.bucket import BucketStorage, open_bucket
from core.config import Settings
from core.copies import GRACE_SECONDS, Copies
from core.errors import DiskFull, NotFound, StorageAway
from core.storage import FolderStorage, Storage, blob_key, checked_key, free_bytes, open_storage
from tests.s3 import Bucket

PIXELS = b"pixels"
BLOB = blob_key(hashlib.sha256(PIXELS).hexdigest())


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each kind of storage."""
    given = request.getfixturevalue("bucket").settings if request.param == "bucket" else {}
    return open_storage(Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0, **given))


@pytest.fixture
def elsewhere(bucket: Bucket, tmp_path: Path) -> BucketStorage:
    """The same bucket as another machine sees it, which has no copies."""
    return open_bucket(Settings(data_dir=tmp_path / "elsewhere", disk_reserve_bytes=0, **bucket.settings))


class TestBoth:
    """What holds for a folder and for a bucket."""

    def test_what_was_put_is_read_back_and_deleted(self, storage: Storage) -> None:
        assert not storage.has(BLOB)
        storage.put(BLOB, PIXELS)
        assert storage.has(BLOB)
        with storage.open(BLOB) as read:
            assert read.read() == PIXELS
        storage.delete(BLOB)
        assert not storage.has(BLOB)
        with pytest.raises(NotFound, match="not in the storage"):
            storage.open(BLOB)

    def test_a_file_is_put_and_replaced_whole(self, storage: Storage, tmp_path: Path) -> None:
        for body in (b"one", b"another"):
            source = tmp_path / body.decode()
            source.write_bytes(body)
            storage.put(f"models/{len(body)}.zip", source)
            assert storage.local(f"models/{len(body)}.zip").read_bytes() == body

    def test_a_tree_is_stored_below_its_key_and_deleted_with_it(self, storage: Storage, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "deep").mkdir(parents=True)
        (source / "deep" / "größe.txt").write_text("x")
        (source / "top.txt").write_text("y")
        storage.put_tree("models/1", source)
        storage.put("models/10/other.txt", b"its name begins alike")
        folder = storage.local_tree("models/1")
        assert (folder / "deep" / "größe.txt").read_text() == "x"
        assert (folder / "top.txt").read_text() == "y"
        storage.delete("models/1")
        assert not storage.has("models/1/deep/größe.txt")
        assert storage.has("models/10/other.txt")
        with pytest.raises(NotFound):
            storage.local_tree("models/1")

    def test_deleting_what_is_not_there_is_fine(self, storage: Storage) -> None:
        storage.put(BLOB, PIXELS)
        storage.delete("models/nothing")
        assert storage.has(BLOB)

    def test_what_is_kept_for_a_folder_can_be_read_there(self, storage: Storage, tmp_path: Path) -> None:
        storage.put(BLOB, PIXELS)
        kept = storage.keep(BLOB, tmp_path / "data" / "run")
        assert kept.read_bytes() == PIXELS
        assert storage.keep(BLOB, tmp_path / "data" / "run") == kept

    def test_a_key_that_leaves_its_place_is_a_bug_and_refused(self, storage: Storage) -> None:
        for key in ("/etc/passwd", "../x", "a/../../x", "a//b", ""):
            for call in (checked_key, storage.has, storage.local, storage.local_tree, storage.delete):
                with pytest.raises(ValueError, match="plain relative path"):
                    call(key)

    def test_the_disk_reserve_is_never_touched_and_nothing_half_is_left(self, storage: Storage, tmp_path: Path) -> None:
        small = FolderStorage(tmp_path / "small", reserve_bytes=free_bytes(tmp_path) + 10**9)
        (tmp_path / "small").mkdir()
        if isinstance(storage, BucketStorage):
            storage.put(BLOB, PIXELS)
            storage._reserve = free_bytes(tmp_path) + 10**9
            with pytest.raises(DiskFull, match="kept in reserve"):
                storage.local(BLOB)
        with pytest.raises(DiskFull, match="kept in reserve"):
            small.put("blobs/x", PIXELS)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class TestBucket:
    """What only a bucket has: copies, damage on the way, and a server that is away."""

    def test_another_machine_reads_what_this_one_stored_and_keeps_a_copy(
        self, bucket: Bucket, elsewhere: BucketStorage, tmp_path: Path
    ) -> None:
        open_bucket(Settings(data_dir=tmp_path / "here", **bucket.settings)).put(BLOB, PIXELS)
        assert bucket.names() == [BLOB]
        copy = elsewhere.local(BLOB)
        bucket.client.delete_object(Bucket=bucket.name, Key=f"thaw/tests/{BLOB}")
        assert elsewhere.local(BLOB) == copy
        assert copy.read_bytes() == PIXELS
        assert not elsewhere.has(BLOB), "`has` asks the bucket, whatever is here"

    def test_a_damaged_picture_is_never_handed_out(self, bucket: Bucket, elsewhere: BucketStorage) -> None:
        bucket.client.put_object(Bucket=bucket.name, Key=f"thaw/tests/{BLOB}", Body=b"pixelz")
        with pytest.raises(NotFound, match="damaged"):
            elsewhere.local(BLOB)
        assert [path for path in elsewhere._copies.folder.rglob("*") if path.is_file()] == []

    def test_a_tree_larger_than_one_request_may_delete_is_deleted_whole(
        self, bucket: Bucket, elsewhere: BucketStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("core.bucket.MOST_DELETED", 2)
        bucket.client.put_object(Bucket=bucket.name, Key="outside-the-prefix", Body=b"")
        for number in range(5):
            elsewhere.put(f"models/1/{number}", b"")
        elsewhere.delete("models/1")
        assert bucket.names() == ["outside-the-prefix"]

    def test_a_file_kept_for_a_run_outlives_its_copy(self, elsewhere: BucketStorage, tmp_path: Path) -> None:
        elsewhere.put(BLOB, PIXELS)
        kept = elsewhere.keep(BLOB, tmp_path / "elsewhere" / "run")
        elsewhere._copies.forget(BLOB)
        assert kept.read_bytes() == PIXELS

    def test_a_bucket_that_does_not_exist_is_said_so(self, bucket: Bucket, tmp_path: Path) -> None:
        given = {**bucket.settings, "s3_bucket": "nobodys-bucket"}
        with pytest.raises(StorageAway, match=r"nobodys-bucket.*NoSuchBucket"):
            open_bucket(Settings(data_dir=tmp_path, **given)).put(BLOB, PIXELS)

    @pytest.mark.usefixtures("s3_endpoint")  # for its credentials
    def test_a_server_that_is_away_is_said_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.sleep", lambda _: None)  # boto3 tries again four times
        away = Settings(data_dir=tmp_path, s3_bucket="thaw", s3_endpoint_url="http://127.0.0.1:9")
        with pytest.raises(StorageAway, match="does not answer now"):
            open_bucket(away).local(BLOB)


class TestCopies:
    """Copies stay within their limit."""

    def _add(self, copies: Copies, key: str, size: int, age: float) -> Path:
        aside = copies.aside(key)
        aside.write_bytes(bytes(size))
        path = copies.add(key, aside)
        if path.exists():
            os.utime(path, (time.time() - age,) * 2)
        return path

    def test_the_copy_unused_for_longest_goes_first(self, tmp_path: Path) -> None:
        copies = Copies(tmp_path, 1000)
        for number in range(10):
            self._add(copies, f"blobs/{number}", 100, GRACE_SECONDS + 100 - number)
        assert copies.find("blobs/0") is not None  # asked for: young again
        self._add(copies, "blobs/10", 100, 0)
        left = {path.name for path in (tmp_path / "blobs").iterdir()}
        assert left == {"0", "10", *map(str, range(3, 10))}

    def test_what_was_asked_for_just_now_stays_whatever_the_limit(self, tmp_path: Path) -> None:
        copies = Copies(tmp_path, 100)
        paths = [self._add(copies, f"models/{number}", 100, GRACE_SECONDS / 2) for number in range(5)]
        assert all(path.exists() for path in paths)

    def test_copies_of_an_earlier_process_count(self, tmp_path: Path) -> None:
        first = Copies(tmp_path, 1000)
        for number in range(10):
            self._add(first, f"blobs/{number}", 100, GRACE_SECONDS + 100)
        self._add(Copies(tmp_path, 500), "blobs/new", 100, 0)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 500
