"""`python -m tests.worker.ingest.reading`: read archives and pictures named on standard input, one a line, and say what each one cost.

A process of its own, so that its memory is that of the reader and of nothing else.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from core.errors import UploadRejected
from worker.ingest.checkers import Job
from worker.ingest.entries import ArchiveLimits
from worker.ingest.sources import Contents, Received
from worker.training.pictures import PictureRefused, examine


def peak() -> int:
    """Highest resident memory since it was last forgotten, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def read_archive(path: Path, spool: Path) -> dict[str, object]:
    """Everything that an ingest does with an archive but decoding."""
    name = "upload" + "".join(path.suffixes)
    codes: dict[str, str] = {}
    kept = []

    def note(job: Job) -> None:
        if job.refusal is not None:
            codes[job.path] = str(job.refusal.code)
        else:
            kept.append(job.path)
        if job.source is not None:
            job.source.unlink(missing_ok=True)

    try:
        with Contents([Received(path, name, "", path.stat().st_size)], ArchiveLimits()) as contents:
            for job in contents.jobs(0, spool):
                note(job)
    except UploadRejected as refused:
        return {"refused": refused.message}
    return {"codes": codes, "kept": kept}


def read_picture(path: Path) -> dict[str, object]:
    """What a checker does with a picture."""
    try:
        examine(path, enough=240)
    except PictureRefused as refused:
        return {"refused": refused.sentence}
    return {"kept": [path.name], "codes": {}}


def main() -> None:
    """Answer line by line."""
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            path = Path(line.rstrip("\n"))
            forget_peak()
            began = time.process_time()
            found = read_picture(path) if path.suffix == ".picture" else read_archive(path, Path(folder))
            left = len(list(Path(folder).iterdir()))
            found |= {"seconds": time.process_time() - began, "memory": peak(), "left": left}
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
