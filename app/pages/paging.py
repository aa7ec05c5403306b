"""Back and forth in a list that is paged by keyset: the way back is the cursors of the pages before, in the address."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

FIRST = "-"  # stands for the first page, which has no cursor
MOST_BACK = (
    20  # an address should stay one that every server and proxy takes; from further on one goes back to the first page
)


class Addresses(TypedDict):
    """Where the next and the previous page are; None where there is none."""

    next_address: str | None
    previous_address: str | None


@dataclass(frozen=True)
class Place:
    """Where one is: the cursor of this page and those of the pages before, with dots between."""

    cursor: str = ""
    back: str = ""

    def addresses(self, next_cursor: str | None, address: Callable[..., str]) -> Addresses:
        """The neighbours of this page; `address(cursor=, back=)` writes an address of the list."""
        before = [one for one in self.back.split(".") if one]
        return {
            "next_address": next_cursor and address(cursor=next_cursor, back=self._behind(before)),
            "previous_address": self._previous(before, address) if self.cursor else None,
        }

    def _behind(self, before: list[str]) -> str:
        return ".".join([*before, self.cursor or FIRST][-MOST_BACK:])

    def _previous(self, before: list[str], address: Callable[..., str]) -> str:
        cursor = before[-1] if before else FIRST
        return address(cursor="" if cursor == FIRST else cursor, back=".".join(before[:-1]))
