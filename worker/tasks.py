"""What a ring of a queue does: work until nothing waits. Thin. (`train` is worker/supervisor.py, `predict` worker/prediction.)"""

import logging

from worker.ingest.ingest import ingest_next
from worker.label_checks import check_next as check_labels_next
from worker.weights.check import check_next
from worker.workplace import Workplace

_log = logging.getLogger(__name__)


def ingest(place: Workplace) -> None:
    """Ingest the received uploads that nobody works on."""
    with place.at_work():
        while not place.stopping:
            done = ingest_next(
                place.settings,
                place.database,
                owner=place.name,
                drain=place.drain,
                announce=place.announcer.changed,
            )
            if not done and not check_next(place):
                return


def export(place: Workplace) -> None:
    """Further formats are built by a later version: no row ever waits (`core.models.request_export` refuses)."""
    _log.warning("%s: the export queue was rung, but this version builds no further formats", place.name)


def batch(place: Workplace) -> None:
    """Do the label checks that nobody works on. (Batch predictions come with a later version.)"""
    with place.at_work():
        while not place.stopping:
            if not check_labels_next(place):
                return
