"""Entry of a worker process: which queues it serves, in which pool, and how it stops.

- `train` and `predict` use the solo pool: one process, in whose main thread the work happens. `kill -9` of it is then the death
  of one process, not of one of a family; the trainer is its direct child and dies with it; and TensorFlow of `predict` is never
  forked. A queue of rings needs no heartbeat while a task runs.
- `ingest`, `export`, `batch` use threads, as many as cores: the heavy part of an ingest runs in processes of its own, and all
  tasks of the process see one stop flag.
"""

import warnings
from collections.abc import Callable
from typing import Any

from celery import signals

from core.errors import ThawError
from core.queue import QUEUES, TASKS, celery_app
from worker.workplace import Workplace

SOLO = frozenset({"train", "predict"})
Task = Callable[..., Any]


class QueuesInvalid(ThawError):
    """Queues that do not exist or cannot share a process."""


def checked_queues(text: str) -> tuple[str, ...]:
    """Parse `--queues train` or `--queues ingest,export,batch`.

    Raises:
        QueuesInvalid: unknown names, or `train` or `predict` together with others.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in QUEUES]
    if unknown or not names:
        raise QueuesInvalid(f"Unknown queue. Received: {text!r}; allowed: {', '.join(QUEUES)}.")
    if len(names) > 1 and SOLO & set(names):
        raise QueuesInvalid(
            f"The queues train and predict each need a worker process of their own. Received: {text!r}; "
            'allowed: "train", "predict", or any of ingest, export, batch together.'
        )
    return names


def work(place: Workplace, tasks: dict[str, Task]) -> int:
    """Serve the queues that `tasks` names until SIGTERM, which sets `place.drain`.

    Args:
        place: settings, and the name of this worker.
        tasks: by queue, what to do when it rings.

    Returns:
        The exit code.
    """
    # Celery warns of root because it could be told to unpickle; we take JSON only (`accept_content`)
    warnings.filterwarnings("ignore", message="You're running the worker with superuser", append=False)
    app = celery_app(place.settings, producer=False)
    for queue, task in tasks.items():
        app.task(name=TASKS[queue], ignore_result=True)(_named(task))

    def drain(**_: Any) -> None:
        place.drain.set()

    signals.worker_shutting_down.connect(drain, weak=False)
    solo = bool(SOLO & set(tasks))
    worker = app.Worker(
        hostname=place.name,
        queues=",".join(tasks),
        pool="solo" if solo else "threads",
        concurrency=1 if solo else place.settings.cores,
        loglevel=place.settings.log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _named(task: Task) -> Task:
    """Celery wants a plain function, with a name, whatever `task` is."""

    def call(*arguments: Any) -> None:
        task(*arguments)

    return call
