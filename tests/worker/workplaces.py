"""A worker's place for tests: a migrated database, a broker that nobody runs, short leases."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.config import Settings
from worker.workplace import Workplace


@contextmanager
def workplace(folder: Path, migrated_file: Path, queue: str, *, lease_seconds: float) -> Iterator[Workplace]:
    """A place of one queue in `folder`, closed at the end."""
    shutil.copyfile(migrated_file, folder / "thaw.sqlite3")
    settings = Settings(
        data_dir=folder,
        redis_url=f"unix://{folder}/nobody.sock",
        lease_seconds=lease_seconds,
        renew_seconds=0.2,
        disk_reserve_bytes=0,
    )
    made = Workplace(settings, (queue,))
    try:
        yield made
    finally:
        made.close()
