"""Metrics of a run as one row per epoch: what the table under the curves shows and the curves are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.tables import Metric


@dataclass
class EpochRow:
    """One epoch of one phase; `values` by "split name", e.g. "validation accuracy"."""

    phase: str
    phase_index: int
    epoch: int
    values: dict[str, float] = field(default_factory=dict)

    def get(self, split: str, name: str) -> float | None:
        """A value, or None where the epoch has none."""
        return self.values.get(f"{split} {name}")


def epoch_rows(metrics: Sequence[Metric]) -> list[EpochRow]:
    """Rows in order of epoch."""
    rows: dict[tuple[int, int], EpochRow] = {}
    for one in metrics:
        row = rows.setdefault((one.phase_index, one.epoch), EpochRow(one.phase, one.phase_index, one.epoch))
        row.values[f"{one.split} {one.name}"] = one.value
    return [rows[key] for key in sorted(rows)]


def newest_epoch(session: Session, run_id: str) -> list[EpochRow]:
    """The newest epoch alone, for the status line; empty before the first."""
    newest = select(func.max(Metric.epoch)).where(Metric.run_id == run_id).scalar_subquery()
    return epoch_rows(session.scalars(select(Metric).where(Metric.run_id == run_id, Metric.epoch == newest)).all())
