"""Timing steps for estimates, in a process of its own: a person who asks for a prediction never waits behind it.

The process (`python -m worker.prediction.timing_process`) runs at a trainer's priority, so that what it measures is what a trainer
will find. It is started with the first question, answers the questions that follow soon, and goes when none has come for a while,
with all its memory.
"""

import base64
import contextlib
import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.lifeline import child_setup
from worker.trainer_process import NICE

_log = logging.getLogger(__name__)
Speeds = dict[str, Any]
COMMAND = (sys.executable, "-m", "worker.prediction.timing_process")
KEPT_SECONDS = 15.0  # the cards of one page are asked for one after another
LONGEST_SECONDS = 120.0


@dataclass(frozen=True)
class TimingAsked:
    """One measurement.

    Attributes:
        question: `{config, classes, max_bytes, max_pixels, threads}`.
        pictures: encoded pictures of the dataset; called when its turn has come.
        wanted: asked when its turn has come; False drops it.
        tell: takes `{"speeds": ...}` or `{"error": sentence}`.
    """

    question: dict[str, Any]
    pictures: Callable[[], Sequence[bytes]]
    wanted: Callable[[], bool]
    tell: Callable[[dict[str, Any]], None]


class Timings:
    """Measures one after another, on a thread that lives as long as this process (see `child_setup`).

    Args:
        environment: of the process that measures; None: this one's.
    """

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        *,
        environment: Mapping[str, str] | None = None,
        longest: float = LONGEST_SECONDS,
        kept: float = KEPT_SECONDS,
    ) -> None:
        self._command = list(command)
        self._environment = environment
        self._kept = kept
        self._longest = longest
        self._asked: queue.SimpleQueue[TimingAsked] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._work, name="timings", daemon=True).start()

    def ask(self, asked: TimingAsked) -> None:
        """Measure when its turn has come; returns at once."""
        self._asked.put(asked)

    def _work(self) -> None:
        while True:
            try:
                asked = self._asked.get(timeout=self._kept) if self._process else self._asked.get()
            except queue.Empty:
                self._end()
                continue
            try:
                if asked.wanted():
                    asked.tell(self._measure(asked))
            except Exception:  # noqa: BLE001 - the thread must go on to the next question
                _log.exception("an estimate could not be measured")
                with contextlib.suppress(Exception):
                    asked.tell({"error": "The time could not be measured by a fault of ours; see the log."})

    def _measure(self, asked: TimingAsked) -> dict[str, Any]:
        pictures = [base64.b64encode(one).decode() for one in asked.pictures()]
        line = json.dumps({**asked.question, "pictures": pictures}).encode() + b"\n"
        process = self._process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101 - a pipe, see `_start`
        assert process.stdout is not None  # noqa: S101
        guard = threading.Timer(self._longest, process.kill)
        guard.daemon = True
        guard.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            said = process.stdout.readline()
        except OSError:
            said = b""
        finally:
            guard.cancel()
        if not said.endswith(b"\n"):
            self._end()
            return {"error": "The time could not be measured: the process that measures it ended. See the log."}
        answer: dict[str, Any] = json.loads(said)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own command
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
            preexec_fn=child_setup(nice=NICE, expendable=True),  # noqa: PLW1509 - system calls and nothing else
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
