"""How much SQLite works: what a test compares for few and for many rows, where a plan only says which index is used."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session


@contextmanager
def sqlite_steps(session: Session, taken: list[int]) -> Iterator[None]:
    """Append to `taken` the tens of instructions that SQLite carries out in this session meanwhile."""
    connection = session.connection().connection.driver_connection
    assert connection is not None
    taken.append(0)

    def count() -> int:
        taken[-1] += 1
        return 0

    connection.set_progress_handler(count, 10)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 10)
