"""Copies of stored files on this machine, as many as fit: the one unused for longest goes first."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from core.ids import new_id

# whoever was given a path has this long to open it
GRACE_SECONDS = 600.0


class Copies:
    """A folder of copies by key, shared by every process of this machine. A file's time of change is when it was last asked for.

    The limit may be passed by a tenth for each process, and by what was asked for within the last ten minutes.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._limit = limit_bytes
        self._unswept = limit_bytes  # look at what is there already with the first copy
        self._lock = threading.Lock()

    def find(self, key: str) -> Path | None:
        """The copy, if it is here."""
        path = self.folder / key
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def aside(self, key: str) -> Path:
        """Where to write a new copy, to be given to `add` once it is whole."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{new_id()}")

    def add(self, key: str, aside: Path) -> Path:
        """Take a copy in; returns its path. May push others out."""
        path = self.folder / key
        size = aside.stat().st_size
        aside.replace(path)
        with self._lock:
            self._unswept += size
            due = self._unswept >= self._limit / 10
            if due:
                self._unswept = 0
        if due:
            self._sweep()
        return path

    def forget(self, key: str) -> None:
        """Remove a copy, or all below a key, if it is here."""
        path = self.folder / key
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what was unused for longest until a tenth of the limit is free."""
        found = sorted(_files(self.folder))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        young = time.time() - GRACE_SECONDS
        for used, size, path in found:
            if total <= self._limit * 0.9 or used > young:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(time of change, size, path) of every file below."""
    for here, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(here, name)  # noqa: PTH118 - a million times
            try:
                facts = os.stat(path)  # noqa: PTH116
            except FileNotFoundError:  # another process was faster
                continue
            yield facts.st_mtime, facts.st_size, path
