"""The parts of `thaw serve`, each its own process: start, restart with back-off, stop all.

Every part has its own process group (a Ctrl-C in the terminal reaches `thaw serve` alone, which then stops them in order) and
dies with us on Linux, so that nothing is left running after `kill -9` either.
"""

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from worker.lifeline import PARENT_VARIABLE, child_setup

_log = logging.getLogger(__name__)
STOP_SECONDS = 11.0  # parts that others need get the rest of the 15 s
LAST_SECONDS = 2.0
LONGEST_PAUSE = 30.0
GOOD_RUN = 60.0  # a part that ran this long begins its back-off anew


@dataclass(frozen=True)
class Plan:
    """How a part is started.

    Attributes:
        name: for the log.
        command: program and arguments.
        environment: the whole environment.
        standard_input: text it reads at its start, e.g. the broker's configuration.
        descriptors: file descriptors it inherits.
        early: what a person waits for at the start: the others follow once the web server answers.
        last: stopped after the others, because they need it.
        quiet: what it prints is not for the person (it has a log of its own).
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    standard_input: str | None = None
    descriptors: tuple[int, ...] = ()
    early: bool = False
    last: bool = False
    quiet: bool = False


@dataclass
class Part:
    """One process, and when it is started again after a crash."""

    plan: Plan
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    crashes: int = 0
    start_again_at: float = field(default=0.0)

    def start(self) -> None:
        """Start the process in a group of its own."""
        environment = {**self.plan.environment, PARENT_VARIABLE: str(os.getpid())}
        self.process = subprocess.Popen(  # noqa: S603 - our own commands
            list(self.plan.command),
            env=environment,
            stdin=subprocess.PIPE if self.plan.standard_input is not None else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if self.plan.quiet else None,
            text=True,
            pass_fds=self.plan.descriptors,
            process_group=0,
            preexec_fn=child_setup(),  # noqa: PLW1509 - `thaw serve` has one thread
        )
        self.started_at = time.monotonic()
        if self.plan.standard_input is not None and self.process.stdin is not None:
            self.process.stdin.write(self.plan.standard_input)
            self.process.stdin.close()

    def look_after(self) -> None:
        """Start it again if it has ended, after a pause that grows with every quick end."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.crashes = 1 if now - self.started_at > GOOD_RUN else self.crashes + 1
            pause = min(LONGEST_PAUSE, 0.25 * 2**self.crashes)
            code = self.process.returncode
            _log.warning("%s ended by itself (%s); it is started again in %.1f s", self.plan.name, code, pause)
            self.kill()  # what it may have left in its group
            self.process = None
            self.start_again_at = now + pause
        if self.process is None and now >= self.start_again_at:
            self.start()

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.process is not None and self.process.poll() is None

    def ask_to_stop(self) -> None:
        """SIGTERM: finish in order."""
        if self.process is not None and self.running:
            self.process.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole group, also to what a dead leader left in it."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing left of it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class House:
    """All parts together."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.parts = [Part(plan) for plan in plans]
        self._signals = 0

    def listen(self) -> None:
        """From now on SIGTERM and Ctrl-C end `keep`."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._heard)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    @property
    def stopping(self) -> bool:
        """True once somebody asked us to stop."""
        return self._signals > 0

    def look_after(self, *, early_only: bool = False) -> None:
        """Start what is not running."""
        for part in self.parts:
            if not self.stopping and (part.plan.early or not early_only):
                part.look_after()

    def stop(self) -> None:
        """Stop everything in under 15 s; a second Ctrl-C kills at once."""
        first = [part for part in self.parts if not part.plan.last]
        self._stop(first, STOP_SECONDS)
        self._stop([part for part in self.parts if part.plan.last], LAST_SECONDS)

    def _stop(self, parts: Sequence[Part], seconds: float) -> None:
        heard = self._signals
        for part in parts:
            part.ask_to_stop()
        deadline = time.monotonic() + seconds
        while any(part.running for part in parts) and time.monotonic() < deadline and self._signals <= heard:
            time.sleep(0.05)
        for part in parts:
            if part.running:
                _log.warning("%s did not stop in time and was killed", part.plan.name)
            part.kill()
