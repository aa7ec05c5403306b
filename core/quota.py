"""How much one person may keep: pictures, and uploads on their way to become pictures."""

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from core.config import Settings
from core.errors import QuotaReached
from core.tables import Image, Upload, UploadStatus

_ON_THE_WAY = (UploadStatus.RECEIVING, UploadStatus.RECEIVED, UploadStatus.INGESTING)


def used_bytes(session: Session, owner_id: str, *, but_upload: str | None = None) -> int:
    """Bytes of a person's pictures and of the uploads that are not ingested yet.

    Args:
        session: any session.
        owner_id: whose.
        but_upload: an upload that does not count.
    """
    pictures = select(func.coalesce(func.sum(Image.size_bytes), 0)).where(Image.owner_id == owner_id)
    # what was announced, or what came where that is more: files may be added to an upload that announced others
    size = case((Upload.total_bytes > Upload.received_bytes, Upload.total_bytes), else_=Upload.received_bytes)
    coming = select(func.coalesce(func.sum(size), 0)).where(
        Upload.owner_id == owner_id, Upload.status.in_(_ON_THE_WAY), Upload.id != (but_upload or "")
    )
    return int(session.scalars(pictures).one()) + int(session.scalars(coming).one())


def need_quota(
    session: Session, settings: Settings, owner_id: str, more: int, *, but_upload: str | None = None
) -> None:
    """Check that a person may keep `more` bytes.

    Raises:
        QuotaReached: with what is used, what this needs and what is allowed.
    """
    if not settings.quota_bytes:
        return
    used = used_bytes(session, owner_id, but_upload=but_upload)
    if used + more > settings.quota_bytes:
        raise QuotaReached(
            f"Your pictures and uploads use {used / 1e9:.2f} GB, this needs {more / 1e9:.2f} GB, and "
            f"{settings.quota_bytes / 1e9:.2f} GB are allowed for one person. Delete datasets or uploads that are not needed."
        )
