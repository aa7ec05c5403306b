"""The verbs of transfers: one file of an upload that comes in pieces and may be gone on with after any break.

What `offset_bytes` says is on the disk: the bytes are synced first, the row is written afterwards. One request at a time writes;
its lock runs out by itself when its process dies, and every write of it carries its id (the fence).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import after_commit, database_now
from core.datasets import find_dataset
from core.errors import Fenced, FieldProblem, InputInvalid, NotFound
from core.queue import Queue
from core.quota import need_quota
from core.tables import Transfer, Upload, UploadFile, UploadStatus, utc_now
from core.uploads import (
    add_files,
    complete_upload,
    delete_upload,
    find_upload,
    incoming_folder,
    must_receive,
    open_upload,
)

LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class NewTransfer:
    """What a client says of a file before it sends it.

    Attributes:
        dataset_id: the dataset that it is for.
        upload_id: an upload that is open and gets this file among others; None: one of its own, complete with this file.
        path: a clean relative path (`app.receiving.clean_path`).
        size_bytes: of the whole file.
        metadata_header: as the client sent it, to be given back.
    """

    dataset_id: str
    upload_id: str | None
    path: str
    size_bytes: int
    metadata_header: str = ""


def open_transfer(session: Session, settings: Settings, owner_id: str, new: NewTransfer) -> Transfer:
    """Begin a transfer.

    Raises:
        NotFound: no such dataset or upload of this person.
        InputInvalid: the upload belongs to another dataset.
        Conflict: the upload is complete.
        QuotaReached: with a sentence.
    """
    dataset = find_dataset(session, owner_id, new.dataset_id)
    need_quota(session, settings, owner_id, new.size_bytes)
    if new.upload_id is None:
        upload = open_upload(session, dataset, total_bytes=new.size_bytes)
    else:
        upload = find_upload(session, owner_id, new.upload_id)
        if upload.dataset_id != dataset.id:
            message = f'The upload "{new.upload_id}" belongs to another dataset.'
            raise InputInvalid(message, problems=(FieldProblem("upload_id", message, new.upload_id),))
        must_receive(upload)
        known = func.coalesce(Upload.total_bytes, Upload.received_bytes)
        announced = {"total_bytes": known + new.size_bytes}
        session.execute(update(Upload).where(Upload.id == upload.id).values(**announced))
        session.refresh(upload)
    transfer = Transfer(
        owner_id=owner_id,
        upload_id=upload.id,
        path=new.path,
        size_bytes=new.size_bytes,
        metadata_header=new.metadata_header,
        completes=new.upload_id is None,
        expires_at=_expiry(settings),
    )
    session.add(transfer)
    session.flush()
    return transfer


def _expiry(settings: Settings) -> datetime:
    return utc_now() + timedelta(hours=settings.upload_hours)


def find_transfer(session: Session, owner_id: str, transfer_id: str) -> Transfer:
    """A transfer of this person.

    Raises:
        NotFound: no such transfer, or another person's.
    """
    found = select(Transfer).where(Transfer.id == transfer_id, Transfer.owner_id == owner_id)
    transfer = session.scalar(found)
    if transfer is None:
        raise NotFound(f'There is no transfer "{transfer_id}".')
    return transfer


def file_of(settings: Settings, transfer: Transfer) -> Path:
    """Where its bytes are."""
    return incoming_folder(settings, transfer.upload_id) / transfer.id


def lock(session: Session, transfer_id: str, writer: str) -> bool:
    """Let one request write; False while another one does, or once the file is whole."""
    free = or_(Transfer.writer.is_(None), Transfer.locked_until < database_now())
    values = {"writer": writer, "locked_until": database_now() + LOCK_SECONDS}
    mine = (Transfer.id == transfer_id, Transfer.finished_at.is_(None), free)
    return bool(session.execute(update(Transfer).where(*mine).values(**values)).rowcount)  # type: ignore[attr-defined]


def unlock(session: Session, transfer_id: str, writer: str) -> None:
    """Let another request write."""
    mine = (Transfer.id == transfer_id, Transfer.writer == writer)
    session.execute(update(Transfer).where(*mine).values(writer=None, locked_until=None))


def unlock_all(session: Session) -> None:
    """At the start of the only web process: whoever wrote before is gone."""
    session.execute(update(Transfer).where(Transfer.writer.is_not(None)).values(writer=None, locked_until=None))


def record_offset(session: Session, settings: Settings, transfer: Transfer, writer: str, offset: int) -> None:
    """Say that the bytes before `offset` are on the disk, and keep the lock. Call it only after they were synced.

    Raises:
        Fenced: another request writes now, or the transfer is gone.
    """
    before = session.scalar(select(Transfer.offset_bytes).where(Transfer.id == transfer.id, Transfer.writer == writer))
    values = {"offset_bytes": offset, "locked_until": database_now() + LOCK_SECONDS, "expires_at": _expiry(settings)}
    mine = (Transfer.id == transfer.id, Transfer.writer == writer, Transfer.finished_at.is_(None))
    changed = session.execute(update(Transfer).where(*mine).values(**values)).rowcount  # type: ignore[attr-defined]
    if before is None or not changed:
        raise Fenced(f'Another request goes on with the transfer "{transfer.id}", or it was ended.')
    if offset != before:
        counted = {"received_bytes": Upload.received_bytes + (offset - before), "revision": Upload.revision + 1}
        session.execute(update(Upload).where(Upload.id == transfer.upload_id).values(**counted))


def finish_transfer(
    session: Session, settings: Settings, queue: Queue, transfer: Transfer, writer: str, sha256: str
) -> None:
    """The file is whole and synced: it becomes a file of its upload, in one transaction with the last offset.

    Raises:
        Fenced: another request writes now, or the transfer is gone.
        Conflict: the upload was completed without it.
    """
    record_offset(session, settings, transfer, writer, transfer.size_bytes)
    upload = find_upload(session, transfer.owner_id, transfer.upload_id)
    file = UploadFile(id=transfer.id, path=transfer.path, sha256=sha256, size_bytes=transfer.size_bytes)
    if not add_files(session, settings, upload, [file], counted=True)[0]:
        _remove_bytes(session, settings, transfer)
    values = {"finished_at": utc_now(), "writer": None, "locked_until": None}
    session.execute(update(Transfer).where(Transfer.id == transfer.id).values(**values))
    if transfer.completes:
        complete_upload(session, queue, upload)


def end_transfer(session: Session, settings: Settings, transfer: Transfer) -> None:
    """Forget a transfer; one that is not whole goes with its bytes, and with its upload if it has no other file."""
    upload = find_upload(session, transfer.owner_id, transfer.upload_id)
    if transfer.finished_at is None and transfer.completes:
        delete_upload(session, settings, upload)
        return
    if transfer.finished_at is None:
        _remove_bytes(session, settings, transfer)
        left: dict[str, Any] = {
            "received_bytes": Upload.received_bytes - transfer.offset_bytes,
            "revision": Upload.revision + 1,
        }
        if upload.total_bytes is not None:
            left["total_bytes"] = Upload.total_bytes - transfer.size_bytes
        session.execute(update(Upload).where(Upload.id == upload.id).values(**left))
    session.execute(delete(Transfer).where(Transfer.id == transfer.id))


def _remove_bytes(session: Session, settings: Settings, transfer: Transfer) -> None:
    file = file_of(settings, transfer)
    after_commit(session, lambda: file.unlink(missing_ok=True))


def abandoned_uploads(session: Session, settings: Settings, most: int = 100) -> Sequence[Upload]:
    """Uploads that still receive, but got nothing for `upload_hours`: neither a piece nor a whole file."""
    old = utc_now() - timedelta(hours=settings.upload_hours)
    coming = exists().where(Transfer.upload_id == Upload.id, Transfer.expires_at >= utc_now())
    newest = select(func.max(UploadFile.created_at)).where(UploadFile.upload_id == Upload.id).scalar_subquery()
    quiet = (Upload.status == UploadStatus.RECEIVING, Upload.created_at < old, ~coming)
    return session.scalars(select(Upload).where(*quiet, func.coalesce(newest, old) <= old).limit(most)).all()


def remove_abandoned(session: Session, settings: Settings) -> int:
    """Remove abandoned uploads with their bytes, and forget transfers that ended long ago; returns how many uploads."""
    gone = abandoned_uploads(session, settings)
    for upload in gone:
        delete_upload(session, settings, upload)
    session.execute(delete(Transfer).where(Transfer.expires_at < utc_now(), Transfer.finished_at.is_not(None)))
    return len(gone)
