"""Metrics of a run as one row per epoch: what the table under the curves shows and the curves are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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


def best_epochs(rows: Sequence[EpochRow]) -> dict[int, int]:
    """Phase index -> epoch with its lowest validation loss (the first of equals), which is the one a phase keeps."""
    best: dict[int, tuple[float, int]] = {}
    for row in rows:
        loss = row.get("validation", "loss")
        if loss is not None and (row.phase_index not in best or loss < best[row.phase_index][0]):
            best[row.phase_index] = (loss, row.epoch)
    return {index: epoch for index, (_, epoch) in best.items()}
