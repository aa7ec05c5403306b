"""The sweeper: takes back what lost workers held, rings for what waits, frees what nobody uses. A thread of the web process.

A row with a 30 s lease keeps it single among many web processes. It works with the broker down: then it only takes back.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, insert, or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import Database, database_now
from core.freeing import Freeing
from core.ids import new_id
from core.leases import (
    BATCH_LIFE,
    EXPORT_LIFE,
    LABEL_CHECK_LIFE,
    LIVES,
    NEAR_CHECK_LIFE,
    RUN_LIFE,
    SHARE_LIFE,
    UPLOAD_LIFE,
    WEIGHTS_LIFE,
    Life,
    expire,
    expired,
    to_ring,
    waiting_count,
)
from core.leftovers import remove_left_files, remove_left_folders
from core.live import Announcer
from core.models import empty_bin
from core.queue import Queue
from core.runs import lost_sentence
from core.storage import open_storage
from core.tables import (
    BrowserSession,
    IdempotencyKey,
    Run,
    RunStatus,
    Singleton,
    StartLink,
    Upload,
    WorkerRow,
    utc_now,
)
from core.transfers import remove_abandoned
from core.unseen_versions import forget_abandoned

_log = logging.getLogger(__name__)
NAME = "sweeper"
LEASE_SECONDS = 30.0
TIDY_SECONDS = 600.0
FREEING_SECONDS = 0.5  # of one sweep
OLD = timedelta(days=1)
DEAD_WORKER_SECONDS = 600.0
_LOST = "Its worker disappeared."


class Sweeper:
    """Sweeps every `sweep_seconds`. Its thread never dies of an error."""

    def __init__(self, database: Database, settings: Settings, queue: Queue) -> None:
        self._database = database
        self._settings = settings
        self._queue = queue
        self._storage = open_storage(settings)
        self._freeing = Freeing(settings, database, self._storage)
        self._announcer = Announcer(settings)
        self._me = new_id()
        self._lease_until = 0.0
        self._tidied = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=NAME, daemon=True)

    def start(self) -> None:
        """Begin sweeping."""
        self._thread.start()

    def stop(self) -> None:
        """End within a second or two, and let another web process sweep at once."""
        self._stopping.set()
        self._thread.join(timeout=3)
        self._guarded(self._give_up_lease)
        self._announcer.close()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._guarded(self.sweep)
            self._stopping.wait(self._settings.sweep_seconds)

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001 - the boundary of this thread: whatever it is, the next sweep comes
            _log.exception("a sweep failed; the next one is in %.1f s", self._settings.sweep_seconds)

    def sweep(self) -> bool:
        """One sweep; False when another process is the sweeper."""
        if not self._hold_lease():
            return False
        for life in LIVES:
            self._take_back(life)
            self._ring(life)
        if time.monotonic() - self._tidied >= TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._tidy()
            self._freeing.look_again()
        self._free()
        return True

    def _free(self) -> None:
        """Free some of the pictures that nobody uses; the rest at the next sweeps."""
        until = time.monotonic() + FREEING_SECONDS
        while time.monotonic() < until and self._freeing.step(self._lease_until):
            if self._stopping.wait(0.01):  # others want to write too
                return

    def _hold_lease(self) -> bool:
        """Be the one sweeper, renewing only when a third of the lease is over: every write costs a sync."""
        length = min(LEASE_SECONDS, max(3.0, 6 * self._settings.sweep_seconds))
        if time.monotonic() < self._lease_until - length * 2 / 3:
            return True
        until = time.monotonic() + length
        free = or_(Singleton.owner == self._me, Singleton.expires_at < database_now())
        values = {"owner": self._me, "expires_at": database_now() + length}
        try:
            with self._database.write() as session:
                taken = session.execute(update(Singleton).where(Singleton.name == NAME, free).values(**values))
                if taken.rowcount == 0 and session.get(Singleton, NAME) is None:  # type: ignore[attr-defined]
                    session.execute(insert(Singleton).values(name=NAME, **values))
                elif taken.rowcount == 0:  # type: ignore[attr-defined]
                    return False
        except IntegrityError:  # another process was faster with the first row
            return False
        self._lease_until = until
        return True

    def _give_up_lease(self) -> None:
        with self._database.write() as session:
            session.execute(delete(Singleton).where(Singleton.name == NAME, Singleton.owner == self._me))

    def _take_back(self, life: Life) -> None:
        with self._database.read() as session:
            lost = expired(session, life)
        for claim in lost:
            with self._database.write() as session:
                status = expire(session, life, claim, **_failed_values(life))
                if status is not None and life.table in {Run, Upload}:
                    _tell(session, life, claim.id, status)
            if status is not None:
                _log.warning("%s %s lost its worker; it is %s", life.table.__tablename__, claim.id, status)
                self._announcer.changed(claim.id)

    def _ring(self, life: Life) -> None:
        """Ring for waiting rows, never while the broker's list is as long as they are many."""
        with self._database.read() as session:
            waiting = waiting_count(session, life)
        listed = self._queue.length(life.queue) if waiting else None
        if listed is None or listed >= waiting:
            return
        with self._database.write() as session:
            due = to_ring(session, life, self._settings.ring_again_seconds)
        for _ in range(min(due, waiting - listed)):
            self._queue.ring(life.queue)

    def _tidy(self) -> None:
        """Remove what nobody needs any more."""
        old = utc_now() - OLD
        with self._database.write() as session:
            session.execute(delete(BrowserSession).where(BrowserSession.expires_at < utc_now()))
            session.execute(delete(StartLink).where(StartLink.expires_at < old))
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < old))
            empty_bin(session, self._storage, old)
            session.execute(delete(WorkerRow).where(WorkerRow.heartbeat_at < database_now() - DEAD_WORKER_SECONDS))
            abandoned = remove_abandoned(session, self._settings)
        if abandoned:
            _log.info("%s uploads were removed: nobody went on with them", abandoned)
        unseen = forget_abandoned(self._database)
        if unseen:
            _log.info("%s dataset versions were removed that nobody had finished", unseen)
        remove_left_folders(self._database, self._settings)
        remove_left_files(self._database, self._storage)


_WHAT_FAILED = {
    UPLOAD_LIFE.table: "Checking these files failed three times: each time the worker disappeared. Upload them again.",
    BATCH_LIFE.table: "This batch prediction failed three times: each time the worker disappeared.",
    WEIGHTS_LIFE.table: (
        "Checking this file failed three times: each time the worker disappeared. It may be damaged or hostile."
    ),
    EXPORT_LIFE.table: "Making this file failed three times: each time the worker disappeared.",
    SHARE_LIFE.table: "Checking these files failed three times; whoever ingests the upload does it.",
    LABEL_CHECK_LIFE.table: "Looking for label errors failed three times: each time the worker disappeared.",
    NEAR_CHECK_LIFE.table: "Looking for near duplicates failed three times: each time the worker disappeared.",
}


def _failed_values(life: Life) -> dict[str, object]:
    """Columns of a row that lost its worker for the third time."""
    if life is RUN_LIFE:
        advice = "Look at the log below and at the memory of this machine, then try again."
        return {"failure": {"kind": "crash", "message": lost_sentence(_LOST), "advice": advice}}
    return {"error": _WHAT_FAILED[life.table]}


def _tell(session: Session, life: Life, row_id: str, status: object) -> None:
    """Raise the revision, which is what watchers go by."""
    table = life.table
    assert table in {Run, Upload}  # noqa: S101 - exports are not watched
    values: dict[str, object] = {"revision": table.revision + 1}
    if status == RunStatus.QUEUED:
        values["progress"] = {"phase": None, "message": "Queued again: its worker disappeared"}
    session.execute(update(table).where(table.id == row_id).values(**values))
