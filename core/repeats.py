"""Repeats of a run (one group, the same settings and version, seeds apart): how far the seed alone moves the test score."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import NotFound
from core.tables import Run

# Student's t, two-sided 95 %, for 1, 2, ... 49 degrees of freedom: a group has at most 50 runs
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604),
    *(2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555),
    *(2.0518, 2.0484, 2.0452, 2.0423, 2.0395, 2.0369, 2.0345, 2.0322, 2.0301, 2.0281, 2.0262, 2.0244, 2.0227),
    *(2.0211, 2.0195, 2.0181, 2.0167, 2.0154, 2.0141, 2.0129, 2.0117, 2.0106, 2.0096),
)


@dataclass(frozen=True)
class Spread:
    """The test accuracies of a group.

    Attributes:
        count: runs with a score.
        mean: of their test accuracies; None without one.
        deviation: sample standard deviation; None with fewer than two.
        lowest: lowest accuracy.
        highest: highest accuracy.
        interval: 95 % interval of the mean over seeds by Student's t, within 0..1; None with fewer than two. The test pictures are
            the same in every run: what other pictures would change is not in it.
    """

    count: int
    mean: float | None = None
    deviation: float | None = None
    lowest: float | None = None
    highest: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Group:
    """A group of repeats, oldest first."""

    runs: Sequence[Run]
    accuracy: Spread


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and interval of some accuracies."""
    if not values:
        return Spread(0)
    mean, lowest, highest = statistics.fmean(values), min(values), max(values)
    if len(values) < 2:
        return Spread(1, mean, None, lowest, highest)
    deviation = statistics.stdev(values)
    half = _T95[min(len(values) - 2, len(_T95) - 1)] * deviation / len(values) ** 0.5
    return Spread(len(values), mean, deviation, lowest, highest, (max(0.0, mean - half), min(1.0, mean + half)))


def find_group(session: Session, owner_id: str, group_id: str) -> Group:
    """A person's group of repeats; runs that were deleted count no more.

    Raises:
        NotFound: there is none.
    """
    query = (
        select(Run).where(Run.owner_id == owner_id, Run.group_id == group_id, Run.deleted_at.is_(None)).order_by(Run.id)
    )
    found = session.scalars(query).all()
    if not found:
        raise NotFound(f'There is no group of runs "{group_id}".')
    return Group(found, spread([run.test_accuracy for run in found if run.test_accuracy is not None]))
