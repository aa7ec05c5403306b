"""A run done again with the same settings on the same pictures: did it come out the same?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session, aliased

from core.catalog import run_document
from core.tables import Prediction, Run, RunStatus, Split

TOLERANCE = 1e-3  # of a probability, on the same machine with as many threads; kernels elsewhere round otherwise
_MACHINE = ("processor", "threads", "versions")


@dataclass(frozen=True)
class Reproduction:
    """A run against the one it repeats.

    Attributes:
        first_id: the run that was repeated.
        equal_weights: phase kind -> whether backbone and head of its last phase are the same bit for bit.
        pictures: test pictures that both models answered.
        same_answer: on how many of them both name the same class.
        largest_difference: of a probability, over these pictures.
        same_machine: same processor, threads and versions, so that equality may be asked for.
    """

    first_id: str
    equal_weights: Mapping[str, bool]
    pictures: int
    same_answer: int
    largest_difference: float
    same_machine: bool

    @property
    def within_tolerance(self) -> bool:
        """Frozen weights equal, the same class on every picture, and no probability further apart than `TOLERANCE`."""
        frozen = self.equal_weights.get("frozen", True)
        return frozen and self.same_answer == self.pictures and self.largest_difference <= TOLERANCE


def reproduction(session: Session, run: Run) -> Reproduction | None:
    """Compare a run with the one it repeats (`retry_of`).

    None unless both have succeeded with the same config and batch size on the same dataset version.
    """
    first = session.get(Run, run.retry_of) if run.retry_of else None
    if first is None or first.owner_id != run.owner_id or first.deleted_at is not None:
        return None
    same = ("config", "batch_size", "dataset_version_id")
    if {first.status, run.status} != {RunStatus.SUCCEEDED} or any(getattr(first, n) != getattr(run, n) for n in same):
        return None
    results = [run_document(session, one.id, "result") or {} for one in (first, run)]
    weights = [_weights(result) for result in results]
    shared = weights[0].keys() & weights[1].keys()
    machines = [{name: result.get("machine", {}).get(name) for name in _MACHINE} for result in results]
    pictures, same_answer, largest = _answers(session, first, run)
    return Reproduction(
        first.id,
        {kind: weights[0][kind] == weights[1][kind] for kind in sorted(shared, key=("frozen", "fine_tune").index)},
        pictures,
        same_answer,
        largest,
        machines[0] == machines[1],
    )


def _weights(result: Mapping[str, Any]) -> dict[str, str]:
    """Phase kind -> SHA-256 of its weights, from a run's `result` document."""
    files = {row["path"]: row["sha256"] for row in result.get("files", [])}
    names = {kind: f"model/backbone_and_head/{kind}.npz" for kind in ("frozen", "fine_tune")}
    return {kind: files[name] for kind, name in names.items() if name in files}


def _answers(session: Session, first: Run, second: Run) -> tuple[int, int, float]:
    one, two = aliased(Prediction), aliased(Prediction)
    query = (
        select(one.predicted_label, two.predicted_label, one.probabilities, two.probabilities)
        .join_from(one, two, and_(one.image_id == two.image_id, one.split == two.split, two.run_id == second.id))
        .where(one.run_id == first.id, one.split == Split.TEST, two.phase == second.summary.get("chosen_phase"))
        .where(one.phase == first.summary.get("chosen_phase"))
        .execution_options(yield_per=1000)
    )
    pictures = same = 0
    largest = 0.0
    for said, again, before, after in session.execute(query):
        pictures += 1
        same += said == again
        largest = max(largest, *(abs(a - b) for a, b in zip(before, after, strict=True)))
    return pictures, same, largest
