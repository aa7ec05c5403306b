"""Content-addressed arrays on disk, shared by runs and by processes that run at the same time.

A store is a folder of *segments*. A segment is a data file of equal records and a file of their 32-byte keys. The key file is
renamed into place last, after the data is on disk, so that a segment is either whole or absent; segments never change. Two
processes that miss the same records both write them (double work, never wrong). Least recently used segments are removed when
the folder outgrows its limit; whoever has one mapped keeps it, for the file lives until its last reader lets go.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.errors import DiskFull, is_full_disk

KEY_BYTES = 32
PICTURE = slice(16, 32)  # this half of every key is that of the picture's SHA-256, whatever is kept of it
_SEGMENT_BYTES = 256 * 2**20


class Segment:
    """One segment that is mapped: `records` [n, *shape], `keys` uint8 [n, 32] in the same order."""

    def __init__(self, keys: np.ndarray, records: np.ndarray) -> None:
        self.keys = keys
        self.records = records


class SegmentStore:
    """The segments of one kind of record: equal shape, dtype and meaning.

    Args:
        root: folder shared by all kinds; `limit_bytes` bounds it as a whole.
        meaning: everything that decides a record's content besides its key; its hash names the kind's own folder.
        shape: shape of one record.
        dtype: dtype of the records.
        limit_bytes: most bytes kept under `root`.
        reserve_bytes: bytes of the disk that stay free.
    """

    def __init__(
        self,
        root: Path,
        meaning: Mapping[str, object],
        shape: tuple[int, ...],
        dtype: np.dtype,
        *,
        limit_bytes: int,
        reserve_bytes: int,
    ) -> None:
        text = json.dumps({**meaning, "shape": shape, "dtype": str(dtype)}, sort_keys=True, default=str)
        self.root = root
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.limit_bytes, self.reserve_bytes = limit_bytes, reserve_bytes
        self._publishing: list[threading.Thread] = []
        self._unkept: list[str] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "meaning.json").exists():
            _write_aside(self.folder / "meaning.json", text.encode())
        _remove_abandoned(self.folder)

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def segment_records(self) -> int:
        """Records of a full segment."""
        return max(1, _SEGMENT_BYTES // self.record_bytes)

    def whole_segments(self) -> list[Segment]:
        """Every whole segment there is now, mapped and marked as used."""
        found = []
        for keys_path in sorted(self.folder.glob("*.keys")):
            with contextlib.suppress(FileNotFoundError):  # evicted by another process between listing and opening
                segment = self._open(keys_path)
                if segment is not None:
                    found.append(segment)
        return found

    def _open(self, keys_path: Path) -> Segment | None:
        keys = np.frombuffer(keys_path.read_bytes(), np.uint8)
        data_path = keys_path.with_suffix(".data")
        count, rest = divmod(len(keys), KEY_BYTES)
        if rest or not count or data_path.stat().st_size != count * self.record_bytes:
            return None
        records = np.memmap(data_path, self.dtype, "r", shape=(count, *self.shape))
        os.utime(keys_path)
        return Segment(keys.reshape(-1, KEY_BYTES), records)

    def begin(self, keys: np.ndarray) -> "NewSegment":
        """Make room for records of `keys` (uint8 [n, 32]) and map them writable.

        Raises:
            DiskFull: the disk reserve would be touched.
        """
        need = len(keys) * self.record_bytes
        make_room(self.root, need, self.limit_bytes, self.reserve_bytes)
        return NewSegment(self, keys)

    def publish(self, segment: "NewSegment") -> None:
        """Flush a filled segment to disk and show it to others, in a thread: the writer reads its own map meanwhile."""
        thread = threading.Thread(target=self._commit, args=(segment,), name="publish", daemon=False)
        thread.start()
        self._publishing.append(thread)

    def _commit(self, segment: "NewSegment") -> None:
        try:
            segment.commit()
        except OSError as error:  # the run has its map and goes on; the next one computes this again
            segment.abandon()
            self._unkept.append(
                f"{segment.records.nbytes / 1e6:.1f} MB could not be kept in the cache for later runs: {error.strerror or error}."
            )

    def finish(self) -> list[str]:
        """Wait until every published segment is on disk; a sentence for each that is not, because writing it failed."""
        for thread in self._publishing:
            thread.join()
        self._publishing.clear()
        unkept, self._unkept = self._unkept, []
        return unkept


class NewSegment(Segment):
    """A segment being filled. Only `commit` (or nothing, when the process dies) decides that it exists."""

    def __init__(self, store: SegmentStore, keys: np.ndarray) -> None:
        self._part = store.folder / f"{uuid.uuid4().hex}.part"
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        # The lock tells the others' `_remove_abandoned` that the writer lives.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = len(keys) * store.record_bytes
        try:
            # Reserved now: writing to a map of a file with holes on a full disk would kill the process (SIGBUS).
            _reserve(self._descriptor, size)
        except OSError as error:
            self.abandon()
            if is_full_disk(error):
                raise _disk_full(size) from error
            raise
        super().__init__(keys, np.memmap(self._part, store.dtype, "r+", shape=(len(keys), *store.shape)))

    def commit(self) -> None:
        """Put the data on disk, then rename data and keys into place."""
        records = self.records
        if isinstance(records, np.memmap):
            records.flush()
        os.fsync(self._descriptor)
        self._part.replace(self._part.with_suffix(".data"))
        _write_aside(self._part.with_suffix(".keys"), self.keys.tobytes())
        self._close()

    def abandon(self) -> None:
        """Forget the segment; whoever has it mapped may read on."""
        self._part.unlink(missing_ok=True)
        self._part.with_suffix(".data").unlink(missing_ok=True)
        self._close()


class Lookup:
    """Where the records of many keys stand: numbers, not Python objects, so that a million of them cost 16 MB."""

    def __init__(self, keys: np.ndarray, segments: Sequence[Segment]) -> None:
        """Find `keys` (uint8 [n, 32]) in `segments`."""
        self._segments = list(segments)
        self._segment = np.full(len(keys), -1, np.int32)
        self._row = np.zeros(len(keys), np.int64)
        wanted = _as_void(keys)
        for number, segment in enumerate(self._segments):
            have = _as_void(segment.keys)
            order = np.argsort(have)
            place = np.clip(np.searchsorted(have, wanted, sorter=order), 0, len(have) - 1)
            hit = have[order[place]] == wanted
            self._segment[hit] = number
            self._row[hit] = order[place][hit]

    @property
    def missing(self) -> np.ndarray:
        """Positions of keys that no segment has, int64 [m]."""
        return np.flatnonzero(self._segment < 0)

    def add(self, positions: np.ndarray, segment: Segment) -> None:
        """Say that `positions` stand in `segment`, in its order."""
        self._segments.append(segment)
        self._row[positions] = np.arange(len(positions))
        self._segment[positions] = len(self._segments) - 1

    def gather(self, positions: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copy the records at `positions` into `out` [len(positions), *shape] and return it."""
        segments = self._segment[positions]
        rows = self._row[positions]
        for number in np.unique(segments):
            here = np.flatnonzero(segments == number)
            out[here] = self._segments[number].records[rows[here]]
        return out


def make_room(root: Path, need: int, limit_bytes: int, reserve_bytes: int) -> None:
    """Remove least recently used segments under `root` until `need` more bytes fit under the limit and the disk reserve.

    What is being written counts and cannot be removed. What was removed and is still mapped counts for the disk reserve alone.

    Raises:
        DiskFull: the reserve would be touched though nothing is left to remove.
    """
    segments, total = [], 0
    for path in (*root.glob("*/*.part"), *root.glob("*/*.data")):
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            total += size
            keys_path = path.with_suffix(".keys")
            segments.append((keys_path.stat().st_mtime_ns, size, keys_path))
    segments.sort()
    for _, size, keys_path in segments:
        if total + need <= limit_bytes and shutil.disk_usage(root).free - need >= reserve_bytes:
            return
        _remove(keys_path)
        total -= size
    if shutil.disk_usage(root).free - need < reserve_bytes:
        raise _disk_full(need)


def remove_strangers(root: Path, pictures: Callable[[], np.ndarray]) -> int:
    """Remove every segment that holds anything of another picture than these; the rest of such a segment is computed again.

    Args:
        root: folder of a store.
        pictures: gives `PICTURE` of their SHA-256, uint8 [n, 16]; called once the segments are listed, so that a picture which
            comes meanwhile is no stranger.

    Returns:
        How many were removed.
    """
    listed = sorted(root.glob("*/*.keys"))
    known = np.sort(_as_void(pictures())) if listed else np.empty(0)
    removed = 0
    for keys_path in listed:
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            if not _all_known(keys_path.read_bytes(), known):
                _remove(keys_path)
                removed += 1
    for folder in root.glob("*/"):
        _remove_abandoned(folder)
    return removed


def _all_known(data: bytes, known: np.ndarray) -> bool:
    if len(data) % KEY_BYTES or not len(known):
        return False
    wanted = _as_void(np.frombuffer(data, np.uint8).reshape(-1, KEY_BYTES)[:, PICTURE])
    found = known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)]
    return bool((found == wanted).all())


def _remove(keys_path: Path) -> None:
    keys_path.unlink(missing_ok=True)
    keys_path.with_suffix(".data").unlink(missing_ok=True)


def _reserve(descriptor: int, size: int) -> None:
    """Take `size` bytes of disk for a file. Raises OSError (`is_full_disk`) when they are not there."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(2**20)  # macOS has no such call: zeros are written
    for first in range(0, size, len(block)):
        os.pwrite(descriptor, block[: size - first], first)


def _disk_full(need: int) -> DiskFull:
    return DiskFull(f"The disk is full: {need / 1e6:.0f} MB more would touch the reserve.")


def _as_void(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).reshape(-1)


def _write_aside(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers left: parts that nobody holds a lock on, and data whose keys never came."""
    for path in (*folder.glob("*.part"), *folder.glob("*.data")):
        if path.with_suffix(".keys").exists():
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.with_suffix(".keys").exists():  # written before the lock was let go
                path.unlink()
