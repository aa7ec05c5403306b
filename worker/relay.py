"""What a trainer says becomes rows: batched, progress at most once a second, an epoch written once however often it is said."""

import json
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.runs import MetricValue, Report, record
from core.tables import Metric, RunDocument
from worker.hold import Hold
from worker.trainer_process import Event

PROGRESS_SECONDS = 1.0


class Relay:
    """Collects events and writes them.

    Attributes:
        result: path of `result.json` inside the folder once the trainer has succeeded.
        failure: the `failed` event, if one came.
        learning: True once an epoch has ended.
    """

    def __init__(self, hold: Hold, folder: Path, known_epochs: set[tuple[int, int]]) -> None:
        self.result: str | None = None
        self.failure: Event | None = None
        self.learning = False
        self._hold = hold
        self._folder = folder
        # a resumed trainer says its history again; that is no new epoch and must not forgive a crash
        self._known = known_epochs
        self._metrics: list[MetricValue] = []
        self._log: list[str] = []
        self._columns: dict[str, Any] = {}
        self._progress: dict[str, Any] | None = None
        self._layers = False
        self._written = float("-inf")

    def hear(self, event: Event) -> None:
        """Take one event in; unknown ones are for later versions."""
        match event["event"]:
            case "started":
                self._start(event)
            case "log":
                self._log.append(str(event.get("message", "")))
            case "progress":
                self._progress = {key: value for key, value in event.items() if key != "event"}
            case "epoch":
                self._finish_epoch(event)
            case "layers":
                self._layers = True
            case "succeeded":
                self.result = str(event.get("result", "result.json"))
            case "failed":
                self.failure = event

    def note(self, *lines: str) -> None:
        """Add lines of our own to the run's log."""
        self._log.extend(lines)

    def _start(self, event: Event) -> None:
        facts = ("device", "precision", "versions", "resumed_from")
        self._columns["machine"] = {name: event.get(name) for name in facts}
        resumed = event.get("resumed_from")
        begun = f"Training goes on from {resumed}" if resumed else "Training begins"
        self._log.append(f"{begun} on {event.get('device')}, {event.get('precision')}.")

    def _finish_epoch(self, event: Event) -> None:
        place = (int(event["phase_index"]), int(event["epoch"]))
        self.learning = True
        if place in self._known:
            return
        self._known.add(place)
        self._metrics += [
            MetricValue(str(event["phase"]), *place, split, name, float(value))
            for split, values in event["metrics"].items()
            for name, value in values.items()
            if value is not None
        ]

    def flush(self, *, everything: bool = False) -> None:
        """Write what is due: epochs, log lines and layers at once, progress at most once a second.

        Raises:
            Fenced: the run is not ours any more.
        """
        urgent = bool(self._metrics or self._log or self._columns or self._layers)
        late = self._progress is not None and time.monotonic() - self._written >= PROGRESS_SECONDS
        if not (urgent or late or (everything and self._progress is not None)):
            return
        report = Report(self._progress, tuple(self._metrics), tuple(self._log), dict(self._columns))
        layers = self._read_layers() if self._layers else None
        self._hold.write(lambda session: self._record(session, report, layers))
        self._metrics, self._log, self._columns, self._progress, self._layers = [], [], {}, None, False
        self._written = time.monotonic()

    def _record(self, session: Session, report: Report, layers: Any) -> None:
        record(session, self._hold.claim, report)
        if layers is not None:
            session.merge(RunDocument(run_id=self._hold.claim.id, kind="layers", body=layers))

    def _read_layers(self) -> Any:
        return json.loads((self._folder / "layers.json").read_text(encoding="utf-8"))


def known_epochs(session: Session, run_id: str) -> set[tuple[int, int]]:
    """(phase index, epoch) of every epoch that is written already."""
    rows = session.execute(select(Metric.phase_index, Metric.epoch).where(Metric.run_id == run_id).distinct())
    return {(row[0], row[1]) for row in rows}
