import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import FULL_DISK, DiskFull
from worker.training import segments
from worker.training.segments import PICTURE, Lookup, SegmentStore, remove_strangers

FLOAT = np.dtype(np.float32)


def _store(root: Path, meaning: str = "a", limit: int = 10_000_000, reserve: int = 0) -> SegmentStore:
    return SegmentStore(root, {"meaning": meaning}, (4,), FLOAT, limit_bytes=limit, reserve_bytes=reserve)


def _keys(*numbers: int) -> np.ndarray:
    flat = b"".join(number.to_bytes(32, "big") for number in numbers)
    return np.frombuffer(flat, np.uint8).reshape(-1, 32)


def _fill(store: SegmentStore, *numbers: int) -> None:
    segment = store.begin(_keys(*numbers))
    segment.records[:] = np.asarray(numbers, np.float32)[:, np.newaxis]
    store.publish(segment)
    store.finish()


def _found(store: SegmentStore, *numbers: int) -> list[float]:
    lookup = Lookup(_keys(*numbers), store.whole_segments())
    positions = np.setdiff1d(np.arange(len(numbers)), lookup.missing)
    return list(lookup.gather(positions, np.empty((len(positions), 4), FLOAT))[:, 0])


def test_what_one_store_wrote_another_reads(tmp_path: Path) -> None:
    _fill(_store(tmp_path), 3, 1, 2)
    _fill(_store(tmp_path), 9, 8)
    assert _found(_store(tmp_path), 1, 9, 5, 3) == [1.0, 9.0, 3.0]


def test_records_of_another_meaning_are_not_found(tmp_path: Path) -> None:
    _fill(_store(tmp_path, "a"), 1)
    assert _found(_store(tmp_path, "b"), 1) == []


def test_a_segment_that_was_not_committed_does_not_exist(tmp_path: Path) -> None:
    segment = _store(tmp_path).begin(_keys(1))
    segment.records[:] = 1.0
    assert _found(_store(tmp_path), 1) == []


def test_a_cut_off_data_file_is_passed_over(tmp_path: Path) -> None:
    _fill(_store(tmp_path), 1, 2)
    (data,) = tmp_path.glob("*/*.data")
    os.truncate(data, 7)
    assert _found(_store(tmp_path), 1) == []


def test_what_a_killed_writer_left_is_removed_and_a_living_writers_part_is_kept(tmp_path: Path) -> None:
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from tests.worker.training.test_segments import _keys, _store\n"
        "_store(Path(sys.argv[1])).begin(_keys(1)); os._exit(1)"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", program, str(tmp_path), str(root)], check=False)
    assert len(list(tmp_path.glob("*/*.part"))) == 1
    living = _store(tmp_path).begin(_keys(2))
    _store(tmp_path)
    assert len(list(tmp_path.glob("*/*.part"))) == 1
    living.abandon()


def test_data_whose_keys_never_came_is_removed_and_a_living_writers_data_is_kept(tmp_path: Path) -> None:
    _fill(_store(tmp_path), 1)
    (keys,) = tmp_path.glob("*/*.keys")
    keys.with_name("left.data").write_bytes(b"of a writer that was killed")
    living = _store(tmp_path).begin(_keys(2))
    living._part.replace(living._part.with_suffix(".data"))
    _store(tmp_path)
    assert {one.stem for one in tmp_path.glob("*/*.data")} == {keys.stem, living._part.stem}
    living.abandon()


def test_a_segment_with_a_strange_picture_goes_whole_and_the_others_stay(tmp_path: Path) -> None:
    for numbers in ((1, 2), (3, 4), (5,)):
        _fill(_store(tmp_path), *numbers)
    (tmp_path / "a note.json").write_text("{}")
    assert remove_strangers(tmp_path, lambda: _keys(5, 2, 1, 4)[:, PICTURE]) == 1
    assert _found(_store(tmp_path), 1, 2, 3, 4, 5) == [1.0, 2.0, 5.0]
    assert remove_strangers(tmp_path, lambda: _keys(5, 2, 1, 4)[:, PICTURE]) == 0
    assert remove_strangers(tmp_path, lambda: _keys()[:, PICTURE]) == 2
    assert list(tmp_path.glob("*/*.data")) == []


def test_a_picture_that_comes_while_strangers_are_looked_for_is_none(tmp_path: Path) -> None:
    def known() -> np.ndarray:
        _fill(_store(tmp_path), 7)
        return _keys(6)[:, PICTURE]

    _fill(_store(tmp_path), 6)
    assert remove_strangers(tmp_path, known) == 0
    assert _found(_store(tmp_path), 6, 7) == [6.0, 7.0]


def test_the_least_recently_used_segment_makes_room(tmp_path: Path) -> None:
    store = _store(tmp_path, limit=3 * 16)
    for number in (1, 2, 3):
        _fill(store, number)
        (keys,) = [path for path in tmp_path.glob("*/*.keys") if path.read_bytes() == _keys(number).tobytes()]
        os.utime(keys, ns=(number, number))
    _fill(store, 4)
    assert _found(_store(tmp_path), 1, 2, 3, 4) == [2.0, 3.0, 4.0]


def _age(store: SegmentStore, number: int, nanoseconds: int) -> None:
    """Let the segment of one record have been used last at this time."""
    (keys,) = [path for path in store.folder.glob("*.keys") if path.read_bytes() == _keys(number).tobytes()]
    os.utime(keys, ns=(nanoseconds, nanoseconds))


def test_the_least_recently_used_segment_of_any_kind_makes_room_under_one_limit(tmp_path: Path) -> None:
    decoded, features = (_store(tmp_path, meaning, limit=3 * 16) for meaning in ("decoded", "features"))
    for store, number, used in ((decoded, 1, 20), (features, 2, 10), (decoded, 3, 30)):
        _fill(store, number)
        _age(store, number, used)
    _fill(decoded, 4)
    assert (_found(decoded, 1, 3, 4), _found(features, 2)) == ([1.0, 3.0, 4.0], [])
    for number, used in ((1, 40), (3, 10), (4, 50)):
        _age(decoded, number, used)
    _fill(features, 5)
    assert (_found(decoded, 1, 3, 4), _found(features, 2, 5)) == ([1.0, 4.0], [5.0])


def test_what_is_being_written_counts_under_the_limit(tmp_path: Path) -> None:
    store = _store(tmp_path, limit=3 * 16)
    for number in (1, 2):
        _fill(store, number)
        _age(store, number, number)
    living = [store.begin(_keys(3)), _store(tmp_path, "another kind", limit=3 * 16).begin(_keys(4))]
    assert _found(store, 1, 2) == [2.0]
    living[0]._part.replace(living[0]._part.with_suffix(".data"))  # between the two renames of a commit
    living.append(store.begin(_keys(5)))
    assert _found(store, 1, 2) == []
    for segment in living:
        segment.abandon()
    assert not list(tmp_path.glob("*/*.data")) + list(tmp_path.glob("*/*.part"))


@pytest.mark.parametrize("step", ["fsync", "replace", "_write_aside"])
def test_a_segment_that_cannot_be_written_is_told_and_the_run_reads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = _store(tmp_path)
    segment = store.begin(_keys(1))
    segment.records[:] = 1.0
    lookup = Lookup(_keys(1), [])
    lookup.add(np.array([0]), segment)
    with monkeypatch.context() as patch:
        owner = {"fsync": os, "replace": Path}.get(step, segments)
        patch.setattr(owner, step, full)
        store.publish(segment)
        (said,) = store.finish()
    assert "could not be kept in the cache" in said
    assert "No space left on device" in said
    assert lookup.gather(np.array([0]), np.empty((1, 4), FLOAT))[0, 0] == 1.0
    assert {path.name for path in store.folder.iterdir()} <= {"meaning.json"}, "no half of it is left"
    assert store.finish() == []


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_no_room_for_a_segment_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(segments, "_reserve", full)
    with pytest.raises(DiskFull, match="disk is full"):
        _store(tmp_path).begin(_keys(1))
    assert not list(tmp_path.glob("*/*.part"))


def test_a_mapped_segment_outlives_its_eviction(tmp_path: Path) -> None:
    _fill(_store(tmp_path), 1)
    lookup = Lookup(_keys(1), _store(tmp_path).whole_segments())
    shutil.rmtree(tmp_path)
    assert lookup.gather(np.array([0]), np.empty((1, 4), FLOAT))[0, 0] == 1.0


def test_the_disk_reserve_is_not_touched(tmp_path: Path) -> None:
    store = _store(tmp_path, reserve=2**62)
    with pytest.raises(DiskFull, match="disk is full"):
        store.begin(_keys(1))
    assert not list(tmp_path.glob("*/*.part"))
