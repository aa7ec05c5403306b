"""The verbs of batch predictions: what a model says of every picture of an archive or a dataset version.

`queued -> running -> ready | failed | cancelled`. The rows are the memory between attempts: what has a row is done.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from core.database import after_commit, database_now
from core.errors import Conflict, NotFound
from core.ids import new_id
from core.leases import BATCH_LIFE, Claim, write
from core.queue import Queue
from core.storage import Storage
from core.tables import BatchPrediction, BatchRow, BatchStatus, DatasetVersion, TrainedModel, utc_now

CHUNK = 1000
GOING = (BatchStatus.QUEUED, BatchStatus.RUNNING)


def archive_key(batch_id: str) -> str:
    """Where the sent archive is, until the batch prediction has ended."""
    return f"batches/{batch_id}/archive"


def predict_archive(
    session: Session, queue: Queue, model: TrainedModel, batch_id: str, filename: str, size_bytes: int
) -> BatchPrediction:
    """Queue a batch prediction of an archive that is stored under `archive_key(batch_id)` already."""
    return _create(session, queue, model, id=batch_id, filename=filename[:255], size_bytes=size_bytes)


def predict_version(session: Session, queue: Queue, model: TrainedModel, version: DatasetVersion) -> BatchPrediction:
    """Queue a batch prediction of every picture of a dataset version."""
    values = {"dataset_version_id": version.id, "pictures_total": version.image_count}
    return _create(session, queue, model, id=new_id(), filename=f"dataset version {version.number}", **values)


def _create(session: Session, queue: Queue, model: TrainedModel, **values: Any) -> BatchPrediction:
    batch = BatchPrediction(owner_id=model.owner_id, model_id=model.id, **values)
    batch.rung_at = session.scalar(select(database_now()))
    session.add(batch)
    session.flush()
    queue.ring_after_commit(session, BATCH_LIFE.queue)
    return batch


def find_batch(session: Session, owner_id: str, batch_id: str) -> BatchPrediction:
    """A batch prediction of this person.

    Raises:
        NotFound: no such one, or another person's.
    """
    found = select(BatchPrediction).where(BatchPrediction.id == batch_id, BatchPrediction.owner_id == owner_id)
    batch = session.scalar(found)
    if batch is None:
        raise NotFound(f'There is no batch prediction "{batch_id}".')
    return batch


def batches_of(session: Session, model_id: str, most: int = 20) -> Sequence[BatchPrediction]:
    """The latest of a model, newest first."""
    found = select(BatchPrediction).where(BatchPrediction.model_id == model_id)
    return session.scalars(found.order_by(BatchPrediction.id.desc()).limit(most)).all()


def cancel_batch(session: Session, storage: Storage, batch: BatchPrediction) -> None:
    """Cancel: a queued one ends at once, a running one within seconds; what is answered stays. An ended one stays as it is."""
    ended = session.execute(
        update(BatchPrediction)
        .where(BatchPrediction.id == batch.id, BatchPrediction.status == BatchStatus.QUEUED)
        .values(status=BatchStatus.CANCELLED, finished_at=utc_now())
    )
    if ended.rowcount == 1:  # type: ignore[attr-defined]
        key = archive_key(batch.id)
        after_commit(session, lambda: storage.delete(key))
    else:
        session.execute(
            update(BatchPrediction)
            .where(BatchPrediction.id == batch.id, BatchPrediction.status == BatchStatus.RUNNING)
            .values(cancel_requested_at=database_now())
        )
    session.refresh(batch)


def delete_batch(session: Session, storage: Storage, batch: BatchPrediction) -> None:
    """Delete it with its rows and its archive; a worker on it is fenced."""
    key = archive_key(batch.id)
    session.execute(delete(BatchPrediction).where(BatchPrediction.id == batch.id))
    after_commit(session, lambda: storage.delete(key))


def record_rows(session: Session, held: Claim, rows: Sequence[Mapping[str, Any]], **columns: Any) -> None:
    """Write answers and progress in one transaction with the fence. Rows that are there already are left out.

    Args:
        session: a writing session; the caller commits.
        held: the worker's claim.
        rows: `{"ordinal", "path", "label", "probabilities", "known_score", "verdict", "error"}` each, in the order of their
            ordinals.
        columns: further columns of the batch prediction.

    Raises:
        Fenced: it is not this attempt's any more.
    """
    if rows:  # a write whose answer was lost on its way is made again
        last = last_ordinal(session, held.id)
        rows = [row for row in rows if row["ordinal"] > last]
    refused = sum(1 for row in rows if row["error"])
    progress = {
        "pictures_done": BatchPrediction.pictures_done + len(rows),
        "refused": BatchPrediction.refused + refused,
        "revision": BatchPrediction.revision + 1,
    }
    write(session, BATCH_LIFE, held, **progress, **columns)
    if rows:
        session.execute(insert(BatchRow), [{"batch_id": held.id, **row} for row in rows])


def last_ordinal(session: Session, batch_id: str) -> int:
    """The highest ordinal that has a row; -1 without any."""
    found = session.scalar(select(func.max(BatchRow.ordinal)).where(BatchRow.batch_id == batch_id))
    return -1 if found is None else found


def finish_batch(session: Session, held: Claim, status: BatchStatus, error: str | None = None) -> None:
    """It has ended: ready, failed or cancelled."""
    values = {"lease_owner": None, "lease_expires_at": None, "finished_at": utc_now()}
    write(session, BATCH_LIFE, held, status=status, error=error, revision=BatchPrediction.revision + 1, **values)


def must_be_ready(batch: BatchPrediction) -> None:
    """Check that there is a result.

    Raises:
        Conflict: it has not ended; a cancelled one has what was answered until then.
    """
    if batch.status in GOING:
        raise Conflict(
            f'This batch prediction has not ended (its status is "{batch.status}"): {batch.pictures_done:,} pictures are answered.'
        )


def rows_after(session: Session, batch_id: str, ordinal: int) -> Sequence[BatchRow]:
    """The next rows after an ordinal, at most CHUNK."""
    wanted = select(BatchRow).where(BatchRow.batch_id == batch_id, BatchRow.ordinal > ordinal)
    return session.scalars(wanted.order_by(BatchRow.ordinal).limit(CHUNK)).all()


def in_chunks(read: Any, batch_id: str) -> Iterator[Sequence[BatchRow]]:
    """Every row, in chunks, each read in a session of its own (`read` opens one): nothing is open while a slow client reads."""
    last = -1
    while True:
        with read() as session:
            rows = rows_after(session, batch_id, last)
        if not rows:
            return
        yield rows
        last = rows[-1].ordinal
