"""The verbs of shares: some files of an upload being ingested, which another worker may check. `waiting -> checking -> checked`.

A share holds nothing that is not elsewhere: whoever ingests the upload takes it back by deleting the row, and checks the files itself.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, or_, select
from sqlalchemy.orm import Session

from core.database import database_now
from core.ids import new_id
from core.leases import SHARE_LIFE, UPLOAD_LIFE, Claim, claim, write
from core.tables import ShareStatus, Upload, UploadShare, UploadStatus

Answers = list[dict[str, Any] | None]


def offer_share(session: Session, held: Claim, files: Sequence[str]) -> str:
    """Offer some files of an upload one holds; the id of the share.

    Raises:
        Fenced: the upload is not this attempt's any more.
    """
    write(session, UPLOAD_LIFE, held, revision=Upload.revision)
    owner_id = select(Upload.owner_id).where(Upload.id == held.id).scalar_subquery()
    share_id = new_id()
    values = {"id": share_id, "owner_id": owner_id, "upload_id": held.id, "status": ShareStatus.WAITING}
    session.execute(insert(UploadShare).values(**values, files=list(files), answers=[]))
    return share_id


def is_with_nobody(session: Session, share_id: str) -> bool:
    """True when `take_back` would take it now: asking costs no writing transaction."""
    return session.scalar(select(UploadShare.id).where(UploadShare.id == share_id, ~_with_nobody())) is None


def take_back(session: Session, share_id: str) -> bool:
    """Delete a share that nobody works on (any more); False when somebody does, or has."""
    session.execute(delete(UploadShare).where(UploadShare.id == share_id, _with_nobody()))
    return session.scalar(select(UploadShare.id).where(UploadShare.id == share_id)) is None


def _with_nobody() -> ColumnElement[bool]:
    expired = UploadShare.lease_expires_at.is_not(None) & (UploadShare.lease_expires_at < database_now())
    return or_(
        UploadShare.status.in_([ShareStatus.WAITING, ShareStatus.FAILED, ShareStatus.CANCELLED]),
        (UploadShare.status == ShareStatus.CHECKING) & expired,
    )


def take_answers(session: Session, share_ids: Sequence[str]) -> dict[str, Answers]:
    """The answers to those of some shares that were checked, which are deleted."""
    checked = (UploadShare.id.in_(share_ids), UploadShare.status == ShareStatus.CHECKED)
    found = {row[0]: row[1] for row in session.execute(select(UploadShare.id, UploadShare.answers).where(*checked))}
    if found:
        session.execute(delete(UploadShare).where(UploadShare.id.in_(found)))
    return found


def is_checked(session: Session, share_ids: Sequence[str]) -> bool:
    """True when one of some shares was checked."""
    checked = select(UploadShare.id).where(UploadShare.id.in_(share_ids), UploadShare.status == ShareStatus.CHECKED)
    return session.scalar(checked.limit(1)) is not None


def forget_shares(session: Session, upload_id: str) -> None:
    """Delete every share of an upload: who works on one is fenced, who offered one checks its files itself."""
    session.execute(delete(UploadShare).where(UploadShare.upload_id == upload_id))


def claim_share(
    session: Session, owner: str, seconds: float, *, not_of: str | None, but_uploads: Collection[str] = ()
) -> Claim | None:
    """Take the next share of an upload that another worker ingests.

    Args:
        session: a writing session; the caller commits.
        owner: the worker's id.
        seconds: length of the lease.
        not_of: a machine whose uploads are left to it (it uses all of its cores already).
        but_uploads: ids of uploads that are left to others.
    """
    uploads = select(Upload.id).where(Upload.status == UploadStatus.INGESTING, Upload.lease_owner != owner)
    if not_of is not None:
        uploads = uploads.where(Upload.lease_owner.not_like(f"{not_of}:%"))
    if but_uploads:
        uploads = uploads.where(Upload.id.not_in(but_uploads))
    return claim(session, SHARE_LIFE, owner, seconds, UploadShare.upload_id.in_(uploads))


def finish_share(session: Session, held: Claim, answers: Answers) -> None:
    """Say what was found.

    Raises:
        Fenced: it was taken back.
    """
    done = {"status": ShareStatus.CHECKED, "answers": answers, "lease_owner": None, "lease_expires_at": None}
    write(session, SHARE_LIFE, held, **done)
