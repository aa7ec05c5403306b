"""The verbs of uploads: every status change of an upload lives here. `receiving -> received -> ingesting -> ready | rejected`."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import database_now
from core.errors import Conflict, NotFound, TooLarge
from core.leases import UPLOAD_LIFE, Claim, write
from core.queue import Queue
from core.tables import Dataset, ReceiptRow, Upload, UploadFile, UploadStatus, utc_now


def incoming_folder(settings: Settings, upload_id: str) -> Path:
    """Where the received bytes of an upload are; each file is named by its `UploadFile.id`."""
    return settings.incoming_folder / upload_id


def open_upload(session: Session, dataset: Dataset, *, total_bytes: int | None = None) -> Upload:
    """Begin an upload; files may now be added."""
    upload = Upload(owner_id=dataset.owner_id, dataset_id=dataset.id, total_bytes=total_bytes, by_reason={})
    session.add(upload)
    session.flush()
    return upload


def add_file(session: Session, settings: Settings, upload: Upload, received: UploadFile) -> bool:
    """Record a file whose bytes are on disk already; returns False when the same path and bytes were there before.

    Raises:
        Conflict: the upload does not receive any more.
        TooLarge: more files than the settings allow.
    """
    must_receive(upload)
    same = select(UploadFile.id).where(
        UploadFile.upload_id == upload.id, UploadFile.path == received.path, UploadFile.sha256 == received.sha256
    )
    if session.scalar(same) is not None:
        return False
    count = session.scalar(select(func.count()).select_from(UploadFile).where(UploadFile.upload_id == upload.id)) or 0
    if count >= settings.max_entries:
        raise TooLarge(f"An upload has at most {settings.max_entries:,} files. Received: {count + 1:,}.")
    received.upload_id = upload.id
    session.add(received)
    session.execute(
        update(Upload)
        .where(Upload.id == upload.id)
        .values(received_bytes=Upload.received_bytes + received.size_bytes, revision=Upload.revision + 1)
    )
    session.flush()
    return True


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
    if upload.status != UploadStatus.RECEIVING:
        return
    if session.scalar(select(UploadFile.id).where(UploadFile.upload_id == upload.id).limit(1)) is None:
        raise Conflict("This upload has no files yet. Add at least one picture or archive, then complete it.")
    upload.status = UploadStatus.RECEIVED
    upload.total_bytes = upload.received_bytes
    upload.revision += 1
    upload.rung_at = session.scalar(select(database_now()))
    queue.ring_after_commit(session, UPLOAD_LIFE.queue)


def delete_upload(session: Session, settings: Settings, upload: Upload) -> None:
    """Remove an upload and its received bytes; a dataset version made from it stays. A worker on it is fenced."""
    session.execute(delete(Upload).where(Upload.id == upload.id))
    shutil.rmtree(incoming_folder(settings, upload.id), ignore_errors=True)


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


def find_upload(session: Session, owner_id: str, upload_id: str) -> Upload:
    """An upload of this person.

    Raises:
        NotFound: no such upload, or another person's.
    """
    upload = session.scalar(select(Upload).where(Upload.id == upload_id, Upload.owner_id == owner_id))
    if upload is None:
        raise NotFound(f'There is no upload "{upload_id}".')
    return upload
