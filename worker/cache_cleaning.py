"""A picture that was freed must not live on in `cache/`: decoded pixels, features, cut activations and copies from a bucket go with it.

The folder belongs to a machine, and the sweeper is not on every one. So nobody is told what goes: each worker compares its cache with the
rows, once when it starts and whenever files were removed since it last did (`core.freeing`). What was computed of a picture that has no row
any more is removed together with the segment it is in, which holds pictures of one run.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sqlalchemy import select

from core.freeing import removals
from core.tables import Image
from worker.training.segments import PICTURE, remove_strangers
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
AGAIN_SECONDS = 60.0  # between two looks: a large dataset is removed in hundreds of steps
YOUNG_SECONDS = 1800.0  # a copy asked for since may be of a picture that gets its row now
_ROWS_AT_ONCE = 10_000
_NAMES_AT_ONCE = 500


class CacheCleaning:
    """Looks at the cache of this machine. Not for threads."""

    def __init__(self, place: Workplace) -> None:
        self._database, self._settings = place.database, place.settings
        self._seen: int | None = None
        self._looked = float("-inf")

    def look(self) -> int:
        """Remove what is left of freed pictures, if any can be; returns how many segments and copies went."""
        if time.monotonic() - self._looked < AGAIN_SECONDS:
            return 0
        with self._database.read() as session:
            number = removals(session)
        if number == self._seen:
            return 0
        self._looked = time.monotonic()
        cache = self._settings.cache_folder
        removed = sum(remove_strangers(cache / area, self._known) for area in ("decoded", "features"))
        removed += self._remove_copies()
        self._seen = number
        if removed:
            _log.info("%s files of the cache were removed: they held pictures that were deleted", removed)
        return removed

    def _known(self) -> np.ndarray:
        """`PICTURE` of every picture that has a row, uint8 [n, 16]: 16 MB for a million."""
        found = bytearray()
        with self._database.read() as session:
            for sha256 in session.scalars(select(Image.sha256).execution_options(yield_per=_ROWS_AT_ONCE)):
                found += bytes.fromhex(sha256)[PICTURE]
        return np.frombuffer(found, np.uint8).reshape(-1, PICTURE.stop - PICTURE.start)

    def _remove_copies(self) -> int:
        removed = 0
        copies = self._old_copies()
        while some := list(itertools.islice(copies, _NAMES_AT_ONCE)):
            with self._database.read() as session:
                known = set(session.scalars(select(Image.sha256).where(Image.sha256.in_({one.stem for one in some}))))
            for path in some:
                if path.stem not in known:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _old_copies(self) -> Iterator[Path]:
        """Copies of pictures and thumbnails, whose names are their SHA-256."""
        old = time.time() - YOUNG_SECONDS
        for area in ("blobs", "thumbnails"):
            for path in (self._settings.copies_folder / area).rglob("*"):
                if path.is_file() and path.stat().st_mtime < old:
                    yield path
