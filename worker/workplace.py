"""What every task of a worker process shares, made once per process."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.config import Settings
from core.database import Database, open_database
from core.live import Announcer
from core.storage import Storage, open_storage


class Workplace:
    """Database, storage, announcer, and the two flags of a worker process.

    Attributes:
        name: id of this worker, for leases and for people.
        drain: set once the process was asked to stop: claim nothing more, give back what is held. Set by a signal handler, so
            the main thread must only look at it, never wait for it.
    """

    def __init__(self, settings: Settings, queues: tuple[str, ...]) -> None:
        self.settings = settings
        self.queues = queues
        self.name = f"{socket.gethostname()}:{os.getpid()}:{'+'.join(queues)}"
        self.database: Database = open_database(settings)
        self.storage: Storage = open_storage(settings)
        self.announcer = Announcer(settings)
        self.drain = threading.Event()
        self._busy = 0
        self._lock = threading.Lock()

    @property
    def stopping(self) -> bool:
        """True once this process was asked to stop."""
        return self.drain.is_set()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts this process as busy meanwhile."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    @property
    def busy(self) -> bool:
        """True while a task works."""
        return self._busy > 0

    def close(self) -> None:
        """Drop the connections."""
        self.announcer.close()
        self.database.close()
