"""People, their browser sessions, start links and API tokens. Secrets are shown once and stored as SHA-256 of 256 random bits."""

import hashlib
import secrets
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.errors import Conflict, FieldProblem, InputInvalid, NotAuthenticated, NotFound
from core.freeing import note_all_left
from core.tables import ApiToken, BrowserSession, Dataset, Scope, StartLink, User, utc_now

LOCAL_USER = "local"
TOKEN_PREFIX = "thaw_"  # noqa: S105 - a prefix, so that scanners recognise leaked tokens
SHORTEST_PASSWORD = 10
_passwords = PasswordHasher()  # argon2id with the parameters of RFC 9106, low-memory
# checked when there is no such user, so that an unknown name takes as long as a wrong password
_NOBODY = _passwords.hash(secrets.token_hex(16))


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def local_user(session: Session) -> User:
    """The one user of local mode, made at first use."""
    named = select(User).where(User.name == LOCAL_USER)
    user = session.scalar(named)
    if user is None:
        try:
            with session.begin_nested():
                user = User(name=LOCAL_USER, is_admin=True)
                session.add(user)
        except IntegrityError:  # another process was faster (PostgreSQL)
            user = session.scalars(named).one()
    return user


def create_user(session: Session, name: str, password: str, *, is_admin: bool = False) -> User:
    """Add a person.

    Raises:
        InputInvalid: a name or password that cannot be used.
        Conflict: the name is taken.
    """
    name = name.strip()
    if not 1 <= len(name) <= 80 or any(not character.isprintable() for character in name):
        message = f"A user name has 1 to 80 printable characters. Received: {name!r}."
        raise InputInvalid(message, problems=(FieldProblem("name", message, name),))
    try:
        with session.begin_nested():
            user = User(name=name, is_admin=is_admin)
            session.add(user)
    except IntegrityError as error:
        raise Conflict(f'There is a user "{name}" already.') from error
    set_password(session, user, password)
    return user


def set_password(session: Session, user: User, password: str) -> None:
    """Set a password; ends every other browser session of this person.

    Raises:
        InputInvalid: shorter than ten characters.
    """
    if not SHORTEST_PASSWORD <= len(password) <= 1024:
        message = f"A password has at least {SHORTEST_PASSWORD} characters. Received: {len(password)}."
        raise InputInvalid(message, problems=(FieldProblem("password", message),))
    user.password_hash = _passwords.hash(password)
    session.execute(delete(BrowserSession).where(BrowserSession.owner_id == user.id))


def delete_user(session: Session, user: User) -> None:
    """Delete a person with everything they own; the files of pictures that no other person has follow (`core.freeing`)."""
    note_all_left(session, user.id)
    # before the pictures in them: PostgreSQL does not delete one that a version still has
    session.execute(delete(Dataset).where(Dataset.owner_id == user.id))
    session.execute(delete(User).where(User.id == user.id))


def admin_exists(session: Session) -> bool:
    """True when somebody can sign in as admin with a password."""
    found = select(User.id).where(User.is_admin, User.password_hash.is_not(None), User.disabled_at.is_(None))
    return session.scalar(found.limit(1)) is not None


def sign_in(session: Session, name: str, password: str) -> User:
    """The user with this name and password.

    Raises:
        NotAuthenticated: unknown name, wrong password, or disabled; never told apart.
    """
    user = session.scalar(select(User).where(User.name == name.strip()))
    stored = user.password_hash if user is not None and user.password_hash else _NOBODY
    try:
        fits: bool = _passwords.verify(stored, password)
    except (VerifyMismatchError, InvalidHashError):
        fits = False
    if not fits or user is None or user.disabled_at is not None:
        raise NotAuthenticated("No user with this name and password.")
    return user


def open_browser_session(session: Session, user: User, *, days: int, user_agent: str = "") -> str:
    """Start a browser session; returns the cookie's value."""
    secret = secrets.token_urlsafe(32)
    session.add(
        BrowserSession(
            owner_id=user.id,
            secret_hash=_hashed(secret),
            user_agent=user_agent[:255],
            expires_at=utc_now() + timedelta(days=days),
        )
    )
    return secret


def find_browser_session(session: Session, secret: str) -> tuple[User, BrowserSession] | None:
    """The person behind a cookie, or None when it is unknown, expired, or the person is disabled."""
    row = session.execute(
        select(User, BrowserSession)
        .join(BrowserSession, BrowserSession.owner_id == User.id)
        .where(
            BrowserSession.secret_hash == _hashed(secret),
            BrowserSession.expires_at > utc_now(),
            User.disabled_at.is_(None),
        )
    ).first()
    return (row[0], row[1]) if row is not None else None


def close_browser_session(session: Session, owner_id: str, session_id: str) -> None:
    """Sign a browser out.

    Raises:
        NotFound: no such session of this person.
    """
    gone = delete(BrowserSession).where(BrowserSession.owner_id == owner_id, BrowserSession.id == session_id)
    if session.execute(gone).rowcount != 1:  # type: ignore[attr-defined]
        raise NotFound("There is no such session.")


def create_start_link(session: Session, user: User, *, minutes: int = 60) -> str:
    """A secret for `/start?key=...`, good once, for an hour."""
    secret = secrets.token_urlsafe(32)
    expires = utc_now() + timedelta(minutes=minutes)
    session.add(StartLink(owner_id=user.id, secret_hash=_hashed(secret), expires_at=expires))
    return secret


def use_start_link(session: Session, secret: str) -> User:
    """Exchange a start link for its user; a second use fails.

    Raises:
        NotAuthenticated: unknown, used, or expired.
    """
    used = session.execute(
        update(StartLink)
        .where(StartLink.secret_hash == _hashed(secret), StartLink.used_at.is_(None), StartLink.expires_at > utc_now())
        .values(used_at=utc_now())
        .returning(StartLink.owner_id)
    ).first()
    user = session.get(User, used[0]) if used is not None else None
    if user is None or user.disabled_at is not None:
        raise NotAuthenticated(
            "This start link was used already or has expired. Restart Thaw, or run `thaw link`, for a new one."
        )
    return user


def create_token(
    session: Session, user: User, name: str, *, scope: Scope = Scope.WRITE, days: int | None = None
) -> tuple[ApiToken, str]:
    """An API token; its secret is returned once and stored hashed."""
    name = name.strip()
    if not 1 <= len(name) <= 80:
        message = f"A token's name has 1 to 80 characters. Received: {len(name)}."
        raise InputInvalid(message, problems=(FieldProblem("name", message, name),))
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    expires = None if days is None else utc_now() + timedelta(days=days)
    token = ApiToken(owner_id=user.id, name=name, secret_hash=_hashed(secret), scope=scope, expires_at=expires)
    session.add(token)
    session.flush()
    return token, secret


def find_token(session: Session, secret: str) -> tuple[User, ApiToken] | None:
    """The person behind an API token, or None when it is unknown, expired, or the person is disabled."""
    row = session.execute(
        select(User, ApiToken)
        .join(ApiToken, ApiToken.owner_id == User.id)
        .where(ApiToken.secret_hash == _hashed(secret), User.disabled_at.is_(None))
    ).first()
    if row is None or (row[1].expires_at is not None and row[1].expires_at <= utc_now()):
        return None
    return row[0], row[1]


def revoke_token(session: Session, owner_id: str, token_id: str) -> None:
    """Make a token worthless.

    Raises:
        NotFound: no such token of this person.
    """
    gone = delete(ApiToken).where(ApiToken.owner_id == owner_id, ApiToken.id == token_id)
    if session.execute(gone).rowcount != 1:  # type: ignore[attr-defined]
        raise NotFound("There is no such token.")
