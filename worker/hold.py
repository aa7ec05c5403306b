"""A worker's hold on its row: renews the lease, hears of a cancel, writes behind the fence, waits for an absent database."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from core.errors import Fenced
from core.leases import RUN_LIFE, Claim, Life, cancel_requested, renew
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
CANCEL_POLL_SECONDS = 1.0
LONGEST_PAUSE = 2.0
Result = TypeVar("Result")


class Hold:
    """The lease on one run (or another leased row) from claim to end. Not for threads.

    Attributes:
        claim: id and attempt.
        cancelled: True once a person asked for cancelling.
    """

    def __init__(self, place: Workplace, claim: Claim, life: Life = RUN_LIFE) -> None:
        self.claim = claim
        self.life = life
        self.cancelled = False
        self._place = place
        self._renewed = self._polled = time.monotonic()
        self.renewals = 0

    @property
    def stopping(self) -> bool:
        """True once this worker was asked to stop."""
        return self._place.stopping

    def keep(self) -> None:
        """Renew and look for a cancel when it is time; cheap to call often.

        Raises:
            Fenced: another attempt owns the run, or the database was away for a whole lease.
        """
        settings, now = self._place.settings, time.monotonic()
        if now - self._renewed >= settings.renew_seconds:
            self.cancelled |= self.write(
                lambda session: renew(session, self.life, self.claim, settings.lease_seconds), announce=False
            )
            self._renewed = self._polled = now
            self.renewals += 1
        elif now - self._polled >= CANCEL_POLL_SECONDS:
            self._polled = now
            self.cancelled |= self._try(self._look_for_cancel)

    def _look_for_cancel(self) -> bool:
        with self._place.database.read() as session:
            return cancel_requested(session, self.life, self.claim.id)

    def write(self, call: Callable[[Session], Result], *, announce: bool = True) -> Result:
        """Make `call` in one writing transaction, then wake the watchers. It may be called more than once.

        Raises:
            Fenced: as `keep`.
        """

        def transaction() -> Result:
            with self._place.database.write() as session:
                return call(session)

        result = self._try(transaction)
        if announce:
            self._place.announcer.changed(self.claim.id)
        return result

    def _try(self, call: Callable[[], Result]) -> Result:
        """Call until the database answers, as long as the lease can last."""
        pause = 0.1
        while True:
            try:
                return call()
            except (OperationalError, InterfaceError) as error:
                left = self._renewed + self._place.settings.lease_seconds - time.monotonic()
                if left <= 0:
                    noun = self.life.table.__tablename__
                    message = (
                        f"The database was away for a whole lease, so {noun} {self.claim.id} is not ours any more."
                    )
                    raise Fenced(message) from error
                _log.warning("the database does not answer; %.0f s of the lease are left", left)
                time.sleep(min(pause, left))
                pause = min(LONGEST_PAUSE, pause * 2)
