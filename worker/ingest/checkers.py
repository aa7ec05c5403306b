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
from worker.training.pictures import PictureFacts, PictureLimits

_ROOT = Path(__file__).resolve().parents[2]


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
    """

    ordinal: int
    path: str
    sha256: str = ""
    source: Path | None = None
    thumbnail: Path | None = None
    spooled: bool = False
    refusal: Refusal | None = None
    facts: PictureFacts | None = None

    @property
    def is_decided(self) -> bool:
        """True once it is known what becomes of it."""
        return self.refusal is not None or self.facts is not None


@dataclass
class _Checker:
    """One process and what it is working on."""

    process: subprocess.Popen[bytes] | None = None
    job: Job | None = None
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

    def __enter__(self) -> Self:
        self._all = [_Checker() for _ in range(max(1, self.processes))]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for checker in self._all:
            _end(checker)

    def check(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Decide every job; they come out in the order in which they went in.

        Jobs are taken one at a time, only when a checker is free: at most a few are under way.
        """
        coming = iter(jobs)
        waiting: deque[Job] = deque()
        more = True
        while more or waiting:
            while more and len(waiting) < 4 * len(self._all) and (idle := self._idle()) is not None:
                job = next(coming, None)
                more = job is not None
                if job is not None:
                    waiting.append(job)
                    if not job.is_decided:
                        self._give(idle, job)
            while waiting and waiting[0].is_decided:
                yield waiting.popleft()
            if waiting and (not more or len(waiting) >= 4 * len(self._all) or self._idle() is None):
                self._listen()

    def _idle(self) -> _Checker | None:
        return next((checker for checker in self._all if checker.job is None), None)

    def _give(self, checker: _Checker, job: Job) -> None:
        if checker.process is None or checker.process.poll() is not None:
            _end(checker)
            checker.process = subprocess.Popen(  # noqa: S603 - our own module
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_ROOT
            )
        question = {
            "source": str(job.source),
            "thumbnail": str(job.thumbnail),
            "max_bytes": self.limits.max_bytes,
            "max_pixels": self.limits.max_pixels,
            "seconds": self.seconds,
        }
        checker.job, checker.heard, checker.deadline = job, b"", time.monotonic() + self.seconds
        assert checker.process.stdin is not None  # noqa: S101 - opened as a pipe above
        with contextlib.suppress(
            BrokenPipeError
        ):  # died between two pictures: `_listen` sees its end, and a fresh one is asked
            checker.process.stdin.write(json.dumps(question).encode() + b"\n")
            checker.process.stdin.flush()

    def _listen(self) -> None:
        """Wait until something was heard, or somebody's time is up."""
        busy = [checker for checker in self._all if checker.job is not None and checker.process is not None]
        with selectors.DefaultSelector() as selector:
            for checker in busy:
                assert checker.process is not None and checker.process.stdout is not None  # noqa: S101, PT018
                selector.register(checker.process.stdout, selectors.EVENT_READ, checker)
            patience = max(0.0, min(checker.deadline for checker in busy) - time.monotonic())
            for key, _ in selector.select(patience):
                self._hear(key.data, os.read(key.fd, 65536))
        for checker in busy:
            if checker.job is not None and time.monotonic() >= checker.deadline:
                self._refuse(
                    checker,
                    Code.DECODER_TOO_SLOW,
                    f"Decoding took longer than {self.seconds:g} seconds and was stopped.",
                )

    def _hear(self, checker: _Checker, said: bytes) -> None:
        checker.heard += said
        if not said:
            self._crashed(checker)
        elif checker.heard.endswith(b"\n") and checker.job is not None:
            _decide(checker.job, json.loads(checker.heard))
            checker.job, checker.crashes = None, 0

    def _crashed(self, checker: _Checker) -> None:
        job = checker.job
        checker.crashes += 1
        if (
            job is not None and checker.crashes == 1
        ):  # perhaps it was not this picture's fault: once more, in a fresh process
            _end(checker)
            self._give(checker, job)
        else:
            self._refuse(
                checker,
                Code.DECODER_CRASHED,
                "The decoder crashed on this file, twice; its content is damaged or hostile.",
            )

    def _refuse(self, checker: _Checker, code: Code, sentence: str) -> None:
        if checker.job is not None:
            checker.job.refusal = Refusal(code, sentence)
        checker.job, checker.crashes = None, 0
        _end(checker)


def _decide(job: Job, answer: dict[str, Any]) -> None:
    if "refused" in answer:
        job.refusal = Refusal(*answer["refused"])
    else:
        name, width, height, fixes = answer["facts"]
        job.facts = PictureFacts(name, width, height, tuple(fixes))


def _end(checker: _Checker) -> None:
    process, checker.process = checker.process, None
    if process is None:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # the question that it never read
                pipe.close()
    process.wait()
