"""`python -m worker.prediction`: the one long-lived process in which TensorFlow answers. The solo pool: nothing forks after TensorFlow."""

import logging
import sys

from core.config import read_settings
from worker.celery_app import work
from worker.lifeline import die_with_parent
from worker.prediction.worker import PredictionWorker
from worker.process import opened_place


def main() -> int:
    """Answer until SIGTERM; returns the exit code."""
    die_with_parent()
    settings = read_settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    for name in ("celery", "kombu", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    with opened_place(settings, ("predict",)) as place:
        return work(place, {"predict": PredictionWorker(place).task})


if __name__ == "__main__":
    sys.exit(main())
