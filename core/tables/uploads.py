"""Uploads, resumable transfers, receipts."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, Identified, Leased, UtcDateTime, status_column


class UploadStatus(StrEnum):
    """Life of an upload."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    INGESTING = "ingesting"
    READY = "ready"
    REJECTED = "rejected"


class ShareStatus(StrEnum):
    """Life of a share of an upload."""

    WAITING = "waiting"
    CHECKING = "checking"
    CHECKED = "checked"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """What became of an uploaded file."""

    KEPT = "kept"
    FIXED = "fixed"
    REFUSED = "refused"
    SKIPPED = "skipped"


class Upload(Identified, Leased, Base):
    """Bytes that a person sends, on their way to a dataset version.

    `sample_seed`: nothing is sent, the worker draws a sample set. `train_preset`: a run with it is queued once the version exists.
    """

    __tablename__ = "uploads"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    status: Mapped[UploadStatus] = mapped_column(status_column(UploadStatus), default=UploadStatus.RECEIVING)
    received_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    files_done: Mapped[int] = mapped_column(default=0)
    files_total: Mapped[int | None]
    kept: Mapped[int] = mapped_column(default=0)
    fixed: Mapped[int] = mapped_column(default=0)
    refused: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    by_reason: Mapped[dict[str, Any]] = mapped_column(default=dict)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id", ondelete="SET NULL"))
    sample_seed: Mapped[int | None]
    train_preset: Mapped[str | None] = mapped_column(String(60))
    error: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(default=0)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "dataset_id", "id"),
    )


class UploadFile(Identified, Base):
    """One received file: an archive, or a picture with its relative path. Bytes are in `incoming/<upload id>/<id>`."""

    __tablename__ = "upload_files"
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"))
    path: Mapped[str] = mapped_column(String(1024))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (UniqueConstraint("upload_id", "path", "sha256"),)


class UploadShare(Identified, Leased, Base):
    """Some files of an upload being ingested, offered to other workers; the verbs are in `core.upload_shares`.

    `files`: their names in the upload's incoming folder. `answers`: what a checker said of each, or null where the worker that ingests
    the upload is to look for itself.
    """

    __tablename__ = "upload_shares"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    status: Mapped[ShareStatus] = mapped_column(status_column(ShareStatus), default=ShareStatus.WAITING)
    files: Mapped[list[Any]] = mapped_column(default=list)
    answers: Mapped[list[Any]] = mapped_column(default=list)
    error: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (Index(None, "status", "lease_expires_at"), Index(None, "owner_id", "status", "id"))


class Transfer(Identified, Base):
    """One file that comes in pieces, over any number of connections (tus); the verbs are in `core.transfers`.

    `offset_bytes` are on the disk for certain. `writer` is the request that may write now, until `locked_until` (the database's
    clock). `completes`: the upload has no other file, and is complete with it. The bytes are in `incoming/<upload id>/<id>`; once
    whole, `UploadFile` has the same id.
    """

    __tablename__ = "transfers"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    path: Mapped[str] = mapped_column(String(1024))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    offset_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    metadata_header: Mapped[str] = mapped_column(Text, default="")
    completes: Mapped[bool]
    writer: Mapped[str | None] = mapped_column(String(36))
    locked_until: Mapped[float | None] = mapped_column(Float)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (Index(None, "owner_id", "id"), Index(None, "expires_at"))


class ReceiptRow(Base):
    """What became of one file of an upload."""

    __tablename__ = "receipt_rows"
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(String(1024))
    outcome: Mapped[Outcome] = mapped_column(status_column(Outcome))
    code: Mapped[str] = mapped_column(String(40), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    image_id: Mapped[str | None] = mapped_column(ForeignKey("images.id", ondelete="SET NULL"), index=True)
    __table_args__ = (Index(None, "upload_id", "outcome", "ordinal"),)
