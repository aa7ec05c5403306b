"""Runs, their metrics, logs, documents and predictions."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, Identified, Leased, UtcDateTime, status_column, utc_now
from core.tables.datasets import Split


class RunStatus(StrEnum):
    """Life of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Run(Identified, Leased, Base):
    """One training, from queued to its end. `revision` rises with every write of its supervisor."""

    __tablename__ = "runs"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    dataset_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="SET NULL"), index=True
    )
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="SET NULL"))
    dataset_title: Mapped[str] = mapped_column(String(240))
    name: Mapped[str] = mapped_column(String(200))
    notes: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    status: Mapped[RunStatus] = mapped_column(status_column(RunStatus), default=RunStatus.QUEUED)
    group_id: Mapped[str | None] = mapped_column(String(36))
    retry_of: Mapped[str | None] = mapped_column(String(36))
    preset: Mapped[str | None] = mapped_column(String(60))
    config: Mapped[dict[str, Any]]
    batch_size: Mapped[int]
    halvings: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    failure: Mapped[dict[str, Any] | None]
    machine: Mapped[dict[str, Any]] = mapped_column(default=dict)
    test_accuracy: Mapped[float | None]
    test_macro_f1: Mapped[float | None]
    test_loss: Mapped[float | None]
    validation_accuracy: Mapped[float | None]
    test_fingerprint: Mapped[str] = mapped_column(String(64))
    code_version: Mapped[str] = mapped_column(String(60))
    revision: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "id"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "owner_id", "name", "id"),
        Index(None, "owner_id", "test_accuracy", "id"),
        Index(None, "owner_id", "test_macro_f1", "id"),
        Index(None, "owner_id", "test_loss", "id"),
        Index(None, "owner_id", "validation_accuracy", "id"),
        Index(None, "test_fingerprint", "status"),
        Index(None, "dataset_id", "id"),
        Index(None, "group_id", "id"),
        Index(None, "deleted_at"),
    )


class Metric(Base):
    """One value of one epoch. `epoch` counts from 1 through all phases."""

    __tablename__ = "metrics"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    phase_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    split: Mapped[str] = mapped_column(String(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    phase: Mapped[str] = mapped_column(String(12))
    value: Mapped[float]
    revision: Mapped[int]
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class LogLine(Base):
    """One line of a run's log."""

    __tablename__ = "log_lines"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message: Mapped[str] = mapped_column(Text)
    revision: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class RunDocument(Base):
    """What a trainer left that pages read whole: `layers`, `evaluation`, `result`."""

    __tablename__ = "run_documents"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    body: Mapped[Any] = mapped_column(JSON)


class Prediction(Base):
    """What one phase's network said of one picture. `confidence` is the probability of the predicted class."""

    __tablename__ = "predictions"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(String(12), primary_key=True)
    split: Mapped[Split] = mapped_column(status_column(Split), primary_key=True)
    image_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    true_label: Mapped[int]
    predicted_label: Mapped[int]
    confidence: Mapped[float]
    true_probability: Mapped[float]
    probabilities: Mapped[list[Any]]
    __table_args__ = (
        # a cell of the confusion matrix, its worst pictures first
        Index(
            "ix_predictions_cell",
            "run_id",
            "phase",
            "split",
            "true_label",
            "predicted_label",
            "true_probability",
            "image_id",
        ),
        Index(None, "run_id", "phase", "split", "true_probability", "image_id"),
    )
