"""Claim, renew, release, expire: written once, used by every row that a worker works on.

The row is the truth. A claim is one conditional UPDATE; `attempt` only rises and is the fence: a worker that no longer owns
the row gets `Fenced` from its next write and must stop without touching anything. Only the database's clock is compared.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select, update
from sqlalchemy.orm import Session

from core.database import database_now
from core.errors import Fenced
from core.tables import (
    BatchPrediction,
    BatchStatus,
    Export,
    ExportStatus,
    LabelCheck,
    LabelCheckStatus,
    NearCheck,
    NearCheckStatus,
    Run,
    RunStatus,
    ShareStatus,
    Upload,
    UploadShare,
    UploadStatus,
    Weights,
    WeightsStatus,
    utc_now,
)

MOST_FAILURES = 3


@dataclass(frozen=True)
class Life:
    """The statuses that a leased noun lives through, and the queue that is rung for it."""

    table: (
        type[Run]
        | type[Upload]
        | type[Export]
        | type[Weights]
        | type[LabelCheck]
        | type[BatchPrediction]
        | type[NearCheck]
        | type[UploadShare]
    )
    queue: str
    waiting: Any
    working: Any
    cancelled: Any
    failed: Any


RUN_LIFE = Life(Run, "train", RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.FAILED)
UPLOAD_LIFE = Life(
    Upload, "ingest", UploadStatus.RECEIVED, UploadStatus.INGESTING, UploadStatus.REJECTED, UploadStatus.REJECTED
)
EXPORT_LIFE = Life(
    Export, "export", ExportStatus.QUEUED, ExportStatus.BUILDING, ExportStatus.FAILED, ExportStatus.FAILED
)
WEIGHTS_LIFE = Life(
    Weights,
    "ingest",
    WeightsStatus.RECEIVED,
    WeightsStatus.CHECKING,
    WeightsStatus.REJECTED,
    WeightsStatus.REJECTED,
)
LABEL_CHECK_LIFE = Life(
    LabelCheck,
    "batch",
    LabelCheckStatus.QUEUED,
    LabelCheckStatus.CHECKING,
    LabelCheckStatus.CANCELLED,
    LabelCheckStatus.FAILED,
)
BATCH_LIFE = Life(
    BatchPrediction, "batch", BatchStatus.QUEUED, BatchStatus.RUNNING, BatchStatus.CANCELLED, BatchStatus.FAILED
)
NEAR_CHECK_LIFE = Life(
    NearCheck,
    "batch",
    NearCheckStatus.QUEUED,
    NearCheckStatus.CHECKING,
    NearCheckStatus.CANCELLED,
    NearCheckStatus.FAILED,
)
SHARE_LIFE = Life(
    UploadShare, "ingest", ShareStatus.WAITING, ShareStatus.CHECKING, ShareStatus.CANCELLED, ShareStatus.FAILED
)
LIVES = (RUN_LIFE, UPLOAD_LIFE, EXPORT_LIFE, WEIGHTS_LIFE, LABEL_CHECK_LIFE, BATCH_LIFE, NEAR_CHECK_LIFE, SHARE_LIFE)


@dataclass(frozen=True)
class Claim:
    """What a worker holds after a successful claim: write with both, or be fenced."""

    id: str
    attempt: int


def _next_waiting(life: Life, *where: ColumnElement[bool]) -> Select[str]:
    """The next row's id: of the owner with the fewest rows being worked on, the oldest."""
    table = life.table
    other = table.__table__.alias("other")
    busy = (
        select(func.count())
        .select_from(other)
        .where(other.c.owner_id == table.owner_id, other.c.status == life.working)
        .scalar_subquery()
    )
    return select(table.id).where(table.status == life.waiting, *where).order_by(busy, table.id).limit(1)


def claim(session: Session, life: Life, owner: str, seconds: float, *where: ColumnElement[bool]) -> Claim | None:
    """Take the next waiting row for `seconds`, or None when nothing waits.

    Args:
        session: a writing session; the caller commits.
        life: which noun.
        owner: the worker's id, for people to read.
        seconds: length of the lease.
        where: what else must be true of the row.
    """
    table = life.table
    while (candidate := session.scalar(_next_waiting(life, *where))) is not None:
        row = session.execute(
            update(table)
            .where(table.id == candidate, table.status == life.waiting)
            .values(
                status=life.working,
                attempt=table.attempt + 1,
                lease_owner=owner,
                lease_expires_at=database_now() + seconds,
            )
            .returning(table.id, table.attempt)
            .execution_options(synchronize_session=False)
        ).first()
        if row is not None:
            return Claim(row[0], row[1])
        # another worker was faster with this one (PostgreSQL): look for the next
    return None


def write(session: Session, life: Life, held: Claim, **values: Any) -> None:
    """Change columns of a row one holds; every write of a worker goes through here.

    Raises:
        Fenced: the row is not this attempt's any more.
    """
    table = life.table
    result = session.execute(
        update(table)
        .where(table.id == held.id, table.attempt == held.attempt, table.status == life.working)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]
        session.rollback()
        raise Fenced(f"Attempt {held.attempt} no longer owns {table.__tablename__} {held.id}.")


def renew(session: Session, life: Life, held: Claim, seconds: float) -> bool:
    """Lengthen the lease; returns True when somebody asked for cancelling.

    Raises:
        Fenced: the row is not this attempt's any more.
    """
    write(session, life, held, lease_expires_at=database_now() + seconds)
    return cancel_requested(session, life, held.id)


def cancel_requested(session: Session, life: Life, row_id: str) -> bool:
    """True when somebody asked for cancelling this row."""
    return session.scalar(select(life.table.cancel_requested_at).where(life.table.id == row_id)) is not None


def release(session: Session, life: Life, held: Claim, **values: Any) -> None:
    """Give the row back to the queue without counting a failure (a drain); it is rung for at once, unless `rung_at` is given.

    Raises:
        Fenced: the row is not this attempt's any more.
    """
    values = {"lease_owner": None, "lease_expires_at": None, "rung_at": None} | values
    write(session, life, held, status=life.waiting, **values)


def expired(session: Session, life: Life) -> list[Claim]:
    """Rows whose lease ran out, as claims of the attempt that lost them."""
    table = life.table
    rows = session.execute(
        select(table.id, table.attempt).where(table.status == life.working, table.lease_expires_at < database_now())
    )
    return [Claim(row[0], row[1]) for row in rows]


def expire(session: Session, life: Life, lost: Claim, **failed_values: Any) -> Any:
    """Take back one row whose lease ran out: cancelled if that was asked for, failed after three losses, else waiting again.

    Args:
        session: a writing session; the caller commits.
        life: which noun.
        lost: from `expired`.
        failed_values: further columns to set if this makes the row failed.

    Returns:
        The new status, or None when the row was renewed or taken back meanwhile.
    """
    table = life.table
    mine = (table.id == lost.id, table.attempt == lost.attempt, table.status == life.working)
    late = or_(table.lease_expires_at < database_now(), table.lease_expires_at.is_(None))
    row = session.execute(select(table.cancel_requested_at, table.failures).where(*mine, late)).first()
    if row is None:
        return None
    cancel_requested_at, failures = row
    values: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None, "rung_at": None}
    if cancel_requested_at is not None:
        values |= {"status": life.cancelled, "finished_at": utc_now()}
    elif failures + 1 >= MOST_FAILURES:
        values |= {"status": life.failed, "failures": failures + 1, "finished_at": utc_now(), **failed_values}
    else:
        values |= {"status": life.waiting, "failures": failures + 1}
    if not hasattr(table, "finished_at"):
        values.pop("finished_at", None)
    result = session.execute(
        update(table).where(*mine, late).values(**values).execution_options(synchronize_session=False)
    )
    return values["status"] if result.rowcount == 1 else None  # type: ignore[attr-defined]


def to_ring(session: Session, life: Life, again_after: float) -> int:
    """Mark the waiting rows that have not been rung for within `again_after` seconds; returns how many.

    The caller rings the queue once for each after committing. A message carries nothing: any ring serves any row.
    """
    table = life.table
    due = or_(table.rung_at.is_(None), table.rung_at < database_now() - again_after)
    result = session.execute(
        update(table)
        .where(table.status == life.waiting, due)
        .values(rung_at=database_now())
        .execution_options(synchronize_session=False)
    )
    return int(result.rowcount)  # type: ignore[attr-defined]


def waiting_count(session: Session, life: Life) -> int:
    """How many rows wait."""
    return session.scalar(select(func.count()).select_from(life.table).where(life.table.status == life.waiting)) or 0
