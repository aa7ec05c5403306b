"""A finished run as people judge it: what helped, who is taken for whom, which pictures, whether its confidence can be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.pages.robustness_card import RobustnessCard, robustness_card
from app.pages.score_charts import ClassCurves, Reliability, Thresholds, class_curves, reliabilities, threshold_chart
from app.wording import scale_from, wilson
from core.catalog import PredictionWish, images_by_id, predictions, run_document
from core.errors import FieldProblem, InputInvalid
from core.tables import Prediction, Run, VersionImage

SIGNIFICANT = 0.05
CELL_PICTURES = 12
MISTAKES = 12
TOO_WIDE = 0.4
MOST_MATRIX = 40
MOST_CLASSES = 200
CLASS_SORT = "recall"
CLASS_SORTS = ("class_name", "support", "precision", "recall", "f1", "missed", "false")


@dataclass(frozen=True)
class PhaseScore:
    """The test score of the last phase of one kind; `groups` where the interval was made by drawing whole groups."""

    kind: str
    accuracy: float
    interval: tuple[float, float]
    right: int
    loss: float | None
    chosen: bool
    groups: int | None = None
    macro_f1: float | None = None
    weighted_f1: float | None = None
    top_k: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Verdict:
    """What fine-tuning did, as a head and the facts under it; `points`: difference of the accuracies in per cent points."""

    head: str
    gained: int | None = None
    lost: int | None = None
    p_value: float | None = None
    points: float | None = None
    points_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix. `heat` 0 to 4: how large a share of the row went wrong here."""

    label: int
    class_name: str
    count: int
    heat: int
    right: bool


@dataclass(frozen=True)
class MatrixRow:
    """What became of the test pictures of one class."""

    label: int
    class_name: str
    cells: Sequence[Cell]
    total: int


@dataclass(frozen=True)
class Confusion:
    """A pair of classes that the network confuses."""

    true_label: int
    predicted_label: int
    true_name: str
    predicted_name: str
    count: int
    share: float


@dataclass(frozen=True)
class ClassScore:
    """Precision and recall of a class with their intervals. None where nothing was said or there are no pictures."""

    class_name: str
    support: int
    precision: float | None
    precision_interval: tuple[float, float]
    recall: float | None
    recall_interval: tuple[float, float]
    f1: float | None
    said: int
    missed: int
    false: int


@dataclass(frozen=True)
class Lookalike:
    """A training picture that a test picture looks like; not `present` once its dataset is deleted."""

    image_id: str
    class_name: str
    present: bool


@dataclass(frozen=True)
class Shown:
    """A picture with what was said of it; `place` is None once its dataset is deleted."""

    prediction: Prediction
    place: VersionImage | None
    true_name: str
    predicted_name: str
    alike: Sequence[Lookalike] = ()


@dataclass(frozen=True)
class ChosenCell:
    """The pictures of one cell of the matrix."""

    true_label: int
    predicted_label: int
    true_name: str
    predicted_name: str
    pictures: Sequence[Shown]
    more: bool


@dataclass(frozen=True)
class Judged:
    """Everything about the test split of a finished run, of one of its phases."""

    phase: str
    chosen_phase: str
    count: int
    looks: int
    scores: Sequence[PhaseScore]
    best: PhaseScore
    scale: float
    verdict: Verdict
    rows: Sequence[MatrixRow]
    class_count: int
    confusions: Sequence[Confusion]
    classes: Sequence[ClassScore]
    class_scale: float
    class_sort: str
    mistakes: Sequence[Shown]
    mistakes_total: int
    next_cursor: str | None
    cell: ChosenCell | None
    reliability: Sequence[Reliability]
    temperature: float | None
    thresholds: Thresholds | None
    curves: ClassCurves | None
    robustness: RobustnessCard | None


@dataclass(frozen=True)
class JudgeWish:
    """What the page is asked to show."""

    phase: str = ""
    true_label: int | None = None
    predicted_label: int | None = None
    cursor: str = ""
    class_sort: str = ""
    curve: str = ""


def judge(session: Session, run: Run, evaluation: Mapping[str, Any], looks: int, wish: JudgeWish) -> Judged:
    """Read what the page of a finished run shows about the test split.

    Args:
        session: for the pictures.
        run: the run.
        evaluation: body of the document `evaluation`.
        looks: how many runs have been scored on this test split.
        wish: phase, cell and page.
    """
    chosen = str(run.summary.get("chosen_phase") or next(reversed(evaluation["phases"])))
    phase = wish.phase if wish.phase in evaluation["phases"] else chosen
    found = evaluation["phases"][phase]
    matrix = found["confusion_matrix"]
    names, counts = matrix["class_names"], matrix["counts"]
    scores = [_phase_score(kind, one, kind == chosen) for kind, one in evaluation["phases"].items()]
    best = next((one for one in scores if one.chosen), scores[-1])
    class_sort = wish.class_sort or CLASS_SORT
    classes = sorted_classes(class_scores(names, counts), class_sort)
    page = predictions(
        session,
        run.id,
        PredictionWish(phase=phase, wrong_only=True, limit=MISTAKES, cursor=wish.cursor or None),
    )
    total = sum(map(sum, counts))
    calibration = found.get("calibration") or {}
    return Judged(
        phase=phase,
        chosen_phase=chosen,
        count=total,
        looks=looks,
        scores=scores,
        best=best,
        scale=scale_from(one.interval for one in scores),
        verdict=verdict_of(scores, evaluation.get("comparison"), total),
        rows=matrix_rows(names, counts),
        class_count=len(names),
        confusions=confusions(names, counts),
        classes=classes[:MOST_CLASSES],
        class_scale=scale_from([one.recall_interval for one in classes] + [one.precision_interval for one in classes]),
        class_sort=class_sort,
        mistakes=_with_lookalikes(session, run, _shown(session, run, names, page.items)),
        mistakes_total=total - sum(counts[index][index] for index in range(len(names))),
        next_cursor=page.next_cursor,
        cell=_cell(session, run, names, phase, wish),
        reliability=reliabilities(calibration) if calibration else [],
        temperature=calibration.get("temperature"),
        thresholds=threshold_chart(found.get("thresholds")),
        curves=class_curves(found, wish.curve),
        robustness=robustness_card(evaluation.get("robustness"), total) if phase == chosen else None,
    )


def _phase_score(kind: str, found: Mapping[str, Any], chosen: bool) -> PhaseScore:
    low, high = found["accuracy_interval"]
    counts = found["confusion_matrix"]["counts"]
    right = sum(row[index] for index, row in enumerate(counts))
    return PhaseScore(
        kind,
        found["accuracy"],
        (low, high),
        right,
        found.get("loss"),
        chosen,
        groups=found.get("groups") if found.get("interval_method") == "cluster_bootstrap" else None,
        macro_f1=found.get("macro_f1"),
        weighted_f1=found.get("weighted_f1"),
        top_k=[(one["k"], one["accuracy"]) for one in found.get("top_k", ())],
    )


def verdict_of(scores: Sequence[PhaseScore], comparison: Mapping[str, Any] | None, count: int) -> Verdict:
    """What fine-tuning did on the test pictures; a tie is called a tie."""
    if len(scores) < 2 or not comparison:
        return Verdict("A head on the frozen backbone" if scores[0].kind == "frozen" else "Trained as a whole")
    gained, lost = int(comparison["gained"]), int(comparison["lost"])
    p_value = float(comparison["p_value"])
    if p_value < SIGNIFICANT:
        head = "Fine-tuning helped" if gained > lost else "Fine-tuning hurt"
    else:
        wide = max(one.interval[1] - one.interval[0] for one in scores) > TOO_WIDE
        head = "Too few test pictures to tell" if count < 20 or wide else "No difference shown"
    if "difference" not in comparison:  # an evaluation of an earlier version
        return Verdict(head, gained, lost, p_value)
    low, high = comparison["difference_interval"]
    return Verdict(head, gained, lost, p_value, comparison["difference"] * 100, (low * 100, high * 100))


def matrix_rows(names: Sequence[str], counts: Sequence[Sequence[int]], most: int = MOST_MATRIX) -> list[MatrixRow]:
    """Rows of the matrix with the heat of their cells; of many classes, those that are confused most."""
    labels = _most_confused(counts, most)
    rows = []
    for label in labels:
        row, total = counts[label], sum(counts[label])
        cells = [
            Cell(column, names[column], row[column], _heat(row[column], total), label == column) for column in labels
        ]
        rows.append(MatrixRow(label, names[label], cells, total))
    return rows


def _most_confused(counts: Sequence[Sequence[int]], most: int) -> list[int]:
    labels = list(range(len(counts)))
    if len(labels) <= most:
        return labels
    wrong = [sum(row) - row[label] for label, row in enumerate(counts)]
    for row_label, row in enumerate(counts):
        for label, count in enumerate(row):
            wrong[label] += count if label != row_label else 0
    return sorted(sorted(labels, key=lambda label: -wrong[label])[:most])


def _heat(count: int, total: int) -> int:
    share = count / total if total else 0.0
    return 0 if not count else 1 + sum(share >= limit for limit in (0.04, 0.1, 0.25))


def confusions(names: Sequence[str], counts: Sequence[Sequence[int]], most: int = 6) -> list[Confusion]:
    """The pairs that are confused most often."""
    found = [
        Confusion(true, said, names[true], names[said], count, count / sum(row))
        for true, row in enumerate(counts)
        for said, count in enumerate(row)
        if true != said and count
    ]
    return sorted(found, key=lambda one: (-one.count, -one.share))[:most]


def class_scores(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[ClassScore]:
    """Per class, from the counts, in the order of the labels."""
    said = [sum(row[label] for row in counts) for label in range(len(names))]
    rows = []
    for label, name in enumerate(names):
        right, support = counts[label][label], sum(counts[label])
        precision = right / said[label] if said[label] else None
        recall = right / support if support else None
        rows.append(
            ClassScore(
                class_name=name,
                support=support,
                precision=precision,
                precision_interval=wilson(right, said[label]),
                recall=recall,
                recall_interval=wilson(right, support),
                f1=2 * right / (support + said[label]) if support + said[label] else None,
                said=said[label],
                missed=support - right,
                false=said[label] - right,
            )
        )
    return rows


def sorted_classes(rows: Sequence[ClassScore], sort: str) -> list[ClassScore]:
    """By a column, with a leading minus for descending; ties by name, classes without a value last.

    Raises:
        InputInvalid: there is no such column.
    """
    name = sort.removeprefix("-")
    if name not in CLASS_SORTS:
        message = f'classes: one of {", ".join(CLASS_SORTS)}, with "-" for descending. Received: {sort[:80]!r}.'
        raise InputInvalid(message, problems=(FieldProblem("classes", message, sort[:80]),))
    named = sorted(rows, key=lambda row: row.class_name)
    known = [row for row in named if getattr(row, name) is not None]
    return [
        *sorted(known, key=lambda row: getattr(row, name), reverse=sort.startswith("-")),
        *(row for row in named if getattr(row, name) is None),
    ]


def _shown(session: Session, run: Run, names: Sequence[str], found: Sequence[Prediction]) -> list[Shown]:
    places = images_by_id(session, run.dataset_version_id, [one.image_id for one in found])
    return [Shown(one, places.get(one.image_id), names[one.true_label], names[one.predicted_label]) for one in found]


def _with_lookalikes(session: Session, run: Run, mistakes: Sequence[Shown]) -> list[Shown]:
    document = run_document(session, run.id, "neighbours")
    found = lookalikes(session, run, document, [one.prediction.image_id for one in mistakes])
    return [replace(one, alike=found.get(one.prediction.image_id, ())) for one in mistakes]


def lookalikes(
    session: Session, run: Run, document: Mapping[str, Any] | None, image_ids: Sequence[str]
) -> dict[str, list[Lookalike]]:
    """The nearest training pictures of these test pictures, from the document `neighbours`: picture id -> pictures."""
    nearest = (document or {}).get("nearest", {})
    rows = {one: nearest[one] for one in image_ids if one in nearest}
    names = (document or {}).get("class_names", [])
    places = images_by_id(session, run.dataset_version_id, [other for row in rows.values() for other, *_ in row])
    return {
        one: [
            Lookalike(other, names[label] if label < len(names) else str(label), other in places)
            for other, label, _ in row
        ]
        for one, row in rows.items()
    }


def _cell(session: Session, run: Run, names: Sequence[str], phase: str, wish: JudgeWish) -> ChosenCell | None:
    true, said = wish.true_label, wish.predicted_label
    if true is None or said is None:
        return None
    if not (0 <= true < len(names) and 0 <= said < len(names)):
        message = f"A label is a number from 0 to {len(names) - 1}. Received: {true} and {said}."
        raise InputInvalid(message, problems=(FieldProblem("true", message, true),))
    asked = PredictionWish(phase=phase, true_label=true, predicted_label=said, limit=CELL_PICTURES)
    page = predictions(session, run.id, asked)
    pictures = _shown(session, run, names, page.items)
    return ChosenCell(true, said, names[true], names[said], pictures, page.next_cursor is not None)
