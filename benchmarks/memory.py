"""Memory of a run on 10,000 generated photographs of about 500 kB: anonymous resident memory of the trainer and its children.

Pages of mapped caches do not count: the system takes them back when it needs them. The pictures (5 GB) and caches go to a temporary
folder, see --where.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._record import Record, options
from benchmarks._tables import memory_rows, table
from benchmarks.main_job import descendants
from core.presets import PRESETS

CLASSES = 10
_DRAWN = 40  # different pictures; each of their copies has other bytes at its end, so that every one is decoded
_SIZE = (1500, 1000)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="pictures")
    parser.add_argument("--preset", action="append", help="default: quick and standard")
    parser.add_argument("--where", type=Path, help="folder for the pictures; default: the system's temporary folder")
    arguments = parser.parse_args()
    count = 120 if arguments.quick else arguments.count
    presets = arguments.preset or ["quick", "standard"]
    record = Record("memory", arguments, {"count": count, "threads": arguments.threads})
    missing = [preset for preset in presets if preset not in record.body["parts"]]
    if missing:
        with tempfile.TemporaryDirectory(prefix="thaw-bench-", dir=arguments.where) as folder:
            rows = _draw(Path(folder) / "pictures", count)
            for preset in missing:
                print(f"{preset} ...", flush=True)
                record.put(preset, _measure(Path(folder) / preset, rows, preset, arguments.threads))
    print(table(memory_rows(record.body)))


def _draw(folder: Path, count: int) -> list[dict[str, Any]]:
    """Write the pictures; the rows of images.jsonl."""
    folder.mkdir(parents=True)
    drawn = [_jpeg(number) for number in range(_DRAWN)]
    rows = []
    for number in range(count):
        data = drawn[number % _DRAWN] + number.to_bytes(8, "big")
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(data)
        split = "test" if number % 20 < 3 else "validation" if number % 20 < 6 else "train"
        row = {"image_id": str(number), "sha256": hashlib.sha256(data).hexdigest(), "path": str(path)}
        rows.append({**row, "label": number % CLASSES, "split": split, "group": None, "filename": path.name})
    return rows


def _jpeg(number: int) -> bytes:
    """A picture of coloured clouds and grain, about 500 kB."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (12, 18, 3), dtype=np.uint8)
    clouds = np.asarray(Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC), np.int16)
    grain = random.normal(0, 14, (_SIZE[1], _SIZE[0], 1))
    picture = Image.fromarray(np.clip(clouds + grain, 0, 255).astype(np.uint8))
    with tempfile.TemporaryFile() as file:
        picture.save(file, "JPEG", quality=88)
        file.seek(0)
        return file.read()


def _measure(folder: Path, rows: list[dict[str, Any]], preset: str, threads: int) -> dict[str, Any]:
    """Run the trainer as a program on empty caches and watch it."""
    folder.mkdir(parents=True)
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = [f"class {label}" for label in range(CLASSES)]
    settings = {"config": PRESETS[preset].config.model_dump(mode="json"), "class_names": names, "threads": threads}
    run = {**settings, "images": "images.jsonl", "cache_limit_bytes": 40_000_000_000, "disk_reserve_bytes": 500_000_000}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    began = time.monotonic()
    command = [sys.executable, "-m", "worker.training", str(folder)]
    with (folder / "events").open("wb") as events:
        process = subprocess.Popen(command, stdout=events, stderr=subprocess.DEVNULL)
        highest = Highest(process.pid)
        code = process.wait()
        highest.stop()
    if code:
        raise SystemExit(f"The trainer ended with {code}: {(folder / 'events').read_bytes()[-500:]!r}")
    size = sum(Path(row["path"]).stat().st_size for row in rows[:_DRAWN]) / min(_DRAWN, len(rows))
    found = {"trainer_GB": highest.alone / 1e9, "with_children_GB": highest.together / 1e9}
    seconds = json.loads((folder / "result.json").read_text())["summary"]["seconds"]
    return {
        **{name: round(value, 3) for name, value in found.items()},
        "picture_kB": round(size / 1e3),
        "pictures": len(rows),
        "whole_s": round(time.monotonic() - began, 1),
        "seconds": seconds,
    }


class Highest:
    """Watches resident memory ten times a second: what is anonymous, or (`field` "VmRSS") mapped files too, each process for itself.

    Attributes:
        alone: highest of the process, bytes.
        together: highest sum of it and everything below it, bytes.
    """

    def __init__(self, pid: int, field: str = "RssAnon") -> None:
        self.alone = self.together = 0
        self._pid, self._field, self._end = pid, field, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            own = resident_bytes(self._pid, self._field)
            below = sum(resident_bytes(pid, self._field) for pid in descendants(self._pid) if pid != self._pid)
            self.alone = max(self.alone, own)
            self.together = max(self.together, own + below)


def resident_bytes(pid: int, field: str) -> int:
    """A line of /proc/PID/status in bytes; 0 when the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    assert os.name == "posix"
    main()
