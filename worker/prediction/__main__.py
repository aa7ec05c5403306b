"""`python -m worker.prediction`: the one long-lived process in which TensorFlow answers. The solo pool: nothing forks after TensorFlow."""

import sys

from core.config import read_settings
from core.logs import log_to_stderr
from worker.celery_app import work
from worker.devices import hide_gpus
from worker.lifeline import die_with_parent
from worker.prediction.quiet import quiet
from worker.prediction.timings import Timings
from worker.process import opened_place


def main() -> int:
    """Answer until SIGTERM; returns the exit code."""
    die_with_parent()
    settings = read_settings()
    log_to_stderr(settings)
    trainers = hide_gpus()
    with quiet():
        from worker.prediction.models import warm_up  # noqa: PLC0415 - TensorFlow is loaded here
        from worker.prediction.worker import PredictionWorker  # noqa: PLC0415

        warm_up()
    with opened_place(settings, ("predict",)) as place:
        return work(place, {"predict": PredictionWorker(place, Timings(environment=trainers)).task})


if __name__ == "__main__":
    sys.exit(main())
