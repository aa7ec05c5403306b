"""What the trainer hears on standard input: one word a line, `tick`, `cancel`, `drain`, `run PATH`."""

import os
import select
import threading
import time
from pathlib import Path

CANCELLED, DRAINED, SUPERVISOR_LOST = 3, 4, 6
# Seconds in which work ends by itself after the word; then the process is ended, whatever it does (a long trace, say).
# That is safe at any moment: everything is written aside and renamed.
_GRACE = {"cancel": (2.0, CANCELLED), "drain": (10.0, DRAINED)}
TICK_LIMIT = 45.0  # seconds of monotonic time without a tick
# For tests only: a shorter limit, in seconds.
_LIMIT_VARIABLE = "THAW_TRAINER_TICK_LIMIT"


class Cancelled(Exception):
    """The supervisor (or Ctrl-C) said cancel."""


class Drained(Exception):
    """The supervisor said drain: stop here, the last checkpoint stays."""


class Orders:
    """Flags that the reader thread sets and the work asks for at every step."""

    def __init__(self) -> None:
        self._cancel = threading.Event()
        self._drain = threading.Event()
        self._folder: Path | None = None
        self._folder_said = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop for good."""
        self._cancel.set()

    def drain(self) -> None:
        """Ask the work to stop at the next step boundary."""
        self._drain.set()
        self._folder_said.set()

    @property
    def stopping(self) -> bool:
        """True when work should end soon, for loops in other threads that must not raise."""
        return self._cancel.is_set() or self._drain.is_set()

    def check(self) -> None:
        """Raise Cancelled or Drained when that was said."""
        if self._cancel.is_set():
            raise Cancelled
        if self._drain.is_set():
            raise Drained

    def wait_for_folder(self) -> Path:
        """Block until `run PATH` was heard (a spare). Raises Cancelled or Drained when that comes instead."""
        while not self._folder_said.wait(timeout=0.2):
            self.check()
        self.check()
        if self._folder is None:
            raise Drained
        return self._folder

    def hear(self, word: str) -> None:
        """Act on one line."""
        if word == "cancel":
            self.cancel()
        elif word == "drain":
            self.drain()
        elif word.startswith("run "):
            self._folder = Path(word[4:])
            self._folder_said.set()


def tick_limit() -> float:
    """Seconds without a tick after which the supervisor counts as lost."""
    return float(os.environ.get(_LIMIT_VARIABLE, TICK_LIMIT))


def listen(orders: Orders, descriptor: int = 0) -> threading.Thread:
    """Start the thread that reads `descriptor`. It ends the whole process (exit 6) at end of file or without ticks.

    `os._exit` on purpose: a lost supervisor means that nobody may hear another word from us, whatever we are doing.
    """
    thread = threading.Thread(target=_listen, args=(orders, descriptor, tick_limit()), name="orders", daemon=True)
    thread.start()
    return thread


def _listen(orders: Orders, descriptor: int, limit: float) -> None:
    rest = b""
    heard = time.monotonic()
    while True:
        # What has arrived is read before the clock is asked: after a SIGSTOP of ours the ticks wait in the pipe.
        ready, _, _ = select.select([descriptor], [], [], max(0.0, min(1.0, limit / 4)))
        if ready:
            data = os.read(descriptor, 65536)
            if not data:
                os._exit(SUPERVISOR_LOST)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                heard = time.monotonic()
                word = line.decode("utf-8", errors="replace").strip()
                orders.hear(word)
                _end_after_grace(word)
        elif time.monotonic() - heard > limit:
            os._exit(SUPERVISOR_LOST)


def _end_after_grace(word: str) -> None:
    if word in _GRACE:
        seconds, code = _GRACE[word]
        timer = threading.Timer(seconds, os._exit, (code,))
        timer.daemon = True
        timer.start()
