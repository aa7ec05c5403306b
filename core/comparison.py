"""Two finished runs on the same test pictures: which pictures only one of them has right, and whether that can be chance."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session, aliased

from core.tables import Prediction, Run, RunStatus, Split, VersionImage
from core.units import Units, units_of_test

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Paired:
    """The second of two runs against the first, picture by picture.

    Attributes:
        gained: test pictures that only the second has right.
        lost: test pictures that only the first has right.
        count: all test pictures.
        p_value: exact two-sided McNemar test in which the pictures of one unit (a group, near duplicates) share one vote.
    """

    gained: int
    lost: int
    count: int
    p_value: float

    @property
    def verdict(self) -> Literal["ahead", "behind", "tie"]:
        """`tie` when the difference may be chance, else what the second one is: `ahead` or `behind`."""
        if self.p_value >= SIGNIFICANT:
            return "tie"
        return "ahead" if self.gained > self.lost else "behind"


@dataclass(frozen=True)
class Disagreement:
    """A test picture that one run has right and the other has not."""

    image_id: str
    true_label: int
    wrong_label: int


def exact_mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact test (binomial, one half) of Q. McNemar, Psychometrika 12 (1947); 1 without a difference."""
    both = gained + lost
    fewer = sum(math.comb(both, count) for count in range(min(gained, lost) + 1))
    return min(1.0, float((2 * fewer) / (1 << both)))


def comparable(runs: Sequence[Run]) -> bool:
    """Whether the runs were scored on the same test pictures with the same classes."""
    return len({run.test_fingerprint for run in runs}) == 1


def paired(session: Session, first: Run, second: Run) -> Paired | None:
    """Compare the model of the second run with that of the first; None where they cannot be compared.

    They can when both have succeeded, their test fingerprints are equal, and both have answered every one of these pictures.
    """
    if not comparable([first, second]) or {first.status, second.status} != {RunStatus.SUCCEEDED}:
        return None
    one, two = aliased(Prediction), aliased(Prediction)
    right = (one.true_label == one.predicted_label, two.true_label == two.predicted_label)
    asked: Any = select(*right, func.count())
    query = _joined(asked, one, two, first, second).group_by(*right)
    counts = {(bool(a), bool(b)): int(count) for a, b, count in session.execute(query)}
    count = sum(counts.values())
    if not count or any(_answered(session, run) != count for run in (first, second)):
        return None
    gained, lost = counts.get((False, True), 0), counts.get((True, False), 0)
    return Paired(gained, lost, count, _p_value(session, first, second))


def _p_value(session: Session, first: Run, second: Run) -> float:
    """McNemar's exact test over units: each counts once, by what most of its differing pictures say.

    Copies of one picture go right and wrong together; counted one by one they would show a difference that is none. 1 where units and
    pictures point opposite ways, which shows nothing.
    """
    one, two = aliased(Prediction), aliased(Prediction)
    right = two.true_label == two.predicted_label
    query = _joined(select(two.image_id, VersionImage.group, right), one, two, first, second)
    version_id = first.dataset_version_id or second.dataset_version_id
    its_row = and_(VersionImage.version_id == version_id, VersionImage.image_id == two.image_id)
    differ = (one.true_label == one.predicted_label) != right
    rows = session.execute(query.outerjoin(VersionImage, its_row).where(differ)).all()
    # Of a version that was deleted nothing is known: each picture is by itself.
    units, net = units_of_test(session, version_id) if rows and version_id else Units(()), Counter[str]()
    for image_id, group, gains in rows:
        net[units.of(image_id, group) or f"/{image_id}"] += 1 if gains else -1
    gained, lost = sum(value > 0 for value in net.values()), sum(value < 0 for value in net.values())
    return exact_mcnemar(gained, lost) if (gained - lost) * net.total() > 0 else 1.0


def only_right(session: Session, first: Run, second: Run, limit: int) -> list[Disagreement]:
    """Test pictures that the first run has right and the second has not, those that the second was surest of first."""
    one, two = aliased(Prediction), aliased(Prediction)
    asked = select(two.image_id, two.true_label, two.predicted_label)
    query = _joined(asked, one, two, first, second)
    query = query.where(one.true_label == one.predicted_label, two.true_label != two.predicted_label)
    rows = session.execute(query.order_by(two.true_probability, two.image_id).limit(limit))
    return [Disagreement(*row) for row in rows]


def _joined(query: Any, one: Any, two: Any, first: Run, second: Run) -> Any:
    """Both runs' answers on the same test pictures, side by side; `true_label` is the same by the fingerprint."""
    return query.join_from(one, two, and_(one.image_id == two.image_id, _of(two, second))).where(_of(one, first))


def _of(table: Any, run: Run) -> ColumnElement[bool]:
    chosen = run.summary.get("chosen_phase")
    return and_(table.run_id == run.id, table.phase == chosen, table.split == Split.TEST)


def _answered(session: Session, run: Run) -> int:
    return session.scalar(select(func.count()).select_from(Prediction).where(_of(Prediction, run))) or 0
