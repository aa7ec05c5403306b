"""People, their tokens and sessions."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from app.api.schemas.base import Given, Text
from core.tables import Scope


class TokenIn(Given):
    """A token to be made; without `days` it does not expire."""

    name: Annotated[Text, Field(min_length=1, max_length=80)]
    scope: Scope = Scope.WRITE
    days: Annotated[int, Field(ge=1, le=3650)] | None = None


class TokenOut(BaseModel):
    """An API token without its secret."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


class TokenMade(TokenOut):
    """A new token: the only time that `token` is shown."""

    token: str


class SessionOut(BaseModel):
    """A signed-in browser."""

    id: str
    user_agent: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    current: bool


class UserIn(Given):
    """A person to be added (admins only)."""

    name: Annotated[Text, Field(min_length=1, max_length=80)]
    password: Annotated[Text, Field(max_length=1024)]
    is_admin: bool = False


class UserPatch(Given):
    """Changes to a person (admins only; one's own password by everybody)."""

    password: Annotated[Text, Field(max_length=1024)] | None = None
    is_admin: bool | None = None
    disabled: bool | None = None


class UserOut(BaseModel):
    """A person."""

    id: str
    name: str
    is_admin: bool
    disabled: bool
    created_at: datetime
