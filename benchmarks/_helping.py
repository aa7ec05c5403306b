"""A further ingest worker for the benchmark; a module of its own, so that other processes find it."""

import time

from core.config import Settings
from worker.ingest.sharing import help_next
from worker.workplace import Workplace


def help_on(settings: Settings) -> None:
    """Help with whatever is ingested, until the process is ended."""
    place = Workplace(settings, ("ingest",))
    while True:
        help_next(place)
        time.sleep(0.1)
