"""Searches for near duplicates by stored features."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, Identified, Leased, UtcDateTime, status_column


class NearCheckStatus(StrEnum):
    """Life of a search for near duplicates."""

    QUEUED = "queued"
    CHECKING = "checking"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NearCheck(Identified, Leased, Base):
    """A search for further near duplicates in one dataset version, by the features that a run has stored.

    `compared`: pictures whose features were there; `pairs`: new pairs that were found.
    """

    __tablename__ = "near_checks"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), unique=True)
    status: Mapped[NearCheckStatus] = mapped_column(status_column(NearCheckStatus), default=NearCheckStatus.QUEUED)
    compared: Mapped[int] = mapped_column(default=0)
    pairs: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (Index(None, "status", "lease_expires_at"), Index(None, "owner_id", "status", "id"))
