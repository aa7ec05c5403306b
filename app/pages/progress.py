"""How far a run is, as steps of a bar: prepare, its phases, export, evaluate (the exported model is what is asked)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.wording import PHASE_WORDS
from core.tables import Metric, Run, RunStatus

PHASE_KINDS = ("frozen", "fine_tune")


@dataclass(frozen=True)
class Step:
    """One part of a run. `state`: done, now or waiting; `kind`: frozen, fine_tune or empty."""

    title: str
    kind: str
    state: str
    value: float
    most: float
    info: str

    @property
    def percent(self) -> int:
        """How much of it is done."""
        return round(100 * self.value / self.most) if self.most else 0


def epochs_by_phase(session: Session, run_ids: Sequence[str]) -> dict[str, dict[int, int]]:
    """Finished epochs of each phase of these runs (of one page): run id -> phase index -> epochs."""
    query = select(Metric.run_id, Metric.phase_index, func.count(func.distinct(Metric.epoch)))
    rows = session.execute(query.where(Metric.run_id.in_(run_ids)).group_by(Metric.run_id, Metric.phase_index))
    found: dict[str, dict[int, int]] = {run_id: {} for run_id in run_ids}
    for run_id, index, count in rows:
        found[run_id][index] = count
    return found


def _order(run: Run) -> list[tuple[str, int | None]]:
    phases = [(phase["kind"], index) for index, phase in enumerate(run.config["phases"])]
    return [("prepare", None), *phases, ("export", None), ("evaluate", None)]


def _position(run: Run, order: Sequence[tuple[str, int | None]]) -> int:
    if run.status == RunStatus.SUCCEEDED:
        return len(order)
    if run.status == RunStatus.QUEUED:
        return -1
    phase = run.progress.get("phase")
    wanted = (phase, run.progress.get("phase_index") if phase in PHASE_KINDS else None)
    return order.index(wanted) if wanted in order else 0 if run.status == RunStatus.RUNNING else -1


def steps(run: Run, epochs: Mapping[int, int]) -> list[Step]:
    """The steps of a run.

    Args:
        run: the run.
        epochs: finished epochs by phase index.
    """
    order = _order(run)
    position = _position(run, order)
    result = []
    for place, (name, index) in enumerate(order):
        state = "done" if place < position else "now" if place == position else "waiting"
        if index is None:
            result.append(_plain_step(run, name, state))
        else:
            result.append(_phase_step(run, (name, index), state, epochs))
    return result


def _plain_step(run: Run, name: str, state: str) -> Step:
    done, total = run.progress.get("step") or 0, run.progress.get("steps_total") or 0
    share = 1.0 if state == "done" else done / total if state == "now" and total else 0.0
    info = f"{done:,} of {total:,}" if state == "now" and total else ""
    return Step(PHASE_WORDS[name], "", state, share, 1.0, info)


def _phase_step(run: Run, which: tuple[str, int], state: str, epochs: Mapping[int, int]) -> Step:
    kind, index = which
    planned = run.config["phases"][index]["epochs"]
    finished = epochs.get(index, 0)
    if state == "done":
        return Step(PHASE_WORDS[kind], kind, state, 1.0, 1.0, _finished_info(finished, planned))
    if state == "waiting":
        return Step(PHASE_WORDS[kind], kind, state, 0.0, 1.0, f"up to {planned} epochs")
    if run.progress.get("epoch") is None and run.progress.get("step"):
        # before its first epoch a phase computes what the frozen part gives for every picture
        return Step(PHASE_WORDS[kind], kind, state, finished, planned, f"getting ready, {_share(run)}")
    before = sum(count for other, count in epochs.items() if other < index)
    epoch = max(1, (run.progress.get("epoch") or before + 1) - before)
    step, total = run.progress.get("step") or 0, run.progress.get("steps_total") or 0
    inside = step / total if total and epoch > finished else 0.0
    info = f"epoch {epoch} of {planned}" + (f", step {step} of {total}" if total else "")
    return Step(PHASE_WORDS[kind], kind, state, min(planned, finished + inside), planned, info)


def _share(run: Run) -> str:
    return f"{run.progress.get('step') or 0:,} of {run.progress.get('steps_total') or 0:,}"


def _finished_info(finished: int, planned: int) -> str:
    if not finished:
        return ""
    return f"{finished} epochs" if finished >= planned else f"{finished} of {planned} epochs, stopped early"


def status_words(run: Run) -> tuple[str, str]:
    """(class of the badge, words) of a run's status."""
    if run.status == RunStatus.RUNNING:
        if run.cancel_requested_at is not None:
            return "busy live", "Cancelling"
        return _running_words(run.progress)
    words = {
        RunStatus.QUEUED: ("", "Queued"),
        RunStatus.SUCCEEDED: ("done", "Done"),
        RunStatus.FAILED: ("failed", "Failed"),
        RunStatus.CANCELLED: ("cancelled", "Cancelled"),
    }
    return words[run.status]


def _running_words(progress: Mapping[str, Any]) -> tuple[str, str]:
    phase = progress.get("phase")
    colour = {"frozen": "frozen busy live", "fine_tune": "tune busy live"}.get(str(phase), "busy live")
    if phase is None:
        return colour, "Starting"
    epoch, total = progress.get("epoch"), progress.get("epochs_total")
    where = f", epoch {epoch} of {total}" if phase in PHASE_KINDS and epoch and total else ""
    return colour, PHASE_WORDS.get(phase, str(phase)) + where
