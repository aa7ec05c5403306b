"""The lease of the upload being ingested: renewed on a thread of its own, looked at between any two steps."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from core.config import Settings
from core.database import Database
from core.errors import Fenced, ThawError
from core.leases import UPLOAD_LIFE, Claim, renew

_log = logging.getLogger(__name__)


class Cancelled(ThawError):
    """Somebody asked for it."""


class Drained(ThawError):
    """This worker is being stopped in good order; another one goes on."""


class Held:
    """A held upload; `check` raises when it is time to stop. Use as a context manager."""

    def __init__(
        self, settings: Settings, database: Database, claim: Claim, drain: threading.Event | None = None
    ) -> None:
        self.claim = claim
        self._settings = settings
        self._database = database
        self._drain = drain or threading.Event()
        self._ended = threading.Event()
        self._fenced = False
        self._cancelled = False
        self._good_until = time.monotonic() + settings.lease_seconds
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=35)

    def check(self) -> None:
        """Stop here if the upload is not ours any more, was cancelled, or this worker is to end.

        Raises:
            Fenced, Cancelled, Drained: accordingly.
        """
        if self._fenced or time.monotonic() > self._good_until:
            raise Fenced(f"Attempt {self.claim.attempt} no longer owns upload {self.claim.id}.")
        if self._cancelled:
            raise Cancelled("The upload was cancelled.")
        if self._drain.is_set():
            raise Drained("The worker is being stopped.")

    def _keep(self) -> None:
        while not self._fenced and not self._ended.wait(self._settings.renew_seconds):
            asked_at = time.monotonic()
            try:
                with self._database.write() as session:
                    self._cancelled = renew(session, UPLOAD_LIFE, self.claim, self._settings.lease_seconds)
                self._good_until = asked_at + self._settings.lease_seconds
            except Fenced:
                self._fenced = True
            except SQLAlchemyError:
                _log.warning("could not renew the lease of upload %s; trying again", self.claim.id, exc_info=True)
