"""A handful of checker processes: pictures are decoded side by side, and one that crashes or hangs a decoder costs only itself."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.ingest.entries import Code, Refusal
from worker.ingest.looks import Look
from worker.lifeline import child_environment
from worker.training.pictures import PictureFacts, PictureLimits

_ROOT = Path(__file__).resolve().parents[2]
AHEAD = 8  # pictures that a checker has at once: it never waits for us to give it the next one
# what a checker multiplies is small: threads for it would only wait for each other on cores that decode
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}


@dataclass(slots=True)
class Job:
    """One file of the upload on its way to its receipt row.

    Attributes:
        ordinal: its place in the receipt.
        path: its name in the receipt.
        sha256: of its bytes, hex; empty when it is refused without a look.
        source: the file to decode; None when `refusal` is set already.
        thumbnail: where to write the thumbnail.
        spooled: `source` is a copy that is to be deleted afterwards.
        refusal: why it is not a picture of the dataset.
        facts: what the checker found.
        size: of the file in bytes; 0 as long as nobody has looked.
        look: what the picture looks like.
    """

    ordinal: int
    path: str
    sha256: str = ""
    source: Path | None = None
    thumbnail: Path | None = None
    spooled: bool = False
    refusal: Refusal | None = None
    facts: PictureFacts | None = None
    size: int = 0
    look: Look | None = None

    @property
    def is_decided(self) -> bool:
        """True once it is known what becomes of it."""
        return self.refusal is not None or self.facts is not None


@dataclass
class _Checker:
    """One process and what it was given; the first of `jobs` is what it works on, `deadline` is for that one."""

    process: subprocess.Popen[bytes] | None = None
    jobs: deque[Job] = field(default_factory=deque)
    deadline: float = 0.0
    heard: bytes = b""
    crashes: int = 0


@dataclass
class Checkers:
    """Up to `processes` checkers; use as a context manager."""

    processes: int
    limits: PictureLimits
    seconds: float = 60.0
    command: tuple[str, ...] = (sys.executable, "-m", "worker.ingest.checker")
    _all: list[_Checker] = field(default_factory=list)
    _ears: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def __enter__(self) -> Self:
        self._all = [_Checker() for _ in range(max(1, self.processes))]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for checker in self._all:
            self._end(checker)
        self._ears.close()

    def check(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Decide every job; they come out in the order in which they went in.

        Jobs are taken one at a time, only when a checker has room: at most a few are under way. None is taken while the next
        one to come out is decided: whoever gives jobs may wait for just that.
        """
        coming = iter(jobs)
        waiting: deque[Job] = deque()
        most = 4 * AHEAD * len(self._all)
        more = True
        while more or waiting:
            while more and len(waiting) < most and not _is_ready(waiting) and (free := self._free()) is not None:
                job = next(coming, None)
                more = job is not None
                if job is not None:
                    waiting.append(job)
                    if not job.is_decided:
                        self._give(free, job)
            while _is_ready(waiting):
                yield waiting.popleft()
            if waiting and (not more or len(waiting) >= most or self._free() is None):
                self._listen()

    def _free(self) -> _Checker | None:
        least = min(self._all, key=lambda checker: len(checker.jobs))
        return least if len(least.jobs) < AHEAD else None

    def _give(self, checker: _Checker, job: Job) -> None:
        checker.jobs.append(job)
        if checker.process is None or checker.process.poll() is not None:
            self._start(checker)
            return
        if len(checker.jobs) == 1:
            checker.deadline = time.monotonic() + self.seconds
        self._ask(checker, job)

    def _start(self, checker: _Checker) -> None:
        """A fresh process, for everything that the checker has still to do."""
        self._end(checker)
        if not checker.jobs:
            return
        checker.process = subprocess.Popen(  # noqa: S603 - our own module
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            env=child_environment(**_ONE_THREAD),
        )
        assert checker.process.stdout is not None  # noqa: S101 - opened as a pipe
        self._ears.register(checker.process.stdout, selectors.EVENT_READ, checker)
        checker.heard, checker.deadline = b"", time.monotonic() + self.seconds
        for job in checker.jobs:
            self._ask(checker, job)

    def _ask(self, checker: _Checker, job: Job) -> None:
        question = {
            "source": str(job.source),
            "thumbnail": str(job.thumbnail),
            "max_bytes": self.limits.max_bytes,
            "max_pixels": self.limits.max_pixels,
            "seconds": self.seconds,
        }
        assert checker.process is not None and checker.process.stdin is not None  # noqa: S101, PT018 - opened as a pipe
        # died between two pictures: `_listen` sees its end, and a fresh one is asked
        with contextlib.suppress(BrokenPipeError):
            checker.process.stdin.write(json.dumps(question).encode() + b"\n")
            checker.process.stdin.flush()

    def _listen(self) -> None:
        """Wait until something was heard, or somebody's time is up."""
        busy = [checker for checker in self._all if checker.jobs and checker.process is not None]
        patience = max(0.0, min(checker.deadline for checker in busy) - time.monotonic())
        for key, _ in self._ears.select(patience):
            self._hear(key.data, os.read(key.fd, 65536))
        for checker in busy:
            if checker.jobs and time.monotonic() >= checker.deadline:
                sentence = f"Decoding took longer than {self.seconds:g} seconds and was stopped."
                self._refuse(checker, Code.DECODER_TOO_SLOW, sentence)

    def _hear(self, checker: _Checker, said: bytes) -> None:
        if not said:
            self._crashed(checker)
            return
        *answers, checker.heard = (checker.heard + said).split(b"\n")
        for answer in answers:
            decide(checker.jobs.popleft(), json.loads(answer))
            checker.crashes, checker.deadline = 0, time.monotonic() + self.seconds

    def _crashed(self, checker: _Checker) -> None:
        if not checker.jobs:  # it had nothing to do: nobody's fault, and the next one is given to a fresh process
            self._end(checker)
            return
        checker.crashes += 1
        if checker.crashes == 1:  # perhaps it was not this picture's fault: once more, in a fresh process
            self._start(checker)
        else:
            sentence = "The decoder crashed on this file, twice; its content is damaged or hostile."
            self._refuse(checker, Code.DECODER_CRASHED, sentence)

    def _refuse(self, checker: _Checker, code: Code, sentence: str) -> None:
        """Give up on what the checker works on, and have a fresh process do the rest."""
        checker.jobs.popleft().refusal = Refusal(code, sentence)
        checker.crashes = 0
        self._start(checker)

    def _end(self, checker: _Checker) -> None:
        process, checker.process = checker.process, None
        if process is None:
            return
        process.kill()
        if process.stdout is not None:
            self._ears.unregister(process.stdout)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # the question that it never read
                    pipe.close()
        process.wait()


def _is_ready(waiting: deque[Job]) -> bool:
    return bool(waiting) and waiting[0].is_decided


def decide(job: Job, answer: dict[str, Any]) -> None:
    """Put a checker's answer into its job."""
    if "refused" in answer:
        job.refusal = Refusal(*answer["refused"])
    else:
        name, width, height, fixes = answer["facts"]
        job.look = Look.from_json(answer["look"])
        job.facts = PictureFacts(name, width, height, tuple(fixes))


def answer_of(job: Job) -> dict[str, Any] | None:
    """The answer again; None where the decoder crashed or hung: that may be for reasons of this machine."""
    if job.refusal is not None:
        crashed = job.refusal.code in {Code.DECODER_CRASHED, Code.DECODER_TOO_SLOW}
        return None if crashed else {"refused": [str(job.refusal.code), job.refusal.sentence]}
    if job.facts is None or job.look is None:
        return None
    facts = job.facts
    return {"facts": [facts.format, facts.width, facts.height, list(facts.fixes)], "look": job.look.to_json()}
