"""Dataset versions that nobody sees yet: their rows are written in many short transactions, and the last one gives them their number.

SQLite has one writer at a time, and 100,000 rows take seconds. Until then the number is below 0, and whatever lists or finds versions
goes by `core.datasets.SEEN`. The pictures are in use from the first row on (`core.freeing`), near duplicates that are found meanwhile are
added as to any version (`core.near_checks`), and a dataset that is deleted takes them along. The sweeper removes what a crash leaves.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.database import Database
from core.datasets import SEEN
from core.errors import Conflict
from core.freeing import note_left
from core.issues import Kind
from core.tables import Base, DatasetVersion, VersionImage, VersionIssue, utc_now

ROWS_AT_ONCE = 2000  # of one transaction: some 30 ms; and of one statement: at most 32,766 values on SQLite
LONGEST_PAUSE = 0.2  # seconds between two transactions
ABANDONED = timedelta(hours=1)


class Gone(Conflict):
    """It was deleted meanwhile, with its dataset."""


def begin(session: Session, base: DatasetVersion, class_names: list[str]) -> DatasetVersion:
    """The row of a version that nobody sees; the caller commits."""
    version = DatasetVersion(
        owner_id=base.owner_id,
        dataset_id=base.dataset_id,
        base_version_id=base.id,
        number=-1 - secrets.randbelow(2**31 - 1),  # any that no other one has: two may be made at once
        fingerprint="",
        test_fingerprint="",
        class_names=class_names,
        counts={},
        issues={},
        notes=[],
        image_count=0,
    )
    session.add(version)
    session.flush()
    return version


def write_rows(
    database: Database, version_id: str, table: type[Base], columns: Sequence[str], batches: Iterable[Sequence[Any]]
) -> None:
    """Write rows of a version that nobody sees, and let others write in between.

    Args:
        database: read from while the batches come, and written in transactions of `ROWS_AT_ONCE` rows.
        version_id: the version.
        table: `VersionImage` or `VersionIssue`.
        columns: of the table, as the database names them.
        batches: of rows, each a tuple of values as the database stores them.

    Raises:
        Gone: the version is not there any more.
    """
    for batch in batches:
        for start in range(0, len(batch), ROWS_AT_ONCE):
            began = time.monotonic()
            with database.write() as session:
                if not held(session, version_id):
                    raise Gone("The dataset was deleted meanwhile.")
                _insert(session, table, columns, batch[start : start + ROWS_AT_ONCE])
            # SQLite's waiting writers only look now and then whether the lock is free
            time.sleep(min(LONGEST_PAUSE, (time.monotonic() - began) / 2))


def held(session: Session, version_id: str) -> DatasetVersion | None:
    """The version, locked, if it is there and nobody sees it."""
    unseen = select(DatasetVersion).where(DatasetVersion.id == version_id, ~SEEN)
    return session.scalar(unseen.with_for_update().execution_options(populate_existing=True))


def _insert(session: Session, table: type[Base], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if not rows:
        return
    try:
        if session.get_bind().dialect.name == "sqlite":
            # All in one statement: after each the driver gives the interpreter away, and in a busy process a row would wait for it
            # several ms, with everybody who wants to write.
            places = ", ".join([f"({', '.join('?' * len(columns))})"] * len(rows))
            statement = f"INSERT INTO {table.__tablename__} ({', '.join(columns)}) VALUES {places}"  # noqa: S608 - our names only
            session.connection().exec_driver_sql(statement, tuple(chain.from_iterable(rows)))
        else:
            session.execute(insert(table.__table__), [dict(zip(columns, row, strict=True)) for row in rows])  # type: ignore[arg-type]
    except IntegrityError as error:  # PostgreSQL: deleted in this moment
        raise Gone("The dataset was deleted meanwhile.") from error


def forget(database: Database, version_id: str) -> None:
    """Remove a version that nobody sees, some rows at a time; nothing when there is none."""
    with database.read() as session:
        top = select(func.max(VersionImage.ordinal)).where(VersionImage.version_id == version_id)
        most = session.scalar(top)
        kinds: dict[str, int] = {}
        for kind in Kind:
            mine = (VersionIssue.version_id == version_id, VersionIssue.kind == kind.value)
            last = session.scalar(select(func.max(VersionIssue.number)).where(*mine))
            if last is not None:
                kinds[kind.value] = last
    steps: list[Any] = [
        delete(VersionIssue).where(
            VersionIssue.version_id == version_id,
            VersionIssue.kind == kind,
            VersionIssue.number.between(start, start + ROWS_AT_ONCE - 1),
        )
        for kind, last in kinds.items()
        for start in range(0, last + 1, ROWS_AT_ONCE)
    ]
    steps += [
        delete(VersionImage).where(
            VersionImage.version_id == version_id, VersionImage.ordinal.between(start, start + ROWS_AT_ONCE - 1)
        )
        for start in range(0, (-1 if most is None else most) + 1, ROWS_AT_ONCE)
    ]
    for step in steps:
        with database.write() as session:
            if not held(session, version_id):  # somebody else removed it, or it is seen now
                return
            session.execute(step.execution_options(synchronize_session=False))
        time.sleep(0.01)  # others want to write too
    with database.write() as session:
        if held(session, version_id):
            session.execute(delete(DatasetVersion).where(DatasetVersion.id == version_id))
            note_left(session)


def forget_abandoned(database: Database) -> int:
    """Remove those that were begun long ago: whoever made them is gone. How many there were."""
    with database.read() as session:
        old = select(DatasetVersion.id).where(~SEEN, DatasetVersion.created_at < utc_now() - ABANDONED)
        ids = session.scalars(old).all()
    for version_id in ids:
        forget(database, version_id)
    return len(ids)
