"""Waking whoever watches a run or an upload: one Redis subscription per process, one event per watcher.

The row is the truth: a wake-up that is lost costs a watcher two seconds, never a value.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import TooMany

POLL_SECONDS = 2.0
MOST_STREAMS = 6


class Hub:
    """Who watches what in this process. All but `wake` belongs to the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._streams: Counter[str] = Counter()
        self.closing = False

    def open(self) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Have every stream end."""
        self.closing = True
        for row_id in list(self._watchers):
            self._wake(row_id)

    def wake(self, row_id: str) -> None:
        """Wake the watchers of this row; from any thread, at any time."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, row_id)

    def _wake(self, row_id: str) -> None:
        for event in self._watchers.get(row_id, ()):
            event.set()

    @contextmanager
    def watch(self, row_id: str) -> Iterator["Watch"]:
        """Be woken when the row changes, while inside."""
        event = asyncio.Event()
        self._watchers.setdefault(row_id, set()).add(event)
        try:
            yield Watch(event)
        finally:
            watchers = self._watchers[row_id]
            watchers.discard(event)
            if not watchers:
                del self._watchers[row_id]

    @contextmanager
    def stream(self, key: str) -> Iterator[None]:
        """Count an open stream of one browser session or token.

        Raises:
            TooMany: six are open already.
        """
        if self._streams[key] >= MOST_STREAMS:
            raise TooMany(f"At most {MOST_STREAMS} live streams may be open at once. Close one, then try again.", 5)
        self._streams[key] += 1
        try:
            yield
        finally:
            self._streams[key] -= 1
            if self._streams[key] <= 0:
                del self._streams[key]


class Watch:
    """One watcher's alarm."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def changed(self, patience: float | None = None) -> bool:
        """Wait until woken (True) or until `patience` seconds are over (False); without one, the seconds between two polls."""
        try:
            await asyncio.wait_for(self._event.wait(), POLL_SECONDS if patience is None else patience)
        except TimeoutError:
            return False
        self._event.clear()
        return True
