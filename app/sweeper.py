"""The sweeper: a thread of the web process that takes back lost work and rings for waiting work. Filled in below."""

import logging
import threading

from core.config import Settings
from core.database import Database
from core.queue import Queue

_log = logging.getLogger(__name__)


class Sweeper:
    """Expires leases, rings for waiting rows, removes what nobody needs any more. Its thread never dies of an error."""

    def __init__(self, database: Database, settings: Settings, queue: Queue) -> None:
        self._database = database
        self._settings = settings
        self._queue = queue
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin sweeping."""
        self._thread.start()

    def stop(self) -> None:
        """End within a second or two."""
        self._stopping.set()
        self._thread.join(timeout=3)

    def _work(self) -> None:
        while not self._stopping.wait(self._settings.sweep_seconds):
            pass
