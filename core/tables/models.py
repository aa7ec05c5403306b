"""Trained networks, their files, weights of one's own, batch predictions."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, Identified, Leased, UtcDateTime, status_column


class ExportStatus(StrEnum):
    """Life of one file format of a model."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class WeightsStatus(StrEnum):
    """Life of uploaded weights; `received` is told as "checking", which it will be in a moment."""

    RECEIVED = "received"
    CHECKING = "checking"
    READY = "ready"
    REJECTED = "rejected"


class BatchStatus(StrEnum):
    """Life of a batch prediction."""

    QUEUED = "queued"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrainedModel(Identified, Base):
    """A trained network in the catalogue; exists once its run has succeeded."""

    __tablename__ = "models"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    notes: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    dataset_title: Mapped[str] = mapped_column(String(240))
    backbone: Mapped[str] = mapped_column(String(60))
    class_names: Mapped[list[Any]]
    image_size: Mapped[list[Any]]
    resize: Mapped[str] = mapped_column(String(12))
    test_accuracy: Mapped[float | None]
    summary: Mapped[dict[str, Any]]
    storage_key: Mapped[str] = mapped_column(String(255))
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "owner_id", "id"),
        Index(None, "owner_id", "name", "id"),
        Index(None, "owner_id", "test_accuracy", "id"),
        Index(None, "deleted_at"),
    )


class Export(Identified, Leased, Base):
    """One file format of a model."""

    __tablename__ = "exports"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    format: Mapped[str] = mapped_column(String(20))
    status: Mapped[ExportStatus] = mapped_column(status_column(ExportStatus), default=ExportStatus.QUEUED)
    storage_key: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    agreement: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (UniqueConstraint("model_id", "format"), Index(None, "status", "lease_expires_at"))


class Weights(Identified, Leased, Base):
    """A file of weights that a person sent, for one backbone; checked by a worker, kept as plain arrays (docs/decisions)."""

    __tablename__ = "weights"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    backbone: Mapped[str] = mapped_column(String(60))
    filename: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[WeightsStatus] = mapped_column(status_column(WeightsStatus), default=WeightsStatus.RECEIVED)
    form: Mapped[str | None] = mapped_column(String(20))
    way: Mapped[str | None] = mapped_column(String(20))
    matched: Mapped[int] = mapped_column(default=0)
    missing: Mapped[list[Any]] = mapped_column(default=list)
    unexpected: Mapped[list[Any]] = mapped_column(default=list)
    unexpected_count: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "owner_id", "id"),
    )


class BatchPrediction(Identified, Leased, Base):
    """What a model says of every picture of an archive (`filename`) or of a dataset version."""

    __tablename__ = "batch_predictions"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    dataset_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="SET NULL"), index=True
    )
    filename: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[BatchStatus] = mapped_column(status_column(BatchStatus), default=BatchStatus.QUEUED)
    pictures_done: Mapped[int] = mapped_column(default=0)
    pictures_total: Mapped[int | None]
    refused: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(default=0)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "model_id", "id"),
    )


class BatchRow(Base):
    """The answer for one picture of a batch prediction, or why there is none."""

    __tablename__ = "batch_rows"
    batch_id: Mapped[str] = mapped_column(ForeignKey("batch_predictions.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(String(1024))
    label: Mapped[int | None]
    probabilities: Mapped[list[Any] | None]
    known_score: Mapped[float | None]
    verdict: Mapped[str | None] = mapped_column(String(12))
    error: Mapped[str | None] = mapped_column(Text)
