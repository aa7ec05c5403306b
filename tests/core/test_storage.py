"""Files appear whole or not at all, never outside the folder, and never into the disk reserve."""

from pathlib import Path

import pytest

from core.errors import DiskFull, NotFound
from core.storage import Storage, blob_key, free_bytes


def test_what_was_put_is_read_back_and_deleted(tmp_path: Path) -> None:
    storage = Storage(tmp_path, reserve_bytes=0)
    key = blob_key("ab" * 32)
    storage.put(key, b"pixels")
    with storage.open(key) as read:
        assert read.read() == b"pixels"
    storage.delete(key)
    with pytest.raises(NotFound):
        storage.open(key)


def test_a_tree_is_stored_below_its_key_and_deleted_with_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "größe.txt").write_text("x")
    storage = Storage(tmp_path / "storage", reserve_bytes=0)
    storage.put_tree("models/1", source)
    assert storage.has("models/1/deep/größe.txt")
    storage.delete("models/1")
    assert not storage.has("models/1/deep/größe.txt")


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "a/../../x", "a//b", ""])
def test_a_key_that_leaves_the_folder_is_a_bug_and_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="plain relative path"):
        Storage(tmp_path, reserve_bytes=0).path(key)


def test_the_disk_reserve_is_never_touched_and_nothing_half_is_left(tmp_path: Path) -> None:
    storage = Storage(tmp_path, reserve_bytes=free_bytes(tmp_path) + 10**9)
    with pytest.raises(DiskFull, match="kept in reserve"):
        storage.put("blobs/x", b"pixels")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
