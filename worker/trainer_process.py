"""One trainer as its supervisor sees it: a process of its own group, events in, words out. And the spare that waits for its turn."""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from core.config import GB, Settings
from worker.devices import gpus, memory_bytes
from worker.lifeline import child_environment, child_setup

_log = logging.getLogger(__name__)
NICE = 10
LEAST_MEMORY_FOR_A_SPARE = 4 * GB
TICK_LIMIT_VARIABLE = "THAW_TRAINER_TICK_LIMIT"
Event = dict[str, Any]


def trainer_command() -> list[str]:
    """How a trainer is started."""
    return [sys.executable, "-m", "worker.training"]


class TrainerProcess:
    """A running trainer. Start it from a thread that lives as long as the process (see `child_setup`).

    Attributes:
        was_killed: True once `kill` found it alive: its SIGKILL was ours.
    """

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            list(command),
            env=child_environment(**{TICK_LIMIT_VARIABLE: str(settings.trainer_tick_timeout)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=child_setup(nice=NICE, expendable=True),  # noqa: PLW1509 - system calls and nothing else
        )
        self.was_killed = False
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=40)
        self._threads = [
            threading.Thread(target=self._hear, args=(self._process.stdout,), name="events", daemon=True),
            threading.Thread(target=self._overhear, args=(self._process.stderr,), name="stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process.poll() is None

    def last_words(self) -> list[str]:
        """The end of what it wrote to standard error, once it has ended: for the log of a crash."""
        self._threads[1].join(timeout=2)
        return list(self._last_words)

    def say(self, word: str) -> None:
        """Send one line; a trainer that is gone does not hear it, which its exit code will tell."""
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None  # noqa: S101 - a pipe, see above
            self._process.stdin.write(word.encode() + b"\n")
            self._process.stdin.flush()

    def next_event(self, timeout: float) -> tuple[Event | None, bool]:
        """The next event within `timeout` seconds, or None; and whether that was the last (the trainer has closed its output)."""
        try:
            event = self._events.get(timeout=timeout) if timeout > 0 else self._events.get_nowait()
        except queue.Empty:
            return None, False
        return event, event is None

    def wait(self, timeout: float) -> int | None:
        """The exit code, negative for a signal; None when it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL to its whole group, and wait for the end."""
        self.was_killed |= self.running
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.close()

    def close(self) -> None:
        """Drop the pipes of a trainer that has ended."""
        for thread in self._threads:
            thread.join(timeout=2)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _hear(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed under us by `close`
            for line in stream:
                try:
                    event = json.loads(line)
                except ValueError:
                    _log.warning("a trainer said something that is not JSON: %r", line[:200])
                    continue
                if isinstance(event, dict) and isinstance(event.get("event"), str):
                    self._events.put(event)
        self._events.put(None)

    def _overhear(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                text = line.decode("utf-8", errors="replace").rstrip()
                self._last_words.append(text[:1000])
                _log.debug("trainer: %s", text)


class Spare:
    """At most one trainer that has TensorFlow loaded already and waits for a run folder. Ticked by a thread until it is taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: TrainerProcess | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.wanted = settings.spare_trainer and memory_bytes() >= LEAST_MEMORY_FOR_A_SPARE and not gpus()
        if self.wanted:
            threading.Thread(target=self._tick, name="spare", daemon=True).start()

    @property
    def waiting_pid(self) -> int | None:
        """Process id of the spare that waits, if one does."""
        with self._lock:
            return None if self._waiting is None else self._waiting.pid

    def prepare(self, like: Path | None = None) -> None:
        """Have a spare waiting, if one is wanted here; it makes the network of the run folder `like` ready meanwhile."""
        threads = self._settings.train_threads or self._settings.cores
        options = ["--spare", "--supervised", "--threads", str(threads)]
        if like is not None:
            options += ["--like", str(like)]
        with self._lock:
            if self.wanted and not self._stopping.is_set() and self._waiting is None:
                self._waiting = TrainerProcess([*trainer_command(), *options], self._settings)

    def start(self, folder: Path) -> TrainerProcess:
        """A trainer at work on `folder`: the spare if it lives, else a fresh one."""
        with self._lock:
            spare, self._waiting = self._waiting, None
        if spare is not None and spare.running:
            spare.say(f"run {folder}")
            return spare
        if spare is not None:
            spare.kill()
        return TrainerProcess([*trainer_command(), str(folder), "--supervised"], self._settings)

    def close(self) -> None:
        """Kill the spare."""
        self._stopping.set()
        with self._lock:
            spare, self._waiting = self._waiting, None
        if spare is not None:
            spare.kill()

    def _tick(self) -> None:
        while not self._stopping.wait(self._settings.renew_seconds):
            with self._lock:
                if self._waiting is not None:
                    self._waiting.say("tick")


def wait_for_end(trainer: TrainerProcess, seconds: float) -> int:
    """Give a trainer that was told to stop `seconds` to do so, then kill it; its exit code."""
    deadline = time.monotonic() + seconds
    while (code := trainer.wait(0.1)) is None:
        trainer.say("tick")
        if time.monotonic() > deadline:
            trainer.kill()
            return -int(signal.SIGKILL)
    return code
