"""What work leaves behind when it ends without tidying up (a crash, a lost answer): folders of this machine, and stored files.

Only rows say what is needed. What has no row may be on its way to one: callers spare what is young.
"""

import contextlib
import itertools
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.batch_predictions import archive_key
from core.checkpoints import keeps_checkpoints
from core.config import Settings
from core.database import Database
from core.leases import BATCH_LIFE, EXPORT_LIFE, LABEL_CHECK_LIFE, WEIGHTS_LIFE, Life
from core.storage import Storage, Stored
from core.tables import BatchPrediction, Run, Upload, Weights, WeightsStatus
from core.weights import arrays_key, received_key

YOUNG_SECONDS = 3600.0
STORED_AREAS = ("batches", "weights")  # archives of batch predictions, weights of one's own
TOGETHER = 100  # rows of one query


@dataclass(frozen=True)
class LeftFolder:
    """A folder that no row needs.

    Attributes:
        key: its path below the data folder.
        path: where it is.
        written_at: seconds since 1970.
    """

    key: str
    path: Path
    written_at: float


def left_folders(database: Database, settings: Settings) -> Iterator[LeftFolder]:
    """Folders of the data folder that no row needs, young ones too."""
    for area, table in (("incoming", Upload), ("runs", Run)):
        for path in _folders(settings.folder / area):
            with database.read() as session:
                known = session.scalar(select(table.id).where(table.id == path.name)) is not None
            if not known:
                yield from _left(area, path, [path])
    yield from _spent_checkpoints(database, settings)
    for area, life in _areas_of_work():
        for path in _folders(settings.folder / area):
            row_id = path.name.rpartition("-")[0]  # what follows is the attempt
            with database.read() as session:
                is_open = row_id in _open(session, life, [row_id])
            if not is_open:  # a file on its way has no row yet, however long it takes: the newest one tells
                yield from _left(area, path, [path, *path.glob("*")])


def _spent_checkpoints(database: Database, settings: Settings) -> Iterator[LeftFolder]:
    """Checkpoints of runs that have ended and will not be gone on from any more."""
    for path in settings.runs_folder.glob("*/attempts/*/checkpoints"):
        area = path.parent.relative_to(settings.folder)
        run_id = area.parts[1]
        with database.read() as session:
            run = session.get(Run, run_id)
            spent = run is not None and not keeps_checkpoints(session, run)
        if spent:
            yield from _left(area.as_posix(), path, [path])


def _areas_of_work() -> tuple[tuple[str, Life], ...]:
    return (
        ("batches", BATCH_LIFE),
        ("exports", EXPORT_LIFE),
        ("weights-incoming", WEIGHTS_LIFE),
        ("cache/label-checks", LABEL_CHECK_LIFE),
    )


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _left(area: str, path: Path, written: list[Path]) -> Iterator[LeftFolder]:
    with contextlib.suppress(FileNotFoundError):  # somebody else tidies up
        yield LeftFolder(f"{area}/{path.name}", path, max(one.stat().st_mtime for one in written))


def _open(session: Session, life: Life, ids: list[str]) -> set[str]:
    """Which of these rows wait or are worked on."""
    table = life.table
    status = table.status.in_([life.waiting, life.working])
    return set(session.scalars(select(table.id).where(table.id.in_(ids), status)))


def left_files(database: Database, listing: Iterator[Stored]) -> Iterator[Stored]:
    """Which files of a listing of `STORED_AREAS` no row needs, young ones too."""
    while files := list(itertools.islice(listing, TOGETHER)):
        with database.read() as session:
            needed = needed_keys(session, [file.key for file in files])
        yield from (file for file in files if file.key not in needed)


def remove_left_folders(database: Database, settings: Settings) -> None:
    """Remove the old ones of `left_folders`."""
    for left in left_folders(database, settings):
        if time.time() - left.written_at > YOUNG_SECONDS:
            shutil.rmtree(left.path, ignore_errors=True)


def remove_left_files(database: Database, storage: Storage) -> None:
    """Remove the old ones of `left_files`."""
    listing = (file for area in STORED_AREAS for file in storage.listing(area))
    for file in left_files(database, listing):
        if time.time() - file.written_at > YOUNG_SECONDS:
            storage.delete(file.key)


def needed_keys(session: Session, keys: list[str]) -> set[str]:
    """Which of these stored files of `STORED_AREAS` a row needs."""
    ids = list({key.split("/")[1] for key in keys})
    needed = {archive_key(one) for one in _open(session, BATCH_LIFE, ids)}
    needed |= {received_key(one) for one in _open(session, WEIGHTS_LIFE, ids)}
    kept = select(Weights.id).where(Weights.id.in_(ids), Weights.status != WeightsStatus.REJECTED)
    return needed | {arrays_key(one) for one in session.scalars(kept)}


def keys_that_must_be_there(database: Database) -> Iterator[tuple[str, str]]:
    """Stored files of batch predictions and weights that rows need: key, and whose it is for people."""
    batches = select(BatchPrediction.id, BatchPrediction.filename).where(
        BatchPrediction.status.in_([BATCH_LIFE.waiting, BATCH_LIFE.working]), BatchPrediction.size_bytes.is_not(None)
    )
    weights: Any = select(Weights.id, Weights.filename, Weights.status).where(Weights.status != WeightsStatus.REJECTED)
    with database.read() as session:
        archives = [(row.id, row.filename) for row in session.execute(batches)]
        files = [(row.id, row.filename, row.status) for row in session.execute(weights)]
    for one, filename in archives:
        yield archive_key(one), f'"{filename}" of a batch prediction that has not ended.'
    for one, filename, status in files:
        key = arrays_key(one) if status == WeightsStatus.READY else received_key(one)
        yield key, f'The weights "{filename}".'
