"""The house itself: workers, what may be there only once, answers to repeated requests."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, UtcDateTime, utc_now


class WorkerRow(Base):
    """A worker process, with a heartbeat every 10 s by the database's clock."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    queues: Mapped[list[Any]]
    devices: Mapped[list[Any]]
    busy: Mapped[bool] = mapped_column(default=False)
    heartbeat_at: Mapped[float]


class Singleton(Base):
    """A lease on being the only one, e.g. the sweeper."""

    __tablename__ = "singletons"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    expires_at: Mapped[float]


class HouseNumber(Base):
    """A number that only rises (`core.freeing`): whoever sees another one than before looks again."""

    __tablename__ = "house_numbers"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class FreedFile(Base):
    """The file of a picture that nobody has any more (`core.freeing`); `freed_at` is by the database's clock."""

    __tablename__ = "freed_files"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    freed_at: Mapped[float] = mapped_column(Float, index=True)
    removing: Mapped[bool]


class IdempotencyKey(Base):
    """The answer to a POST that carried an Idempotency-Key; `status_code` is null while it is being worked on."""

    __tablename__ = "idempotency_keys"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int | None]
    body: Mapped[Any] = mapped_column(JSON, nullable=True)
    location: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
