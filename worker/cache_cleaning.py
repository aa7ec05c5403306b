"""A picture that was freed must not live on in `cache/`: decoded pixels, features, cut activations and copies from a bucket go with it.

The folder belongs to a machine, and the sweeper is not on every one. So nobody is told what goes: one worker process of those that share a
cache compares it with the rows, once when it starts and whenever files were removed since it last did (`core.freeing`). What was computed
of a picture that has no row any more is removed together with the segment it is in, which holds pictures of one run.

The same process removes what is left in the data folder (`core.leftovers`), which may be no web server's, once an hour.
"""

import fcntl
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from core.freeing import removals
from core.leftovers import remove_left_folders
from core.tables import Image
from worker.training.segments import PICTURE, remove_strangers
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
EVERY_SECONDS = 10.0
REST_SECONDS = 60.0  # without a removal: a large dataset is removed in hundreds of steps, and is looked for once
LONGEST_SECONDS = 900.0  # though files are removed all the time
YOUNG_SECONDS = 1800.0  # a copy asked for since may be of a picture that gets its row now
TIDY_SECONDS = 3600.0
LOCK = "cleaning.lock"  # in the cache folder; whoever holds it cleans
_ROWS_AT_ONCE = 10_000
_NAMES_AT_ONCE = 500


class _Stopped(Exception):
    """This worker is to end."""


class CacheCleaner:
    """A thread that keeps this machine's cache free of deleted pictures and its data folder of leftovers, unless another process does."""

    def __init__(self, place: Workplace) -> None:
        self._database, self._settings = place.database, place.settings
        self._folder = place.settings.cache_folder
        self._tidied = time.monotonic()  # a worker that starts has done it
        self._stopping = threading.Event()
        self._cleaning = CacheCleaning(place, self._keep)
        self._thread = threading.Thread(target=self._work, name="cache cleaner", daemon=True)
        self._lock: IO[bytes] | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a look that is under way is broken off."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._is_ours():
                    self._cleaning.look()
                    self._tidy()
            except _Stopped:
                break
            except SQLAlchemyError as error:
                _log.warning("the cache was not looked at: the database does not answer (%s)", type(error).__name__)
            except Exception:  # noqa: BLE001 - whatever it is, the next look may do
                _log.exception("the cache was not looked at")
            self._stopping.wait(EVERY_SECONDS)
        if self._lock is not None:
            self._lock.close()

    def _is_ours(self) -> bool:
        """Whether this process cleans: the first one, and the next one when that ends."""
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / LOCK).open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._lock = lock
        return True

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied >= TIDY_SECONDS:
            self._tidied = time.monotonic()
            remove_left_folders(self._database, self._settings)

    def _keep(self) -> None:
        if self._stopping.is_set():
            raise _Stopped


class CacheCleaning:
    """Looks at the cache of this machine. Not for threads.

    Args:
        place: the worker's.
        keep: called many times in a look, and may raise to end it.
    """

    def __init__(self, place: Workplace, keep: Callable[[], None] = lambda: None) -> None:
        self._database, self._settings, self._keep = place.database, place.settings, keep
        self._seen: int | None = None  # the removals that the last look knew of
        self._number: int | None = None  # and those that there are
        self._wait_since = self._wait_until = float("-inf")
        self._copies_at = float("inf")  # young copies of no known picture are old enough then

    def look(self) -> int:
        """Remove what is left of freed pictures, if any can be; returns how many segments and copies went."""
        now = time.monotonic()
        with self._database.read() as session:
            number = removals(session)
        if number != self._number:
            if self._number is not None:
                if self._number == self._seen:
                    self._wait_since = now
                self._wait_until = min(now + REST_SECONDS, self._wait_since + LONGEST_SECONDS)
            self._number = number
        if now < self._wait_until or (number == self._seen and now < self._copies_at):
            return 0
        removed = 0
        if number != self._seen:
            cache = self._settings.cache_folder
            removed += sum(remove_strangers(cache / area, self._known) for area in ("decoded", "features"))
        removed += self._remove_copies()
        self._seen = number
        if removed:
            _log.info("%s files of the cache were removed: they held pictures that were deleted", removed)
        return removed

    def _known(self) -> np.ndarray:
        """`PICTURE` of every picture that has a row, uint8 [n, 16]: 16 MB for a million."""
        found = bytearray()
        with self._database.read() as session:
            rows = session.scalars(select(Image.sha256).execution_options(yield_per=_ROWS_AT_ONCE))
            for some in rows.partitions():
                self._keep()
                for sha256 in some:
                    found += bytes.fromhex(sha256)[PICTURE]
        return np.frombuffer(found, np.uint8).reshape(-1, PICTURE.stop - PICTURE.start)

    def _remove_copies(self) -> int:
        """Remove old copies of pictures without a row, and remember when the young ones of such are old enough."""
        removed = 0
        again: float | None = None
        copies = self._copies()
        while some := list(itertools.islice(copies, _NAMES_AT_ONCE)):
            self._keep()
            with self._database.read() as session:
                known = set(
                    session.scalars(select(Image.sha256).where(Image.sha256.in_({path.stem for path, _ in some})))
                )
            for path, age in some:
                if path.stem in known:
                    continue
                if age > YOUNG_SECONDS:
                    path.unlink(missing_ok=True)
                    removed += 1
                else:  # one look, when the last of them is old enough
                    again = max(again or 0.0, time.monotonic() + YOUNG_SECONDS - age + 1)
        self._copies_at = float("inf") if again is None else again
        return removed

    def _copies(self) -> Iterator[tuple[Path, float]]:
        """Copies of pictures and thumbnails, whose names are their SHA-256, and the seconds since each was used."""
        now = time.time()
        for area in ("blobs", "thumbnails"):
            for path in (self._settings.copies_folder / area).rglob("*"):
                try:
                    if path.is_file():
                        yield path, now - path.stat().st_mtime
                except FileNotFoundError:  # made room of meanwhile
                    continue
