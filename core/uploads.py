"""The verbs of uploads: every status change of an upload lives here. `receiving -> received -> ingesting -> ready | rejected`."""

import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import after_commit, database_now
from core.datasets import create_dataset
from core.errors import Conflict, FieldProblem, InputInvalid, NotFound, TooLarge
from core.freeing import note_left
from core.leases import UPLOAD_LIFE, Claim, write
from core.presets import PRESETS
from core.queue import Queue
from core.quota import need_quota
from core.runs import NewRun, create_runs
from core.tables import Dataset, DatasetVersion, ReceiptRow, Upload, UploadFile, UploadStatus, utc_now

SAMPLE_CLASSES = ("leaves", "pebbles", "shells")
SAMPLE_PICTURES = 150
LARGEST_SEED = 2**31 - 1


def incoming_folder(settings: Settings, upload_id: str) -> Path:
    """Where the received bytes of an upload are; each file is named by its `UploadFile.id`."""
    return settings.incoming_folder / upload_id


def open_upload(session: Session, dataset: Dataset, *, total_bytes: int | None = None) -> Upload:
    """Begin an upload; files may now be added."""
    upload = Upload(owner_id=dataset.owner_id, dataset_id=dataset.id, total_bytes=total_bytes, by_reason={})
    session.add(upload)
    session.flush()
    return upload


def make_sample(
    session: Session,
    queue: Queue,
    owner_id: str,
    *,
    seed: int | None,
    train_preset: str | None,
    name: str | None = None,
) -> Upload:
    """A dataset whose pictures the ingest worker draws itself (`worker.ingest.sample`): an ordinary upload, but nothing is sent.

    Args:
        session: a writing session; the caller commits.
        queue: rung after the commit.
        owner_id: whose dataset it will be.
        seed: decides every picture; None takes one by chance.
        train_preset: a run with this preset is queued together with the dataset version; None: none is.
        name: of the dataset; None: one that says what it is.

    Raises:
        InputInvalid: no such preset, or a seed out of range.
    """
    plain = [one.id for one in PRESETS.values() if not one.recipe]
    if train_preset is not None and train_preset not in plain:
        message = f'There is no preset "{train_preset}" for a sample set. Allowed: {", ".join(plain)}.'
        raise InputInvalid(message, problems=(FieldProblem("train_preset", message, train_preset),))
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    if not 0 <= seed <= LARGEST_SEED:
        message = f"A seed is a whole number from 0 to {LARGEST_SEED}. Received: {seed}."
        raise InputInvalid(message, problems=(FieldProblem("seed", message, seed),))
    about = f"{SAMPLE_PICTURES} pictures drawn by Thaw, seed {seed}: no photographs, but as varied."
    dataset = create_dataset(session, owner_id, name or f"Sample: {', '.join(SAMPLE_CLASSES)}", about)
    upload = open_upload(session, dataset)
    upload.sample_seed, upload.train_preset = seed, train_preset
    upload.status = UploadStatus.RECEIVED
    upload.rung_at = session.scalar(select(database_now()))
    session.flush()
    queue.ring_after_commit(session, UPLOAD_LIFE.queue)
    return upload


def add_file(session: Session, settings: Settings, upload: Upload, received: UploadFile) -> bool:
    """Record a file whose bytes are on disk already; returns False when the same path and bytes were there before.

    Raises:
        Conflict: the upload does not receive any more.
        TooLarge: more files than the settings allow.
    """
    return add_files(session, settings, upload, [received])[0]


def add_files(
    session: Session, settings: Settings, upload: Upload, received: Sequence[UploadFile], *, counted: bool = False
) -> list[bool]:
    """Record files (at most a few hundred at once) whose bytes are on disk already; False where it was there before.

    Args:
        session: a writing session; the caller commits.
        settings: limits.
        upload: which one.
        received: the files.
        counted: their bytes are among the received ones already, since they came in pieces.

    Raises:
        Conflict: the upload does not receive any more.
        TooLarge: more files than the settings allow, or more bytes than one person may keep.
    """
    _hold(session, upload)
    must_receive(upload)
    mine = UploadFile.upload_id == upload.id
    query = select(UploadFile.path, UploadFile.sha256).where(mine, UploadFile.path.in_([one.path for one in received]))
    there = {(row.path, row.sha256) for row in session.execute(query)}
    fresh: list[bool] = []
    for one in received:
        fresh.append((one.path, one.sha256) not in there)
        there.add((one.path, one.sha256))
    new = [one for one, is_fresh in zip(received, fresh, strict=True) if is_fresh]
    count = (session.scalar(select(func.count()).select_from(UploadFile).where(mine)) or 0) + len(new)
    if count > settings.max_entries:
        raise TooLarge(f"An upload has at most {settings.max_entries:,} files. Received: {count:,}.")
    if new:
        for one in new:
            one.upload_id = upload.id
        session.add_all(new)
        more = 0 if counted else sum(one.size_bytes for one in new)
        values = {
            "received_bytes": Upload.received_bytes + more,
            "total_bytes": Upload.total_bytes + more,  # unknown stays unknown
            "revision": Upload.revision + 1,
        }
        session.execute(update(Upload).where(Upload.id == upload.id).values(values))
        session.flush()
        if not counted:
            need_quota(session, settings, upload.owner_id, 0)
    return fresh


def _hold(session: Session, upload: Upload) -> None:
    """Read the upload as it is now and let nobody change it before our commit (on SQLite a writer is alone anyway)."""
    session.refresh(upload, with_for_update=True)


def must_receive(upload: Upload) -> None:
    """Check that files may still be added.

    Raises:
        Conflict: the upload does not receive any more.
    """
    if upload.status != UploadStatus.RECEIVING:
        raise Conflict(f'This upload is complete (its status is "{upload.status}"): begin a new one to add files.')


def complete_upload(session: Session, queue: Queue, upload: Upload) -> None:
    """All bytes are there: have it ingested. Completing twice changes nothing.

    Raises:
        Conflict: nothing was received.
    """
    _hold(session, upload)
    if upload.status != UploadStatus.RECEIVING:
        return
    if session.scalar(select(UploadFile.id).where(UploadFile.upload_id == upload.id).limit(1)) is None:
        raise Conflict("This upload has no files yet. Add at least one picture or archive, then complete it.")
    upload.status = UploadStatus.RECEIVED
    upload.total_bytes = upload.received_bytes
    upload.revision += 1
    upload.rung_at = session.scalar(select(database_now()))
    queue.ring_after_commit(session, UPLOAD_LIFE.queue)


def retry_upload(session: Session, settings: Settings, queue: Queue, upload: Upload) -> None:
    """Ingest a rejected upload again, from where its receipt ends. Its bytes are kept only when the disk was full.

    Raises:
        Conflict: it was not rejected, or its bytes are gone.
    """
    _hold(session, upload)
    if upload.status != UploadStatus.REJECTED:
        raise Conflict(f'Only a rejected upload can be tried again (its status is "{upload.status}").')
    if not incoming_folder(settings, upload.id).is_dir():
        raise Conflict("The received files of this upload were deleted when it was rejected. Upload them again.")
    upload.status, upload.error, upload.finished_at = UploadStatus.RECEIVED, None, None
    upload.cancel_requested_at = None
    upload.revision += 1
    upload.rung_at = session.scalar(select(database_now()))
    queue.ring_after_commit(session, UPLOAD_LIFE.queue)


def delete_upload(session: Session, settings: Settings, upload: Upload) -> None:
    """Remove an upload and its received bytes; a dataset version made from it stays. A worker on it is fenced."""
    session.execute(delete(Upload).where(Upload.id == upload.id))
    note_left(session)
    folder = incoming_folder(settings, upload.id)
    after_commit(session, lambda: shutil.rmtree(folder, ignore_errors=True))


def record_receipt(session: Session, held: Claim, rows: Iterable[Mapping[str, Any]], **columns: Any) -> None:
    """Write receipt rows and progress in one transaction with the fence.

    Args:
        session: a writing session; the caller commits.
        held: the worker's claim.
        rows: `{"ordinal", "path", "outcome", "code", "reason", "image_id"}` each.
        columns: further columns of the upload, e.g. `files_done=120`.

    Raises:
        Fenced: the upload is not this attempt's any more.
    """
    write(session, UPLOAD_LIFE, held, revision=Upload.revision + 1, **columns)
    values = [{"upload_id": held.id, **row} for row in rows]
    if values:
        session.execute(insert(ReceiptRow), values)


def clear_receipt(session: Session, held: Claim) -> None:
    """Forget the receipt of an earlier attempt (its blobs stay: they are found again by their SHA-256)."""
    write(session, UPLOAD_LIFE, held, revision=Upload.revision + 1, files_done=0, kept=0, fixed=0, refused=0, skipped=0)
    session.execute(delete(ReceiptRow).where(ReceiptRow.upload_id == held.id))


def finish_ready(session: Session, held: Claim, dataset_version_id: str, **columns: Any) -> None:
    """The dataset version exists: the upload has done its work."""
    write(
        session,
        UPLOAD_LIFE,
        held,
        status=UploadStatus.READY,
        dataset_version_id=dataset_version_id,
        lease_owner=None,
        lease_expires_at=None,
        finished_at=utc_now(),
        revision=Upload.revision + 1,
        error=None,
        **columns,
    )


def train_as_wished(session: Session, upload_id: str, version: DatasetVersion) -> None:
    """Queue the run that the upload was opened with, in the transaction of `finish_ready`; the sweeper rings for it."""
    preset = session.scalars(select(Upload.train_preset).where(Upload.id == upload_id)).one()
    if preset in PRESETS:
        create_runs(session, None, version, NewRun(config=PRESETS[preset].config, preset=preset))


def finish_rejected(session: Session, held: Claim, sentence: str, **columns: Any) -> None:
    """The upload cannot become a dataset version; `sentence` says why. Its receipt stays readable."""
    write(
        session,
        UPLOAD_LIFE,
        held,
        status=UploadStatus.REJECTED,
        error=sentence,
        lease_owner=None,
        lease_expires_at=None,
        finished_at=utc_now(),
        revision=Upload.revision + 1,
        **columns,
    )
    note_left(session)


def find_upload(session: Session, owner_id: str, upload_id: str) -> Upload:
    """An upload of this person.

    Raises:
        NotFound: no such upload, or another person's.
    """
    upload = session.scalar(select(Upload).where(Upload.id == upload_id, Upload.owner_id == owner_id))
    if upload is None:
        raise NotFound(f'There is no upload "{upload_id}".')
    return upload
