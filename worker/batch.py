"""Carries out one batch prediction: pictures out of an archive or a dataset version, answers into rows, in order and only once."""

import contextlib
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.batch_predictions import archive_key, finish_batch, last_ordinal, record_rows
from core.errors import ArchiveRefused, DiskFull, Fenced, NotFound, full_disk_told
from core.leases import BATCH_LIFE, Claim, claim, release
from core.logs import about
from core.storage import blob_key, need_disk
from core.tables import BatchPrediction, BatchStatus, Image, TrainedModel, VersionImage
from worker.hold import Hold
from worker.ingest.archive import open_archive
from worker.ingest.entries import ArchiveLimits, Code, EntryRefused
from worker.ingest.folders import skip_reason
from worker.lifeline import child_environment, child_setup
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
NICE = 5
ROWS_AT_ONCE = 256
SECONDS_AT_MOST = 1.0  # between two writes of progress
MOST_UNDERWAY = 512  # pictures unpacked and not yet answered
PAGE = 500
_FAULT = "The pictures could not be answered by a fault of ours; see the worker's log."


class Stopped(Exception):
    """This worker was asked to stop."""


class Cancelled(Exception):
    """A person asked for it."""


@dataclass
class _Picture:
    """One picture on its way to its row; `error` when it is refused without a look. `spooled`: the file is a copy of ours."""

    ordinal: int
    path: str
    file: Path | None = None
    error: str | None = None
    spooled: bool = False


@dataclass(frozen=True)
class _Wish:
    """What the rows say: plain values."""

    version_id: str | None
    from_archive: bool
    key: str
    image_size: list[int]
    resize: str
    done: int


def batch_next(place: Workplace) -> bool:
    """Claim the next batch prediction and carry it out; False when none waits."""
    with place.database.write() as session:
        held = claim(session, BATCH_LIFE, place.name, place.settings.lease_seconds)
    if held is None:
        return False
    with about(batch_id=held.id):
        Batch(place, held).run()
    return True


class Batch:
    """One attempt at one batch prediction."""

    def __init__(self, place: Workplace, held: Claim) -> None:
        self._place = place
        self._hold = Hold(place, held, BATCH_LIFE)
        self._folder = place.settings.folder / "batches" / f"{held.id}-{held.attempt}"
        self._rows: list[dict[str, Any]] = []
        self._underway: deque[_Picture] = deque()
        self._written = time.monotonic()

    def run(self) -> None:
        """Answer every picture that has no row yet, and write down how it ended."""
        held = self._hold.claim
        for old in self._folder.parent.glob(f"{held.id}-*"):
            shutil.rmtree(old, ignore_errors=True)
        try:
            with full_disk_told(
                "The disk became full while the pictures were answered. Free some space and try again."
            ):
                self._answer_all()
            self._end(BatchStatus.READY)
        except Fenced as fenced:
            _log.warning("%s It is left alone.", fenced)
        except Stopped:
            with contextlib.suppress(Fenced):
                self._hold.write(lambda session: release(session, BATCH_LIFE, held))
        except Cancelled:
            self._end(BatchStatus.CANCELLED)
        except (NotFound, DiskFull, ArchiveRefused) as error:
            self._end(BatchStatus.FAILED, error.message)
        except Exception:  # noqa: BLE001 - the task boundary: recorded, logged, and the next one is looked at
            _log.exception("batch prediction %s: attempt %s failed by a fault of ours", held.id, held.attempt)
            self._end(BatchStatus.FAILED, _FAULT)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, status: BatchStatus, error: str | None = None) -> None:
        held = self._hold.claim
        try:
            self._write_rows()
            self._hold.write(lambda session: finish_batch(session, held, status, error))
        except Fenced:
            _log.info("batch prediction %s: fenced at its end", held.id)
            return
        self._place.storage.delete(archive_key(held.id))

    def _answer_all(self) -> None:
        need_disk(self._place.settings.folder, 0, self._place.settings.disk_reserve_bytes)
        self._folder.mkdir(parents=True)
        with self._place.database.read() as session:
            wish = _read_wish(session, self._hold.claim.id)
        with _Asker(self._place, wish) as asker:
            for picture in self._pictures(wish):
                self._keep()
                self._underway.append(picture)
                if picture.file is not None:
                    asker.ask(picture.ordinal, picture.file)
                while len(self._underway) >= MOST_UNDERWAY:
                    self._take(asker)
                self._take(asker, wait=False)
            while self._underway:
                self._take(asker)
        self._write_rows()

    def _take(self, asker: "_Asker", *, wait: bool = True) -> None:
        """Move what is answered into rows; with `wait`, at least the first picture underway."""
        while self._underway:
            first = self._underway[0]
            if first.file is not None:
                if wait:
                    asker.hurry(first.ordinal)
                answer = asker.answer(0.2 if wait else 0.0)
                if answer is None:
                    if not wait:
                        break
                    self._keep()
                    continue
            else:
                answer = {"error": first.error}
            self._underway.popleft()
            if first.spooled and first.file is not None:
                first.file.unlink(missing_ok=True)
            empty = dict.fromkeys(("label", "probabilities", "known_score", "verdict", "error"))
            self._rows.append({**empty, **answer, "ordinal": first.ordinal, "path": first.path})
            wait = False
        if len(self._rows) >= ROWS_AT_ONCE or time.monotonic() - self._written > SECONDS_AT_MOST:
            self._write_rows()

    def _write_rows(self) -> None:
        rows, held = self._rows, self._hold.claim
        if rows:
            self._hold.write(lambda session: record_rows(session, held, rows))
        self._rows, self._written = [], time.monotonic()

    def _keep(self) -> None:
        self._hold.keep()
        if self._hold.cancelled:
            raise Cancelled
        if self._hold.stopping:
            raise Stopped

    def _pictures(self, wish: _Wish) -> Iterator[_Picture]:
        """Every picture that has no row yet, in an order that is the same in every attempt."""
        if wish.from_archive:
            return self._of_archive(wish)
        return self._of_version(wish)

    def _of_version(self, wish: _Wish) -> Iterator[_Picture]:
        if wish.version_id is None:
            raise NotFound("The dataset version was deleted before all of its pictures were answered.")
        last = wish.done
        while True:
            query = select(VersionImage.ordinal, VersionImage.filename, Image.sha256)
            query = query.join(Image, Image.id == VersionImage.image_id)
            query = query.where(VersionImage.version_id == wish.version_id, VersionImage.ordinal > last)
            with self._place.database.read() as session:
                rows = session.execute(query.order_by(VersionImage.ordinal).limit(PAGE)).all()
            if not rows:
                return
            for row in rows:
                try:
                    file = self._place.storage.local(blob_key(row.sha256))
                    yield _Picture(row.ordinal, row.filename, file)
                except NotFound as error:
                    yield _Picture(row.ordinal, row.filename, error=error.message)
            last = rows[-1].ordinal

    def _of_archive(self, wish: _Wish) -> Iterator[_Picture]:
        settings = self._place.settings
        limits = ArchiveLimits(
            archive_bytes=settings.max_archive_bytes,
            unpacked_bytes=settings.max_unpacked_bytes,
            entries=settings.max_entries,
            image_bytes=settings.max_image_bytes,
        )
        archive_file = self._place.storage.keep(archive_key(self._hold.claim.id), self._folder)
        with open_archive(archive_file, limits) as archive:
            total = len(archive.entries)
            held = self._hold.claim
            self._hold.write(lambda session: record_rows(session, held, [], pictures_total=total))
            if wish.done + 1 >= total:
                return
            for number, entry, chunks in archive.contents(wish.done + 1):
                yield self._unpacked(number, entry, chunks)

    def _unpacked(self, number: int, entry: Any, chunks: Iterator[bytes] | None) -> _Picture:
        """An entry as a file of ours, its bytes counted."""
        refusal = entry.refusal or skip_reason(entry.path)
        if refusal is not None or chunks is None:
            return _Picture(number, entry.path, error=refusal.sentence if refusal else "It cannot be read.")
        file, size = self._folder / str(number), 0
        try:
            with file.open("wb") as out:
                for chunk in chunks:
                    size += len(chunk)
                    if size > entry.size:
                        raise EntryRefused(Code.DAMAGED_ENTRY, "The entry unpacks to more than it declares.")
                    out.write(chunk)
        except EntryRefused as refused:
            file.unlink(missing_ok=True)
            return _Picture(number, entry.path, error=refused.refusal.sentence)
        return _Picture(number, entry.path, file, spooled=True)


@dataclass
class _Asker:
    """The process in which TensorFlow answers (worker/prediction/batch.py); use as a context manager."""

    place: Workplace
    wish: _Wish
    _process: "subprocess.Popen[bytes] | None" = None
    _answers: "queue.SimpleQueue[dict[str, Any] | None]" = field(default_factory=queue.SimpleQueue)
    _last_words: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    _asked: int = -1  # ordinal of the last picture asked
    _hurried: int = -1  # up to this one nothing is held back

    def __enter__(self) -> Self:
        settings = self.place.settings
        order = {
            "saved_model": str(self.place.storage.local_tree(f"{self.wish.key}/saved_model")),
            "image_size": self.wish.image_size,
            "resize": self.wish.resize,
            "max_bytes": settings.max_image_bytes,
            "max_pixels": settings.max_image_pixels,
        }
        process = self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "worker.prediction.batch", json.dumps(order)],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=child_setup(nice=NICE, expendable=True),  # noqa: PLW1509 - system calls and nothing else
        )
        for call, stream in ((self._hear, process.stdout), (self._overhear, process.stderr)):
            threading.Thread(target=call, args=(stream,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def _hear(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed by us
            for line in stream:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _overhear(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                self._last_words.append(line.decode(errors="replace").rstrip())

    def ask(self, ordinal: int, file: Path) -> None:
        """Have a picture answered; answers come in the order of asking."""
        self._say(json.dumps([ordinal, str(file)]))
        self._asked = ordinal

    def hurry(self, ordinal: int) -> None:
        """Have this picture answered without another being asked: the process holds pictures back to have whole batches."""
        if ordinal > self._hurried:
            self._say(json.dumps([-1, ""]))
            self._hurried = self._asked

    def _say(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("The answering process was not started.")
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError(self._ended()) from error

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer, or None when there is none within `seconds`."""
        try:
            found = self._answers.get(timeout=seconds) if seconds else self._answers.get_nowait()
        except queue.Empty:
            return None
        if found is None:
            raise RuntimeError(self._ended())
        return found

    def _ended(self) -> str:
        return "The answering process ended: " + "\n".join(self._last_words)


def _read_wish(session: Session, batch_id: str) -> _Wish:
    batch = session.get_one(BatchPrediction, batch_id)
    model = session.get_one(TrainedModel, batch.model_id)
    from_archive = batch.size_bytes is not None
    done = last_ordinal(session, batch_id)
    return _Wish(batch.dataset_version_id, from_archive, model.storage_key, list(model.image_size), model.resize, done)
