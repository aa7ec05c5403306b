"""What the trainer says: JSON lines on the real standard output, and nothing else there (docs/decisions/0002-run-folder.md)."""

import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, replace

PROGRESS_INTERVAL = 0.5  # seconds: at most two progress events a second
_RATE_WINDOW = 15.0  # seconds over which images per second is averaged


class Speaker:
    """Writes events, one JSON object a line, whole lines only, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def say(self, event: str, **fields: object) -> None:
        """Write one event at once. A listener that has gone away is not an error here: the stdin watch decides."""
        line = json.dumps({"event": event, **fields}, ensure_ascii=False, allow_nan=False) + "\n"
        data = line.encode("utf-8", errors="replace")
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BrokenPipeError:
                    return

    def log(self, message: str) -> None:
        """Say one line for the run's log."""
        self.say("log", message=message)


def take_standard_output() -> Speaker:
    """Keep the real standard output for events and point descriptor 1 to standard error.

    Libraries (also C++ ones) that print can then never write between two events.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.set_inheritable(kept, False)
    os.dup2(2, 1)
    return Speaker(kept)


@dataclass(frozen=True)
class Place:
    """Where in the run we are: the constant part of a progress event."""

    phase: str
    phase_index: int | None = None
    epoch: int | None = None
    epochs_total: int | None = None
    message: str = ""


class Progress:
    """Throttled `progress` events of one stretch of work that counts pictures.

    Args:
        speaker: where events go.
        place: what is constant in them.
        steps_total: steps of this stretch.
        pictures_total: pictures of this stretch, for the time left.
    """

    def __init__(self, speaker: Speaker, place: Place, steps_total: int, pictures_total: int) -> None:
        self._speaker = speaker
        self._place = place
        self._steps_total = steps_total
        self._pictures_total = pictures_total
        self._said = float("-inf")
        self._break = 0.0
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def begin_here(self, pictures: int) -> None:
        """Forget how long the first `pictures` pictures took: tracing is not the pace of what follows."""
        self._seen = deque([(time.monotonic(), pictures)])

    def rest(self, seconds: float) -> None:
        """Say that the last `seconds` seconds went by between two epochs (validation, checkpoint): no pace, but time all the same."""
        self._seen = deque((moment + seconds, pictures) for moment, pictures in self._seen)
        self._break = seconds

    def at(self, step: int, pictures: int, epoch: int | None = None, breaks: int = 0) -> None:
        """Say how far we are, unless it was said less than 0.5 s ago.

        Args:
            step: steps done.
            pictures: pictures done.
            breaks: times that what `rest` spoke of comes yet.
        """
        now = time.monotonic()
        if now - self._said < PROGRESS_INTERVAL:
            return
        self._said = now
        self._seen.append((now, pictures))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_WINDOW:
            self._seen.popleft()
        rate = self._rate()
        left = None if rate is None else (self._pictures_total - pictures) / rate + breaks * self._break
        self._speaker.say(
            "progress",
            **asdict(self._place if epoch is None else replace(self._place, epoch=epoch)),
            step=step,
            steps_total=self._steps_total,
            images_per_second=None if rate is None else round(rate, 1),
            eta_seconds=None if left is None else round(max(left, 0.0), 1),
        )

    def _rate(self) -> float | None:
        (start, before), (end, now) = self._seen[0], self._seen[-1]
        if now <= before or end - start < 0.05:
            return None
        return (now - before) / (end - start)
