"""From received bytes to a dataset version: the story of one upload, top to bottom.

Every picture's blob and thumbnail are on disk before its row is written; every row carries the fence; the receipt is the memory
between attempts: what has a row is done. Memory stays flat: files are unpacked one by one and decoded in other processes.
"""

import contextlib
import hashlib
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from core.config import Settings
from core.database import Database, database_now
from core.datasets import remember_images, remember_looks
from core.errors import DiskFull, Fenced, QuotaReached, ThawError, UploadRejected
from core.freeing import BeingRemoved, hold_files, removals
from core.leases import UPLOAD_LIFE, Claim, claim, release, write
from core.logs import about
from core.quota import need_quota
from core.storage import Storage, blob_key, need_disk, open_storage, thumbnail_key
from core.tables import Outcome, ReceiptRow, Upload, UploadFile
from core.upload_shares import forget_shares
from core.uploads import finish_rejected, incoming_folder, record_receipt
from worker.ingest.checkers import Checkers, Job
from worker.ingest.entries import ArchiveLimits, Code
from worker.ingest.guard import look_columns
from worker.ingest.held import Cancelled, Drained, Held
from worker.ingest.sample import sample_pictures
from worker.ingest.sharing import Sharing
from worker.ingest.sources import Contents, Received
from worker.ingest.version import make_version
from worker.training.pictures import PictureLimits

_log = logging.getLogger(__name__)
ROWS_AT_ONCE = 200
FILES_AT_ONCE = 10  # stored by one thread one after the other
WAIT_SECONDS = 0.5
SECONDS_AT_MOST = 1.0  # between two writes of progress


def ingest_next(
    settings: Settings,
    database: Database,
    *,
    owner: str,
    drain: threading.Event | None = None,
    announce: Callable[[str], None] | None = None,
) -> bool:
    """Claim the next received upload and ingest it; returns False when none waits.

    Args:
        settings: limits, folders, lease times.
        database: where the rows are.
        owner: this worker's id, for people to read.
        drain: when set, the upload is given back to the queue soon, to be gone on with elsewhere.
        announce: called with the upload's id after every write.
    """
    with database.write() as session:
        held = claim(session, UPLOAD_LIFE, owner, settings.lease_seconds)
    if held is None:
        return False
    with about(upload_id=held.id):
        _log.info("upload %s: attempt %s begins", held.id, held.attempt)
        Ingest(settings, database, held, announce or (lambda _: None), drain).run()
    return True


@dataclass
class _Progress:
    """Counts by outcome and by reason, of this and earlier attempts."""

    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any], count: int = 1) -> None:
        self.done += count
        self.outcomes[row["outcome"]] += count
        if row["code"]:
            self.reasons[row["code"]] += count

    def columns(self) -> dict[str, Any]:
        """Columns of the upload."""
        counts = {outcome.value: self.outcomes[outcome.value] for outcome in Outcome}
        return {"files_done": self.done, "by_reason": dict(self.reasons), **counts}


class Ingest:
    """One attempt at one claimed upload."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        held: Claim,
        announce: Callable[[str], None],
        drain: threading.Event | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._claim = held
        self._announce = announce
        self._drain = drain
        self._storage: Storage = open_storage(settings)
        self._incoming = incoming_folder(settings, held.id)
        self._spool = self._incoming / f"spool-{held.attempt}"
        self._progress = _Progress()
        self._owner_id = ""
        self._sample_seed: int | None = None

    def run(self) -> None:
        """Ingest, and write down how it ended. Only what nobody foresaw is raised."""
        fenced = False
        try:
            with Held(self._settings, self._database, self._claim, self._drain) as held:
                self._ingest(held)
            self._forget_bytes()
        except Fenced:
            fenced = True
            _log.info("upload %s: fenced, attempt %s stops", self._claim.id, self._claim.attempt)
        except Drained:
            self._end(lambda session: release(session, UPLOAD_LIFE, self._claim))
        except DiskFull as full:
            self._reject(full)  # the received bytes stay: `core.uploads.retry_upload` goes on from the receipt
        except (UploadRejected, Cancelled) as refused:
            self._reject(refused)
            self._forget_bytes()
        except Exception:  # the task boundary: counted as a failure by the sweeper, three of them reject the upload
            if self._is_fenced():  # the upload was deleted, and its rows and bytes with it: no wonder
                fenced = True
                _log.info("upload %s: gone, attempt %s stops", self._claim.id, self._claim.attempt, exc_info=True)
                return
            self._hand_over()
            raise
        finally:
            shutil.rmtree(self._spool, ignore_errors=True)
            if fenced and self._is_deleted():
                self._clear_up()

    def _ingest(self, held: Held) -> None:
        self._clear_old_spools()
        received = self._drawn(held, self._load())
        with Contents(received, _archive_limits(self._settings)) as contents:
            held.check()
            self._need_quota(contents)
            self._write([], files_total=len(contents.entries))
            self._check_pictures(held, contents)
            self._report_manifest(contents)
            make_version(self._database, self._settings, held, contents)
        self._announce(self._claim.id)

    def _clear_old_spools(self) -> None:
        with (
            self._database.write() as session
        ):  # first: who takes a share whose files are gone helps with this upload no more
            forget_shares(session, self._claim.id)
        for folder in (*self._incoming.glob("spool-*"), *self._incoming.glob("share-*")):
            shutil.rmtree(folder, ignore_errors=True)
        self._spool.mkdir(parents=True)

    def _load(self) -> list[Received]:
        """The received files in the order of their ids, and what earlier attempts have done."""
        with self._database.read() as session:
            upload = session.get_one(Upload, self._claim.id)
            self._owner_id, self._sample_seed = upload.owner_id, upload.sample_seed
            files = session.execute(
                select(UploadFile.id, UploadFile.path, UploadFile.sha256, UploadFile.size_bytes)
                .where(UploadFile.upload_id == upload.id)
                .order_by(UploadFile.id)
            )
            received = [Received(self._incoming / row[0], row[1], row[2], row[3]) for row in files]
            counted = select(ReceiptRow.outcome, ReceiptRow.code, func.count()).where(ReceiptRow.upload_id == upload.id)
            for outcome, code, count in session.execute(counted.group_by(ReceiptRow.outcome, ReceiptRow.code)):
                self._progress.add({"outcome": outcome.value, "code": code}, count)
        return received

    def _drawn(self, held: Held, received: list[Received]) -> list[Received]:
        """The pictures of a sample set, drawn anew on every attempt (the same seed gives the same bytes); else what was received."""
        if self._sample_seed is None:
            return received
        folder = self._spool / "sample"
        folder.mkdir()
        for number, (path, body) in enumerate(sample_pictures(self._sample_seed)):
            held.check()
            need_disk(folder, len(body), self._settings.disk_reserve_bytes)
            file = folder / str(number)
            file.write_bytes(body)
            received.append(Received(file, path, hashlib.sha256(body).hexdigest(), len(body)))
        size = sum(one.size for one in received)
        self._write([], received_bytes=size, total_bytes=size)
        return received

    def _need_quota(self, contents: Contents) -> None:
        """An archive may unpack to more than was received. Pictures that this person has already count a second time here.

        Raises:
            UploadRejected: with what is used and what is allowed.
        """
        if self._progress.done:  # an earlier attempt was let in
            return
        size = sum(entry.size for entry in contents.entries if entry.refusal is None)
        try:
            with self._database.read() as session:
                need_quota(session, self._settings, self._owner_id, size, but_upload=self._claim.id)
        except QuotaReached as reached:
            raise UploadRejected(reached.message) from reached

    def _check_pictures(self, held: Held, contents: Contents) -> None:
        limits = PictureLimits(self._settings.max_image_bytes, self._settings.max_image_pixels)
        processes = self._settings.ingest_processes or self._settings.cores
        batch: list[Job] = []
        stored: list[Future[None]] = []
        written_at, removed = time.monotonic(), self._removals()
        with (
            Checkers(processes, limits) as checkers,
            Sharing(self._database, held, checkers, self._incoming) as sharing,
            ThreadPoolExecutor(self._storage.parallel) as writers,
        ):
            coming = contents.jobs(self._progress.done, self._spool, self._settings.disk_reserve_bytes)
            for job in sharing.check(coming):
                held.check()
                batch.append(job)
                full = len(batch) >= ROWS_AT_ONCE or time.monotonic() - written_at > SECONDS_AT_MOST
                if full or len(batch) % FILES_AT_ONCE == 0:
                    stored.append(writers.submit(self._store, batch[len(stored) * FILES_AT_ONCE :]))
                if full:
                    self._keep(held, batch, stored, removed)
                    batch, stored, written_at, removed = [], [], time.monotonic(), self._removals()
            self._store(batch[len(stored) * FILES_AT_ONCE :])
            self._keep(held, batch, stored, removed)

    def _removals(self) -> int:
        """What tells whether files are removed after this moment."""
        with self._database.read() as session:
            return removals(session)

    def _keep(self, held: Held, jobs: list[Job], stored: list[Future[None]], removed: int) -> None:
        """Files first, rows last, copies away. `removed`: `_removals` before the first file was looked for."""
        for some in stored:
            some.result()
        while True:
            try:
                self._write_rows(jobs, removed)
                break
            except BeingRemoved:  # by the sweeper, within a second or so; after a crash of it, within its lease
                held.check()
                time.sleep(WAIT_SECONDS)
        for job in jobs:
            for file in (job.source if job.spooled else None, job.thumbnail):
                if file is not None:
                    file.unlink(missing_ok=True)
        self._announce(self._claim.id)

    def _write_rows(self, jobs: list[Job], removed: int) -> None:
        with self._database.write() as session:
            if hold_files(session, [job.sha256 for job in jobs if job.facts], removed):
                self._store(jobs)
            ids = remember_images(session, self._owner_id, {job.sha256: _facts(job) for job in jobs if job.facts})
            remember_looks(session, {ids[job.sha256]: look_columns(job.look) for job in jobs if job.look is not None})
            rows = [_row(job, ids[job.sha256] if job.facts else None) for job in jobs]
            for row in rows:
                self._progress.add(row)
            record_receipt(session, self._claim, rows, **self._progress.columns())

    def _store(self, jobs: list[Job]) -> None:
        """Store what is not there. Done again, what it gave away may have been removed: then this attempt fails, the next has it."""
        for job in jobs:
            if job.facts is None or job.source is None or job.thumbnail is None:
                continue
            job.size = job.size or job.source.stat().st_size
            for key, file in ((blob_key(job.sha256), job.source), (thumbnail_key(job.sha256), job.thumbnail)):
                if not self._storage.has(key):
                    # what was received one by one is read again by a later attempt; the rest is ours to give away
                    self._storage.put(key, file, move=job.spooled or file is job.thumbnail)

    def _report_manifest(self, contents: Contents) -> None:
        """Receipt rows for the lines of a manifest that could not be used, after those of the files."""
        if contents.manifest is None:
            return
        first = len(contents.entries)
        lines = list(enumerate(contents.manifest.refused, start=first))[max(0, self._progress.done - first) :]
        for start in range(0, len(lines), ROWS_AT_ONCE):
            rows = []
            for ordinal, refused in lines[start : start + ROWS_AT_ONCE]:
                path = f"{contents.manifest.path}, line {refused.line}"[-1024:]
                row = {"ordinal": ordinal, "path": path, "outcome": Outcome.REFUSED, "code": Code.MANIFEST_LINE.value}
                rows.append({**row, "reason": refused.sentence, "image_id": None})
                self._progress.add({"outcome": "refused", "code": Code.MANIFEST_LINE.value})
            self._write(rows, files_total=first + len(contents.manifest.refused))

    def _write(self, rows: Iterable[Mapping[str, Any]], **columns: Any) -> None:
        with self._database.write() as session:
            record_receipt(session, self._claim, rows, **(self._progress.columns() | columns))
        self._announce(self._claim.id)

    def _reject(self, refused: ThawError) -> None:
        _log.info("upload %s is rejected: %s", self._claim.id, refused)
        self._end(lambda session: finish_rejected(session, self._claim, refused.message))

    def _end(self, verb: Callable[[Any], None]) -> None:
        try:
            with self._database.write() as session:
                verb(session)
        except Fenced:
            _log.info("upload %s: fenced at its end", self._claim.id)
        self._announce(self._claim.id)

    def _hand_over(self) -> None:
        """End the lease now, so that the sweeper need not wait for it to run out."""
        self._end(lambda session: write(session, UPLOAD_LIFE, self._claim, lease_expires_at=database_now() - 1))

    def _is_fenced(self) -> bool:
        try:
            with self._database.write() as session:
                write(session, UPLOAD_LIFE, self._claim, revision=Upload.revision)
        except Fenced:
            return True
        return False

    def _is_deleted(self) -> bool:
        with self._database.read() as session:
            return session.get(Upload, self._claim.id) is None

    def _clear_up(self) -> None:
        """Whoever deleted the upload could not remove the folders that were being written into."""
        for folder in self._incoming.glob("share-*"):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: not ours to remove
            self._incoming.rmdir()

    def _forget_bytes(self) -> None:
        shutil.rmtree(self._incoming, ignore_errors=True)


def _archive_limits(settings: Settings) -> ArchiveLimits:
    return ArchiveLimits(
        archive_bytes=settings.max_archive_bytes,
        unpacked_bytes=settings.max_unpacked_bytes,
        entries=settings.max_entries,
        image_bytes=settings.max_image_bytes,
    )


def _facts(job: Job) -> dict[str, Any]:
    """Columns of the picture of a job that was kept."""
    assert job.facts is not None  # noqa: S101 - asked for only then
    return {
        "width": job.facts.width,
        "height": job.facts.height,
        "format": job.facts.format,
        "size_bytes": job.size,
    }


def _row(job: Job, image_id: str | None) -> dict[str, Any]:
    """The receipt row of a decided job."""
    row: dict[str, Any] = {"ordinal": job.ordinal, "path": job.path, "image_id": image_id, "code": "", "reason": ""}
    if job.refusal is not None:
        outcome = Outcome.SKIPPED if job.refusal.skipped else Outcome.REFUSED
        return row | {"outcome": outcome, "code": str(job.refusal.code), "reason": job.refusal.sentence}
    if job.facts is not None and job.facts.fixes:
        return row | {"outcome": Outcome.FIXED, "reason": "; ".join(job.facts.fixes)}
    return row | {"outcome": Outcome.KEPT}
