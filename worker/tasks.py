"""What a ring of a queue does: work until nothing waits. Thin. (`train` is worker/supervisor.py, `predict` worker/prediction.)"""

from worker.batch import batch_next
from worker.exporting import export_next
from worker.ingest.ingest import ingest_next
from worker.ingest.sharing import help_next
from worker.label_checks import check_next as check_labels_next
from worker.near_checks import near_check_next
from worker.weights.check import check_next
from worker.workplace import Workplace


def ingest(place: Workplace) -> None:
    """Ingest the received uploads that nobody works on; where there is none, help with those that others ingest."""
    with place.at_work():
        while not place.stopping:
            done = ingest_next(
                place.settings,
                place.database,
                owner=place.name,
                drain=place.drain,
                announce=place.announcer.changed,
            )
            if not done and not check_next(place) and not help_next(place):
                return


def export(place: Workplace) -> None:
    """Build the wished file formats that nobody works on."""
    with place.at_work():
        while not place.stopping and export_next(place):
            pass


def batch(place: Workplace) -> None:
    """Carry out the label checks and batch predictions that nobody works on, then the near checks, which nobody waits for."""
    with place.at_work():
        while not place.stopping and (check_labels_next(place) or batch_next(place) or near_check_next(place)):
            pass
