"""One upload over several workers: whoever ingests it unpacks, hands out shares of unpacked pictures, and puts the answers together.

A share is a row with a lease (`core.upload_shares`); files and thumbnails stay in the upload's incoming folder, which ingest workers
share. A helper only decodes, looks and writes thumbnails: all that costs much. It stores nothing and writes no row but its share's, so a
share that is done twice, or half, changes nothing. Nobody helps: the share is taken back when its turn comes.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from core.database import Database
from core.errors import Fenced
from core.leases import LIVES, NEAR_CHECK_LIFE, SHARE_LIFE, UPLOAD_LIFE, Claim, release, waiting_count
from core.tables import UploadShare
from core.upload_shares import (
    claim_share,
    finish_share,
    forget_shares,
    is_checked,
    is_with_nobody,
    offer_share,
    take_answers,
    take_back,
)
from core.uploads import incoming_folder
from worker.hold import Hold
from worker.ingest.checkers import Checkers, Job, answer_of, decide
from worker.ingest.entries import Refusal
from worker.ingest.held import Held
from worker.training.pictures import PictureLimits
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
FILES = 100  # of one share at most
BYTES = 64 << 20  # of its files: it ends with the one that reaches this
MOST = 8  # shares under way: about 500 MB are unpacked ahead at most
AHEAD = 3  # files that are unpacked for later shares with every one that we check
LOOK_SECONDS = 0.25  # between two looks for answers
_NOTHING = Job(-1, "", refusal=Refusal("", ""))
PATIENCE = 3.0  # seconds that a helper waits for the next share: its checkers are warm
_ONE_AT_A_TIME = threading.Lock()
_UNSEEN: set[str] = set()  # uploads whose files this process does not see: it leaves them to others


@dataclass(eq=False)
class _Share:
    """Files in the order of the receipt.

    Attributes:
        jobs: those whose turn has not come.
        id: of its row, while it is offered or with a helper.
        whole: no more files come to it.
        ours: our own checkers have it.
        read: files that came to it.
        size: of these files, in bytes.
        asked_at: when it was last looked whether nobody has it, as `time.monotonic`.
    """

    jobs: list[Job] = field(default_factory=list)
    id: str | None = None
    whole: bool = False
    ours: bool = False
    read: int = 0
    size: int = 0
    asked_at: float = float("-inf")

    @property
    def undecided(self) -> list[Job]:
        return [job for job in self.jobs if not job.is_decided]


class Sharing:
    """Checks the files of one upload with whoever helps."""

    def __init__(self, database: Database, held: Held, checkers: Checkers, incoming: Path) -> None:
        self._database = database
        self._held = held
        self._checkers = checkers
        self._incoming = incoming
        self._window: deque[_Share] = deque()  # the last one may be incomplete
        self._coming: Iterator[Job] = iter(())
        self._more = True
        self._looked_at = 0.0

    def check(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """As `Checkers.check`: decide every job, in order."""
        self._coming = iter(jobs)
        for _ in self._checkers.check(self._ours()):
            self._held.check()
            self._look()
            yield from self._ready()
        while self._window:  # what is left is with helpers, or was lost by them
            if (share := self._next()) is not None:
                for _ in self._checkers.check(share.undecided):
                    self._held.check()
            elif self._window[0].id is not None:
                self._wait()
            yield from self._ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            with self._database.write() as session:
                forget_shares(session, self._held.claim.id)

    def _ready(self) -> Iterator[Job]:
        """What is decided, from the front on."""
        while self._window and (first := self._window[0]).id is None:
            decided = next((number for number, job in enumerate(first.jobs) if not job.is_decided), len(first.jobs))
            done, first.jobs = first.jobs[:decided], first.jobs[decided:]
            yield from done
            if first.jobs or not first.whole:
                return
            self._window.popleft()

    def _ours(self) -> Iterator[Job]:
        """What this worker checks itself: the oldest share that nobody took, or else what comes next."""
        while True:
            if (share := self._next()) is not None:
                for job in list(share.jobs):
                    yield job
                    self._read(AHEAD)
            elif not self._more:
                return
            elif len(self._window) >= MOST and self._window[-1].whole:
                if not any(one.ours and one.undecided for one in self._window):
                    self._wait()
                yield _NOTHING  # so that our checkers are heard, and `_ready` is asked
            else:
                yield from self._fresh()
                self._read(FILES)  # so that there is something to offer

    def _fresh(self) -> Iterator[Job]:
        """The share that is being read, as it is read."""
        share = self._last()
        share.ours = True
        yield from list(share.jobs)
        while not share.whole:
            job = self._read_one(share)
            if job is not None:
                yield job

    def _read(self, count: int) -> None:
        """Unpack so many files for later shares, and offer those that are whole."""
        for _ in range(count):
            if not self._more or (len(self._window) >= MOST and self._window[-1].whole):
                return
            share = self._last()
            self._read_one(share)
            if share.whole and self._more:
                self._offer(share)

    def _last(self) -> _Share:
        if not self._window or self._window[-1].whole:
            self._window.append(_Share())
        return self._window[-1]

    def _read_one(self, share: _Share) -> Job | None:
        job = next(self._coming, None)
        if job is not None:
            share.jobs.append(job)
            share.read += 1
            share.size += job.size
        self._more = job is not None
        share.whole = job is None or share.read >= FILES or share.size >= BYTES
        return job

    def _offer(self, share: _Share) -> None:
        files = share.undecided
        if not files:
            return
        names = [str(job.source.relative_to(self._incoming)) for job in files if job.source is not None]
        with self._database.write() as session:
            share.id = offer_share(session, self._held.claim, names)

    def _next(self) -> _Share | None:
        """The oldest whole share that neither we nor a helper have; it is ours from now on."""
        for share in self._window:
            if share.whole and not share.ours and share.undecided and self._is_free(share):
                share.id, share.ours = None, True
                return share
        return None

    def _is_free(self, share: _Share) -> bool:
        """True when no helper has it, nor can take it any more. While one has it, we ask every quarter of a second."""
        if share.id is None:
            return True
        if (now := time.monotonic()) - share.asked_at < LOOK_SECONDS:
            return False
        share.asked_at = now
        with self._database.read() as session:
            if not is_with_nobody(session, share.id):
                return False
        with self._database.write() as session:
            return take_back(session, share.id)

    def _wait(self) -> None:
        self._held.check()
        time.sleep(LOOK_SECONDS)
        self._look()

    def _look(self) -> None:
        """Take what helpers have found, every quarter of a second."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        offered = {share.id: share for share in self._window if share.id is not None}
        with self._database.read() as session:
            if not offered or not is_checked(session, list(offered)):
                return
        with self._database.write() as session:
            found = take_answers(session, list(offered))
        for share_id, answers in found.items():
            share = offered[share_id]
            for job, answer in zip(share.undecided, answers, strict=True):
                if answer is not None:
                    assert job.source is not None  # noqa: S101 - offered only then
                    job.thumbnail = thumbnail_of(self._incoming, share_id, job.source.name)
                    decide(job, answer)
            share.id = None


def thumbnail_of(incoming: Path, share_id: str, name: str) -> Path:
    """Where a helper writes a thumbnail: never where another one writes the same."""
    return incoming / f"share-{share_id}" / f"{name}.jpg"


def help_next(place: Workplace) -> bool:
    """Check shares of uploads that others ingest, as long as some come and this process has nothing else to do.

    Returns:
        False when there was none, when another thread of this process is at it (one has checkers for all cores), or when work of
        another queue waits for a thread.
    """
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        return False
    try:
        return _help(place)
    finally:
        _ONE_AT_A_TIME.release()


def _help(place: Workplace) -> bool:
    settings = place.settings
    # who uses all cores of a machine needs no help of the same machine
    not_of = None if settings.ingest_processes else place.name.partition(":")[0]
    limits = PictureLimits(settings.max_image_bytes, settings.max_image_pixels)
    helped, until = False, time.monotonic()
    with Checkers(settings.ingest_processes or settings.cores, limits) as checkers:
        while not place.stopping:
            with place.database.read() as session:  # asking costs no writing transaction
                if waiting_count(session, UPLOAD_LIFE):  # uploads of its own come first
                    return True
                if helped and _others_wait(session, place.queues):
                    return False
                some = waiting_count(session, SHARE_LIFE)
            held = _claimed(place, not_of) if some else None
            if held is not None:
                try:
                    if not _check_share(place, Hold(place, held, SHARE_LIFE), checkers):
                        continue
                except (Fenced, FileNotFoundError):
                    _log.info("share %s was taken back", held.id)
                helped, until = True, time.monotonic() + PATIENCE
            elif time.monotonic() >= until:
                break
            else:
                time.sleep(LOOK_SECONDS)
    return helped


def _claimed(place: Workplace, not_of: str | None) -> Claim | None:
    with place.database.write() as session:
        return claim_share(session, place.name, place.settings.lease_seconds, not_of=not_of, but_uploads=_UNSEEN)


def _others_wait(session: Session, queues: Sequence[str]) -> bool:
    """True when something waits that this process may do instead (but for near checks: nobody waits for those)."""
    others = [life for life in LIVES if life.queue in queues and life not in (SHARE_LIFE, NEAR_CHECK_LIFE)]
    return any(waiting_count(session, life) for life in others)


def _check_share(place: Workplace, hold: Hold, checkers: Checkers) -> bool:
    """False when it was given back."""
    with place.database.read() as session:
        share = session.get(UploadShare, hold.claim.id)
    if share is None:
        raise Fenced(f"Share {hold.claim.id} was taken back.")
    incoming = incoming_folder(place.settings, share.upload_id)
    jobs = [Job(number, name, source=incoming / name) for number, name in enumerate(share.files)]
    if not all(job.source is not None and job.source.is_file() for job in jobs):
        _log.warning("upload %s is left to other workers: its files are not in %s", share.upload_id, incoming)
        # rung for when its time comes: who is rung for at once may be this process again
        hold.write(
            lambda session: release(session, SHARE_LIFE, hold.claim, rung_at=UploadShare.rung_at), announce=False
        )
        _UNSEEN.add(share.upload_id)
        return False
    for job in jobs:
        job.thumbnail = thumbnail_of(incoming, share.id, Path(job.path).name)
    thumbnail_of(incoming, share.id, "").parent.mkdir(exist_ok=True)
    for _ in checkers.check(jobs):
        hold.keep()
        if hold.stopping:
            hold.write(lambda session: release(session, SHARE_LIFE, hold.claim), announce=False)
            return False
    answers = [answer_of(job) for job in jobs]
    hold.write(lambda session: finish_share(session, hold.claim, answers), announce=False)
    _log.info("upload %s: checked %s of its files for another worker", share.upload_id, len(jobs))
    return True
