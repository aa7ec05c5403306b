"""A worker process from its start to its end: place, heartbeat, clean cache, tasks, Celery. (`predict` begins in worker/prediction.)"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy.exc import InterfaceError, OperationalError

from core.config import Settings
from core.leftovers import remove_left_folders
from worker import tasks
from worker.cache_cleaning import CacheCleaner
from worker.celery_app import Task, work
from worker.heartbeat import Heartbeat
from worker.supervisor import Supervisor
from worker.workplace import Workplace

_log = logging.getLogger(__name__)


def run_worker(settings: Settings, queues: tuple[str, ...]) -> int:
    """Serve queues (from `checked_queues`, not `predict`) until SIGTERM; returns the exit code."""
    with opened_place(settings, queues) as place:
        _tidy(place)
        if queues == ("train",):
            supervisor = Supervisor(place)
            try:
                return work(place, {"train": supervisor.task})
            finally:
                supervisor.close()
        served: dict[str, Task] = {name: partial(getattr(tasks, name), place) for name in queues}
        return work(place, served)


def _tidy(place: Workplace) -> None:
    """Remove what attempts that died have left in this data folder, which may be no web server's."""
    try:
        remove_left_folders(place.database, place.settings)
    except (OperationalError, InterfaceError, OSError) as error:
        _log.warning("what earlier attempts have left is not removed now: %s", error)


@contextmanager
def opened_place(settings: Settings, queues: tuple[str, ...]) -> Iterator[Workplace]:
    """The workplace of this process, with its heartbeat going and its cache kept clean."""
    place = Workplace(settings, queues)
    heartbeat, cleaner = Heartbeat(place), CacheCleaner(place)
    heartbeat.start()
    cleaner.start()
    try:
        yield place
    finally:
        cleaner.stop()
        heartbeat.stop()
        place.close()
