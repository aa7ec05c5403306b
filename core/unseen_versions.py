"""Dataset versions that nobody sees yet: their rows are written in many short transactions, and the last one gives them their number.

SQLite has one writer at a time, and 100,000 rows take seconds. Until then the number is below 0, and whatever lists or finds versions
goes by `core.datasets.SEEN`. The pictures are in use from the first row on (`core.freeing`), near duplicates that are found meanwhile are
added as to any version (`core.near_checks`), and a dataset that is deleted takes them along. The sweeper removes what a crash leaves.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.clusters import Clusters
from core.database import Database
from core.datasets import SEEN, latest_version
from core.errors import Conflict
from core.freeing import note_left
from core.issues import COLUMNS as ISSUE_COLUMNS
from core.issues import Kind, cluster_notes, find_issues
from core.tables import Base, Dataset, DatasetVersion, VersionImage, VersionIssue, utc_now

ROWS_AT_ONCE = 2000  # of one transaction: some 30 ms; and of one statement: at most 32,766 values on SQLite
LONGEST_PAUSE = 0.2  # seconds between two transactions
ABANDONED = timedelta(hours=1)


@dataclass(frozen=True)
class Issues:
    """How many issues were written, by kind, and what the notes of the version say of them."""

    counts: dict[str, int]
    notes: list[str]


class Gone(Conflict):
    """It was removed meanwhile: with its dataset, or by the sweeper, who took it for abandoned."""


def begin(session: Session, dataset: Dataset, **columns: Any) -> DatasetVersion:
    """The row of a version that nobody sees, with all that people will see but its number and its issues; the caller commits."""
    version = DatasetVersion(
        owner_id=dataset.owner_id,
        dataset_id=dataset.id,
        number=-1 - secrets.randbelow(2**31 - 1),  # any that no other one has: two may be made at once
        issues={},
        **columns,
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
                    raise Gone("What was written of this version was removed meanwhile.")
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
        raise Gone("What was written of this version was removed meanwhile.") from error


def write_issues(database: Database, version: DatasetVersion, *, upload_id: str | None = None) -> Issues:
    """Look for the issues of a version that nobody sees and that has all its rows, and write them.

    Once its rows are there, whoever finds near duplicates adds them. On SQLite none is missed. On PostgreSQL a pair of pictures that
    another dataset has too, and whose check there commits in this very moment, may be told by the next version only.

    Raises:
        Gone: the version is not there any more.
    """
    counts = dict.fromkeys(Kind, 0)
    clusters = Clusters(version.image_count)

    def counted(session: Session) -> Iterator[list[tuple[Any, ...]]]:
        for rows in find_issues(session, version, clusters, upload_id=upload_id):
            for row in rows:
                counts[row["kind"]] += 1
            yield [tuple(row.values()) for row in rows]

    with database.snapshot() as session:
        write_rows(database, version.id, VersionIssue, ISSUE_COLUMNS, counted(session))
    return Issues({kind.value: count for kind, count in counts.items()}, cluster_notes(clusters))


def publish(session: Session, dataset: Dataset, version: DatasetVersion, issues: Issues) -> None:
    """Give a version its number: from the commit on everybody sees it.

    Args:
        session: the writing session that holds both; the caller commits.
        dataset: locked.
        version: locked (`held`).
        issues: what `write_issues` found.

    Raises:
        Conflict: rows are missing: the sweeper took it for abandoned.
    """
    rows = select(func.count()).select_from(VersionImage).where(VersionImage.version_id == version.id)
    if session.scalar(rows) != version.image_count:
        raise too_slow()
    later = (VersionIssue.version_id == version.id, VersionIssue.kind == Kind.FOUND_LATER.value)
    found_later = session.scalar(select(func.count()).select_from(VersionIssue).where(*later)) or 0
    version.issues = {**issues.counts, Kind.FOUND_LATER.value: found_later}
    version.notes = [*version.notes, *issues.notes]
    newest = latest_version(session, dataset.id)
    version.number = 1 + (newest.number if newest is not None else 0)
    version.created_at = dataset.updated_at = utc_now()
    session.flush()


def too_slow() -> Conflict:
    """The sweeper took a version for abandoned."""
    return Conflict("Making this version took too long: what was written was removed meanwhile. Try again.")


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
    # the pictures first: `publish` counts them, so one of which a part is gone is never finished by a slow maker
    steps: list[Any] = [
        delete(VersionImage).where(
            VersionImage.version_id == version_id, VersionImage.ordinal.between(start, start + ROWS_AT_ONCE - 1)
        )
        for start in range(0, (-1 if most is None else most) + 1, ROWS_AT_ONCE)
    ]
    steps += [
        delete(VersionIssue).where(
            VersionIssue.version_id == version_id,
            VersionIssue.kind == kind,
            VersionIssue.number.between(start, start + ROWS_AT_ONCE - 1),
        )
        for kind, last in kinds.items()
        for start in range(0, last + 1, ROWS_AT_ONCE)
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
