"""The `predict` task: takes a question off the queue and answers it."""

import logging

from worker.workplace import Workplace

_log = logging.getLogger(__name__)


class PredictionWorker:
    """Filled in below."""

    def __init__(self, place: Workplace) -> None:
        self._place = place

    def task(self, number: str, question: dict[str, object], deadline: float) -> None:
        """Answer one question."""
