"""Tokens, browser sessions, people."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.routing import CreatingRoute, Pages, Paging, SecretCreatingRoute, api_router
from app.api.schemas.account import SessionOut, TokenIn, TokenMade, TokenOut, UserIn, UserOut, UserPatch
from app.api.schemas.base import Listed
from app.dependencies import Person, ReadSession, TheIdentity, WriteSession
from core import accounts
from core.errors import Conflict, Forbidden, NotFound
from core.tables import ApiToken, BrowserSession, User, utc_now

tokens = api_router("tokens", SecretCreatingRoute)
sessions = api_router("sessions")
users = api_router("users", CreatingRoute)
Row = TypeVar("Row", ApiToken, BrowserSession, User)


def _page(session: Session, table: type[Row], paging: Paging, owner_id: str | None) -> tuple[Sequence[Row], str | None]:
    """One page in order of creation; the cursor is the last id."""
    query = select(table).order_by(table.id).limit(paging.limit + 1)
    if owner_id is not None and not issubclass(table, User):
        query = query.where(table.owner_id == owner_id)
    if paging.cursor:
        query = query.where(table.id > paging.cursor)
    rows = session.scalars(query).all()
    return rows[: paging.limit], rows[paging.limit - 1].id if len(rows) > paging.limit else None


def _token_out(token: ApiToken) -> TokenOut:
    return TokenOut.model_validate(token, from_attributes=True)


@tokens.get("/tokens")
def list_tokens(session: ReadSession, person: Person, paging: Pages) -> Listed[TokenOut]:
    """One's own API tokens, without their secrets."""
    rows, cursor = _page(session, ApiToken, paging, person.id)
    return Listed(items=[_token_out(one) for one in rows], next_cursor=cursor)


@tokens.post("/tokens", status_code=201)
def make_token(given: TokenIn, session: WriteSession, person: Person) -> TokenMade:
    """Make a token. Its secret is in this answer and never shown again."""
    token, secret = accounts.create_token(session, person, given.name, scope=given.scope, days=given.days)
    return TokenMade(**_token_out(token).model_dump(), token=secret)


@tokens.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: str, session: WriteSession, person: Person) -> None:
    """Make a token worthless."""
    accounts.revoke_token(session, person.id, token_id)


@sessions.get("/sessions")
def list_sessions(session: ReadSession, identity: TheIdentity, paging: Pages) -> Listed[SessionOut]:
    """The browsers one is signed in with."""
    rows, cursor = _page(session, BrowserSession, paging, identity.user.id)
    items = [_session_out(one, identity.key) for one in rows]
    return Listed(items=items, next_cursor=cursor)


def _session_out(row: BrowserSession, current: str) -> SessionOut:
    return SessionOut(
        id=row.id,
        user_agent=row.user_agent,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        expires_at=row.expires_at,
        current=row.id == current,
    )


@sessions.delete("/sessions/{session_id}", status_code=204)
def close_session(session_id: str, session: WriteSession, person: Person) -> None:
    """Sign a browser out."""
    accounts.close_browser_session(session, person.id, session_id)


def _user_out(user: User) -> UserOut:
    return UserOut(
        id=user.id,
        name=user.name,
        is_admin=user.is_admin,
        disabled=user.disabled_at is not None,
        created_at=user.created_at,
    )


def _must_be_admin(person: User) -> None:
    if not person.is_admin:
        raise Forbidden("Only admins may see and change other people.")


@users.get("/users")
def list_users(session: ReadSession, person: Person, paging: Pages) -> Listed[UserOut]:
    """Everybody (admins only)."""
    _must_be_admin(person)
    rows, cursor = _page(session, User, paging, None)
    return Listed(items=[_user_out(one) for one in rows], next_cursor=cursor)


@users.post("/users", status_code=201)
def make_user(given: UserIn, session: WriteSession, person: Person) -> UserOut:
    """Add a person (admins only)."""
    _must_be_admin(person)
    return _user_out(accounts.create_user(session, given.name, given.password, is_admin=given.is_admin))


@users.patch("/users/{user_id}")
def change_user(user_id: str, given: UserPatch, session: WriteSession, person: Person) -> UserOut:
    """Change a password (one's own, or anybody's for admins; it ends their browser sessions), or rights (admins only)."""
    own = user_id == person.id
    if not own:
        _must_be_admin(person)
    if own and (given.is_admin is not None or given.disabled is not None):
        raise Forbidden("Nobody changes their own rights: another admin must do it.")
    user = _find_user(session, user_id)
    if given.password is not None:
        accounts.set_password(session, user, given.password)
    if given.is_admin is not None:
        user.is_admin = given.is_admin
    if given.disabled is not None:
        user.disabled_at = (user.disabled_at or utc_now()) if given.disabled else None
    session.flush()
    return _user_out(user)


@users.delete("/users/{user_id}", status_code=204)
def delete_user(user_id: str, session: WriteSession, person: Person) -> None:
    """Delete a person with everything they own (admins only)."""
    _must_be_admin(person)
    if user_id == person.id:
        raise Conflict("Nobody deletes themselves: another admin must do it.")
    accounts.delete_user(session, _find_user(session, user_id))


def _find_user(session: Session, user_id: str) -> User:
    user = session.get(User, user_id)
    if user is None:
        raise NotFound(f'There is no user "{user_id}".')
    return user
