"""Decoded pictures: every picture of a run decoded and resized once, kept as uint8 in a cache that all runs share."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from core.errors import PicturesUnreadable
from worker.training.orders import Orders
from worker.training.pictures import PictureLimits, PictureRefused, decode
from worker.training.run_folder import RunFolder
from worker.training.segments import Lookup, NewSegment, SegmentStore

# Raise when the same file would become other pixels: caches made before are then no longer found.
PREPROCESSING_VERSION = 1
# Ingest has judged sizes already, by the operator's settings; these only stop what is absurd.
_LIMITS = PictureLimits(max_bytes=2**40, max_pixels=2**32)
# Full-size pictures that may wait in memory until TensorFlow is imported and can resize them.
_WAITING_BYTES = 384 * 2**20

Resize = Callable[[np.ndarray], np.ndarray]


def preprocessing(folder: RunFolder) -> dict[str, object]:
    """Everything that decides what pixels a file becomes."""
    height, width = folder.config.image_size
    return {
        "preprocessing_version": PREPROCESSING_VERSION,
        "pillow": PIL.__version__,
        "resize": folder.config.resize,
        "height": height,
        "width": width,
    }


@dataclass
class _Filling:
    """A segment being filled: contents `first` to `first + len(segment.keys)` of the to-do list."""

    segment: NewSegment
    first: int
    left: int


class DecodedPictures:
    """The pictures of a run as uint8 [H, W, 3], decoded by threads in the background, in order, from `start` on.

    Decoding begins before TensorFlow is there; resizing waits for `set_resize`. Equal files are decoded once. Pictures beyond
    the cache's limit are decoded each time they are asked for.
    """

    def __init__(self, folder: RunFolder, orders: Orders) -> None:
        self._list = folder.pictures
        self._orders = orders
        self._n_threads = folder.threads
        self.shape = (*folder.config.image_size, 3)
        self._store = SegmentStore(
            folder.decoded_cache,
            preprocessing(folder),
            self.shape,
            np.dtype(np.uint8),
            limit_bytes=folder.cache_limit_bytes // 2,
            reserve_bytes=folder.disk_reserve_bytes,
        )
        distinct, first, self._content = np.unique(
            folder.pictures.digests, axis=0, return_index=True, return_inverse=True
        )
        self._keys, self._first = distinct, first
        self._lookup = Lookup(distinct, self._store.whole_segments())
        missing = self._lookup.missing
        self._ready = np.ones(len(distinct), bool)
        self._ready[missing] = False
        room = max(0, self._store.limit_bytes // self._store.record_bytes - (len(distinct) - len(missing)))
        in_list_order = missing[np.argsort(first[missing])]
        self._todo = in_list_order[:room]
        self._uncached = np.zeros(len(distinct), bool)
        self._uncached[in_list_order[room:]] = True
        self._taken = 0
        self.done = 0
        self._fillings: dict[int, _Filling] = {}
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._resize: Resize | None = None
        self._resize_known = threading.Event()
        self._waiting_bytes = 0
        self._threads: list[threading.Thread] = []
        self._pool = ThreadPoolExecutor(folder.threads, thread_name_prefix="decode-again")

    @property
    def to_decode(self) -> int:
        """Pictures that the cache lacked when this run began."""
        return len(self._todo)

    def start(self) -> None:
        """Start the decoding threads."""
        for number in range(min(self._n_threads, len(self._todo))):
            thread = threading.Thread(target=self._work, name=f"decode-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def set_resize(self, resize: Resize) -> None:
        """Give the one resizing of this product: uint8 [h, w, 3] to uint8 [H, W, 3], callable from any thread."""
        self._resize = resize
        self._resize_known.set()

    def finish(self) -> list[str]:
        """Wait for the threads, and until the cache is on disk; a sentence for each part that could not be kept."""
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()
        return self._store.finish()

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Pixels of the pictures at `positions`, uint8 [n, H, W, 3]. Waits for those that are still being decoded.

        Raises:
            PicturesUnreadable: a file is missing or cannot be decoded; the message names it.
            DiskFull: the cache met the disk reserve.
            Cancelled, Drained: while waiting.
        """
        contents = self._content[positions]
        cached = ~self._uncached[contents]
        self._wait(contents[cached])
        out = np.empty((len(positions), *self.shape), np.uint8)
        if cached.all():
            self._lookup.gather(contents, out)
            return out
        here = np.flatnonzero(cached)
        out[here] = self._lookup.gather(contents[here], np.empty((len(here), *self.shape), np.uint8))
        again = np.flatnonzero(~cached)
        for place, pixels in zip(again, self._pool.map(self._one, positions[again]), strict=True):
            out[place] = pixels
        return out

    def wait_all(self, say: Callable[[int], None]) -> None:
        """Wait until every picture that the cache takes is decoded; `say` hears the count a few times a second."""
        while self.done < len(self._todo):
            self._check()
            with self._changed:
                self._changed.wait(0.2)
            say(self.done)
        self._check()

    def _check(self) -> None:
        self._orders.check()
        if self._failure is not None:
            raise self._failure

    def _wait(self, contents: np.ndarray) -> None:
        while not self._ready[contents].all():
            self._check()
            with self._changed:
                if not self._ready[contents].all():
                    self._changed.wait(0.2)

    def _one(self, position: int) -> np.ndarray:
        """Decode and resize one picture now."""
        return self._resized(self._decoded(int(position)))

    def _decoded(self, position: int) -> np.ndarray:
        path = Path(self._list.paths[position])
        try:
            return decode(path, limits=_LIMITS)
        except FileNotFoundError as error:
            raise PicturesUnreadable(f'The picture "{self._list.filenames[position]}" is missing.') from error
        except (PictureRefused, OSError) as error:
            raise PicturesUnreadable(
                f'The picture "{self._list.filenames[position]}" cannot be decoded: {error}'
            ) from error

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        while not self._resize_known.wait(0.2):
            self._orders.check()
        assert self._resize is not None  # noqa: S101 - the event says so
        return self._resize(pixels)

    def _work(self) -> None:
        """One thread: take the next content, decode, resize, store, until nothing is left or something failed."""
        waiting: list[tuple[int, np.ndarray]] = []
        try:
            while not self._orders.stopping and self._failure is None:
                taken = self._take()
                if taken is not None:
                    pixels = self._decoded(int(self._first[self._todo[taken]]))
                    waiting.append((taken, pixels))
                    if self._may_wait(pixels.nbytes):
                        continue
                for number, full in waiting:
                    self._keep(number, self._resized(full))
                waiting.clear()
                if taken is None:
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the pictures
            self._failure = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _may_wait(self, size: int) -> bool:
        """True when a decoded picture may wait in memory, because resizing is not possible yet and memory allows."""
        if self._resize_known.is_set():
            return False
        with self._changed:
            self._waiting_bytes += size
            return self._waiting_bytes < _WAITING_BYTES

    def _take(self) -> int | None:
        """Number of the next content to decode, with its place in a segment made ready."""
        with self._changed:
            number = self._taken
            if number >= len(self._todo):
                return None
            self._taken += 1
            if number % self._store.segment_records == 0:
                contents = self._todo[number : number + self._store.segment_records]
                segment = self._store.begin(self._keys[contents])
                self._lookup.add(contents, segment)
                self._fillings[number // self._store.segment_records] = _Filling(segment, number, len(contents))
            return number

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        filling = self._fillings[number // self._store.segment_records]
        filling.segment.records[number - filling.first] = pixels
        with self._changed:
            self._ready[self._todo[number]] = True
            self.done += 1
            filling.left -= 1
            if not filling.left:
                self._store.publish(filling.segment)
            self._changed.notify_all()
