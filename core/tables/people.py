"""People, their sessions, links and tokens."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, Identified, UtcDateTime, status_column, utc_now


class Scope(StrEnum):
    """What an API token may do."""

    READ = "read"
    WRITE = "write"


class User(Identified, Base):
    """A person. Local mode has one, `local`, without a password."""

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(String(80), unique=True)
    password_hash: Mapped[str | None]
    is_admin: Mapped[bool] = mapped_column(default=False)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class BrowserSession(Identified, Base):
    """A signed-in browser; the cookie's value is stored hashed."""

    __tablename__ = "sessions"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_agent: Mapped[str] = mapped_column(String(255), default="")
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class StartLink(Identified, Base):
    """A one-time link that becomes a session; stored hashed."""

    __tablename__ = "start_links"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiToken(Identified, Base):
    """An API token: shown once, stored hashed."""

    __tablename__ = "tokens"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[Scope] = mapped_column(status_column(Scope), default=Scope.WRITE)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
