"""Every worker process says every 10 s that it lives, by the database's clock."""

import logging
import threading

from sqlalchemy import delete, update
from sqlalchemy.exc import SQLAlchemyError

from core.database import database_now
from core.tables import WorkerRow
from worker.devices import devices
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
EVERY_SECONDS = 10.0


class Heartbeat:
    """A thread that keeps this process's row in `workers` fresh; the row goes at an orderly stop."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._devices = devices(place.settings)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End and remove the row."""
        self._stopping.set()
        self._thread.join(timeout=5)
        try:
            with self._place.database.write() as session:
                session.execute(delete(WorkerRow).where(WorkerRow.id == self._place.name))
        except SQLAlchemyError:
            _log.warning("this worker's row stays behind: the database does not answer")

    def _work(self) -> None:
        while True:
            try:
                self.beat()
            except SQLAlchemyError:
                _log.warning("the database does not answer; the next heartbeat is in %.0f s", EVERY_SECONDS)
            except Exception:  # noqa: BLE001 - whatever it is: a worker that is taken for dead loses its work
                _log.exception("a heartbeat failed; the next is in %.0f s", EVERY_SECONDS)
            if self._stopping.wait(EVERY_SECONDS):
                return

    def beat(self) -> None:
        """Write the row."""
        place = self._place
        values = {"queues": list(place.queues), "devices": self._devices, "busy": place.busy}
        with place.database.write() as session:
            fresh = update(WorkerRow).where(WorkerRow.id == place.name).values(heartbeat_at=database_now(), **values)
            if session.execute(fresh).rowcount == 0:  # type: ignore[attr-defined]
                session.add(WorkerRow(id=place.name, heartbeat_at=session.scalar(database_now().select()), **values))
