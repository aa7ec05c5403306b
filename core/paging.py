"""Pages of lists: a limit, and a cursor that goes on after the last row shown.

A cursor is opaque to the caller: the sort value and the id of the last row shown, so that a page never shifts when rows are added.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from core.errors import FieldProblem, InputInvalid

DEFAULT_LIMIT = 50
MOST = 200
T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows and the cursor of the next page, or None at the end."""

    items: Sequence[T]
    next_cursor: str | None


def encode_cursor(values: list[Any]) -> str:
    """Values that JSON knows as one word for an address."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type) -> list[Any]:
    """The values of a cursor, each of its kind or null (a forged one must not reach the database as another type).

    Raises:
        InputInvalid: not a cursor of this list.
    """
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        message = f"cursor: not one that this list gave out. Received: {cursor[:80]!r}."
        raise wrong_query("cursor", message, cursor) from error
    known = isinstance(values, list) and len(values) == len(kinds)
    if not known or not all(value is None or type(value) is kind for value, kind in zip(values, kinds, strict=True)):
        message = f"cursor: it belongs to another list or sorting. Received: {cursor[:80]!r}."
        raise wrong_query("cursor", message, cursor)
    return list(values)


def checked_limit(limit: int) -> int:
    """The limit itself.

    Raises:
        InputInvalid: it is out of range.
    """
    if not 1 <= limit <= MOST:
        raise wrong_query("limit", f"limit must be 1 to {MOST}. Received: {limit}.", limit)
    return limit


def wrong_query(field: str, message: str, received: object) -> InputInvalid:
    """An error about one query field."""
    return InputInvalid(message, problems=(FieldProblem(field, message, received),))
