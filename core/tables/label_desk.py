"""Searches for label errors and what people said of them."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, Identified, Leased, UtcDateTime, status_column, utc_now


class LabelCheckStatus(StrEnum):
    """Life of a search for label errors."""

    QUEUED = "queued"
    CHECKING = "checking"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Decision(StrEnum):
    """What a person said of a picture's label."""

    RELABEL = "relabel"
    DISMISS = "dismiss"


class LabelCheck(Identified, Leased, Base):
    """A search for label errors in one dataset version: train and validation, never test."""

    __tablename__ = "label_checks"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), unique=True)
    status: Mapped[LabelCheckStatus] = mapped_column(status_column(LabelCheckStatus), default=LabelCheckStatus.QUEUED)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (Index(None, "status", "lease_expires_at"), Index(None, "owner_id", "status", "id"))


class LabelSuggestion(Base):
    """A picture whose label a check doubts; `rank` counts from 0, the least believable label first.

    `likely`: confident learning takes it for an error; the others are the next in the list. Probabilities are out of fold.
    """

    __tablename__ = "label_suggestions"
    check_id: Mapped[str] = mapped_column(ForeignKey("label_checks.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    given_class: Mapped[str] = mapped_column(String(255))
    suggested_class: Mapped[str] = mapped_column(String(255))
    given_probability: Mapped[float]
    suggested_probability: Mapped[float]
    likely: Mapped[bool]
    __table_args__ = (UniqueConstraint("check_id", "image_id"),)


class LabelDecision(Base):
    """What a person said of a picture's label in a dataset, kept for its later versions.

    `class_name`: the class it goes to, or the one that a dismissal says is right. A dismissal holds as long as the picture has that class.
    """

    __tablename__ = "label_decisions"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    decision: Mapped[Decision] = mapped_column(status_column(Decision))
    class_name: Mapped[str] = mapped_column(String(255))
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    __table_args__ = (Index(None, "image_id"),)
