"""`python -m worker.ingest.checker`: decode one picture after the other in a process that may crash.

One JSON line in (`{"source", "thumbnail", "max_bytes", "max_pixels", "seconds"}`), one JSON line out (`{"facts": …, "look": …}` or
`{"refused": [code, sentence]}`). Ends at end of file. A decoder that hangs is ended by an alarm even when the parent is gone.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from worker.ingest.looks import look_at
from worker.ingest.thumbnails import LEAST_PIXELS, shrunk, thumbnail
from worker.training.pictures import PictureLimits, PictureRefused, examine

MOST_MEMORY = (
    4 << 30
)  # bytes of address space: 50 megapixels need under 1 GB, a decoder that wants more is being fooled


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Decode, make the thumbnail, answer."""
    limits = PictureLimits(question["max_bytes"], question["max_pixels"])
    try:
        picture = examine(Path(question["source"]), limits=limits, enough=LEAST_PIXELS)
    except PictureRefused as refused:
        return {"refused": [refused.reason.value, refused.sentence]}
    small, facts = shrunk(picture.image), picture.facts
    Path(question["thumbnail"]).write_bytes(thumbnail(small))
    look = look_at(small, (facts.width, facts.height), picture.shot).to_json()
    return {"facts": [facts.format, facts.width, facts.height, list(facts.fixes)], "look": look}


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - Unix only

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    """Answer until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches us too; the parent closes our input
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _limit_memory()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what C libraries print must not look like an answer
    for line in sys.stdin:
        question = json.loads(line)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, question["seconds"] + 5)
        answer = check(question)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
