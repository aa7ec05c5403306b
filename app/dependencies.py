"""What routes ask for: the house, a session per request, who is calling."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import anyio
from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.security import SAFE_METHODS, Identity, authenticate
from app.watching import Hub
from app.writing import Writings
from core.config import Settings
from core.database import Database, commit
from core.errors import NotAuthenticated
from core.queue import Queue
from core.storage import Storage
from core.tables import User
from core.version_diff import Differences


@dataclass(frozen=True)
class House:
    """What one web process holds for its whole life; `app.state.house`."""

    settings: Settings
    database: Database
    storage: Storage
    queue: Queue
    hub: Hub
    writings: Writings = field(default_factory=Writings)
    differences: Differences = field(default_factory=Differences)
    # a question to the prediction worker holds a thread for up to 20 s: the other routes keep theirs
    asking: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(8))


def house_of(request: Request) -> House:
    """The house this request came to."""
    house: House = request.app.state.house
    return house


TheHouse = Annotated[House, Depends(house_of)]


def get_session(request: Request, house: TheHouse) -> Iterator[Session]:
    """One transaction per request: reading for GET and HEAD, writing otherwise.

    Must be asked for with `scope="function"`, so that it is committed before the response leaves.
    """
    with house.database.new_session(writes=request.method not in SAFE_METHODS) as session:
        yield session
        commit(session)


# two names for people who read a route: which one it gets is decided by the method alone
ReadSession = Annotated[Session, Depends(get_session, scope="function")]
WriteSession = ReadSession


def current_identity(identity: Annotated[Identity | None, Depends(authenticate)]) -> Identity:
    """Who calls, and by what: a token or a browser session.

    Raises:
        NotAuthenticated: on a public route that was reached without either.
    """
    if identity is None:
        raise NotAuthenticated("Sign in, or send a token: Authorization: Bearer <token>.")
    return identity


TheIdentity = Annotated[Identity, Depends(current_identity)]


def current_user(identity: TheIdentity) -> User:
    """The person who calls (a detached row)."""
    return identity.user


Person = Annotated[User, Depends(current_user)]


def settings_of(house: TheHouse) -> Settings:
    """The settings of this process."""
    return house.settings


SettingsOf = Annotated[Settings, Depends(settings_of)]
