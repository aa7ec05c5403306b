"""Near checks of the `batch` queue: further near duplicates in a version, by features that a run has stored on this machine.

Features propose pairs (`worker.likeness`), the grey copies must agree (`worker.ingest.aligned`): a backbone may find two X-rays as alike as
an X-ray and its copy. No TensorFlow: features are plain files.
"""

import logging
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.clusters import SMALL, Clusters
from core.database import database_now
from core.errors import Fenced
from core.leases import LIVES, NEAR_CHECK_LIFE, RUN_LIFE, claim, release, waiting_count, write
from core.logs import about
from core.near_checks import PAIRS_AT_ONCE, finish_cancelled, finish_ready, record_pairs, runs_known
from core.near_pairs import near_pairs
from core.tables import Image, ImageLook, NearCheck, NearPair, VersionImage
from worker.hold import Hold
from worker.ingest.aligned import aligned
from worker.ingest.looks import GREY
from worker.likeness import alike, find_stored
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
ROWS_AT_ONCE = 5000
ID_BYTES = 36
LOOK_SECONDS = 5.0  # between two looks whether others wait
OTHERS = tuple(life for life in LIVES if life not in (RUN_LIFE, NEAR_CHECK_LIFE))
_ONE_AT_A_TIME = threading.Lock()


class _Stopped(Exception):
    """Cancelled, or this worker is to end, or others wait for it."""


@dataclass(frozen=True)
class _Pictures:
    """Of a version: numbers, not Python objects, so that a million of them cost 76 MB.

    Attributes:
        ids: of the pictures, S36 [n].
        digests: their SHA-256, uint8 [n, 32].
        ordinals: their places in the version, int64 [n], ascending.
    """

    ids: np.ndarray
    digests: np.ndarray
    ordinals: np.ndarray


def near_check_next(place: Workplace) -> bool:
    """Claim the next near check and do it; False when none waits, other work waits, or another thread of this process is at one."""
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        return False  # that thread looks for the next one itself
    try:
        if _others_wait(place):
            return False  # the sweeper rings again
        with place.database.write() as session:
            held = claim(session, NEAR_CHECK_LIFE, place.name, place.settings.lease_seconds)
        if held is None:
            return False
        with about(near_check_id=held.id):
            NearChecking(place, Hold(place, held, NEAR_CHECK_LIFE)).run()
        return True
    finally:
        _ONE_AT_A_TIME.release()


def _others_wait(place: Workplace) -> bool:
    """Whether work of this worker's queues waits that somebody waits for."""
    with place.database.read() as session:
        return any(waiting_count(session, life) for life in OTHERS if life.queue in place.queues)


class NearChecking:
    """One attempt at one check. What an attempt before has written is found again as known."""

    def __init__(self, place: Workplace, hold: Hold) -> None:
        self._place = place
        self._hold = hold
        self._looked = time.monotonic()
        self._waited = False

    def run(self) -> None:
        """Look, and write down how it ended."""
        held = self._hold.claim
        try:
            self._check()
        except Fenced as fenced:
            _log.warning("%s It is left alone.", fenced)
        except _Stopped:
            if self._hold.cancelled:
                self._finish(lambda session: finish_cancelled(session, held))
            else:
                self._finish(lambda session: release(session, NEAR_CHECK_LIFE, held))
        except Exception:
            _log.exception("near check %s: attempt %s failed by a fault of ours", held.id, held.attempt)
            # the lease ends now: the sweeper counts a failure, and three of them end the check
            self._finish(lambda session: write(session, NEAR_CHECK_LIFE, held, lease_expires_at=database_now() - 1))
            raise

    def _check(self) -> None:
        held = self._hold.claim
        with self._place.database.read() as session:
            runs = runs_known(session, held)
        pictures = self._pictures()
        stored = find_stored(self._place.settings.cache_folder / "features", pictures.digests)
        if stored is None:
            self._finish(lambda session: finish_ready(session, held, 0, runs))
            return
        there = stored.there
        pairs = self._unjoined(pictures.ordinals[there], alike(stored.directions, len(there), self._keep))
        found = 0
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            some = pictures.ids[there[pairs[start : start + PAIRS_AT_ONCE]]]
            found += self._confirm([(one.decode(), other.decode()) for one, other in some.tolist()])
        _log.info("near check %s: %s pictures, %s candidates, %s new pairs", held.id, len(there), len(pairs), found)
        self._finish(lambda session: finish_ready(session, held, len(there), runs))

    def _unjoined(self, ordinals: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Without those within a large cluster of known near duplicates: not all its pairs are written down, and none is news.

        Args:
            ordinals: of the pictures that were compared, int64 [n], ascending.
            pairs: places in them, int64 [k, 2].
        """
        clusters = Clusters(len(ordinals))
        with self._place.database.read() as session:
            version_id = session.get_one(NearCheck, self._hold.claim.id).version_id
            for some in near_pairs(session, version_id):
                self._keep()
                known = np.array([(one.ordinal, other.ordinal) for one, other, _ in some], np.int64).reshape(-1, 2)
                places = np.searchsorted(ordinals, known)
                compared = (ordinals[np.minimum(places, len(ordinals) - 1)] == known).all(axis=1)
                for one, other in places[compared].tolist():
                    clusters.join(one, other)
        joined = clusters.of[pairs[:, 0]] == clusters.of[pairs[:, 1]]
        news: np.ndarray = pairs[~(joined & (clusters.size[clusters.of[pairs[:, 0]]] > SMALL))]
        return news

    def _pictures(self) -> _Pictures:
        """All of the version, by their ordinals."""
        ids, digests, ordinals = bytearray(), bytearray(), array("q")
        with self._place.database.read() as session:
            version_id = session.get_one(NearCheck, self._hold.claim.id).version_id
        last = -1
        columns = select(VersionImage.ordinal, VersionImage.image_id, Image.sha256)
        columns = columns.join(Image, Image.id == VersionImage.image_id).where(VersionImage.version_id == version_id)
        while True:
            self._keep()
            page = columns.where(VersionImage.ordinal > last).order_by(VersionImage.ordinal).limit(ROWS_AT_ONCE)
            with self._place.database.read() as session:
                rows = session.execute(page).all()
            if not rows:
                return _Pictures(
                    np.frombuffer(ids, f"S{ID_BYTES}"),
                    np.frombuffer(digests, np.uint8).reshape(-1, 32),
                    np.frombuffer(ordinals, np.int64),
                )
            ids += b"".join(row.image_id.encode().ljust(ID_BYTES, b"\0") for row in rows)
            ordinals.extend(row.ordinal for row in rows)
            digests += b"".join(bytes.fromhex(row.sha256) for row in rows)
            last = rows[-1].ordinal

    def _confirm(self, pairs: list[tuple[str, str]]) -> int:
        """Write those pairs that are new and whose grey copies agree; returns how many."""
        self._keep()
        pairs = [(min(pair), max(pair)) for pair in pairs]
        ids = sorted({one for pair in pairs for one in pair})
        looked = select(ImageLook.image_id, ImageLook.grey).where(ImageLook.image_id.in_(ids), ImageLook.hashes != b"")
        pair_ids = select(NearPair.image_id, NearPair.other_id).where(NearPair.image_id.in_({one for one, _ in pairs}))
        with self._place.database.read() as session:
            greys = {image_id: grey for image_id, grey in session.execute(looked)}  # noqa: C416 - rows are no pairs
            known = {(one, other) for one, other in session.execute(pair_ids)}
        asked = [pair for pair in pairs if pair not in known and pair[0] in greys and pair[1] in greys]
        if not asked:
            return 0
        scores = _scores(greys, asked)
        new = [(*pair, min(score, 1.0)) for pair, score in zip(asked, scores, strict=True) if score > 0]
        if not new:
            return 0
        held = self._hold.claim
        return self._hold.write(lambda session: record_pairs(session, held, new))

    def _keep(self) -> None:
        self._hold.keep()
        if self._place.stopping or self._hold.cancelled or self._is_in_the_way():
            raise _Stopped

    def _is_in_the_way(self) -> bool:
        """Whether others have waited at two looks in a row, so that no other thread or worker took their work."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        before, self._waited = self._waited, _others_wait(self._place)
        return before and self._waited

    def _finish(self, verb: Callable[[Session], None]) -> None:
        try:
            self._hold.write(verb)
        except Fenced as fenced:
            _log.warning("%s Its end is not ours to write.", fenced)


def _scores(greys: dict[str, bytes], pairs: list[tuple[str, str]]) -> list[float]:
    """See `aligned`."""
    places = {image_id: place for place, image_id in enumerate(greys)}
    pictures = np.frombuffer(b"".join(greys.values()), np.uint8).reshape(-1, GREY, GREY).astype(np.float32)
    scores: list[float] = aligned(pictures, np.array([(places[one], places[other]) for one, other in pairs])).tolist()
    return scores
