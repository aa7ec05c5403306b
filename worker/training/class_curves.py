"""Each class against the rest: ROC and precision-recall, as areas and as thinned curves (scikit-learn)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

MOST_CLASSES = 60  # with curves; areas are there for every class
_POINTS = 41


def areas(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[float | None, float | None]]:
    """(area under the ROC curve, average precision) of each class against the rest; None where one side has no picture."""
    found: list[tuple[float | None, float | None]] = []
    for label in range(probabilities.shape[1]):
        is_class = labels == label
        if not is_class.any() or is_class.all():
            found.append((None, None))
            continue
        scores = probabilities[:, label]
        found.append((float(roc_auc_score(is_class, scores)), float(average_precision_score(is_class, scores))))
    return found


def curves(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str], roc_areas: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Curves of each class that has an area; of more than 60, those that are told apart worst.

    Returns:
        `{class_name, roc: {false_positive_rate, true_positive_rate}, precision_recall: {recall, precision}}`, at most 41 points a curve.
    """
    known = [(area, label) for label, area in enumerate(roc_areas) if area is not None]
    chosen = sorted(label for _, label in sorted(known)[:MOST_CLASSES])
    rows = []
    for label in chosen:
        is_class = labels == label
        false, true, _ = roc_curve(is_class, probabilities[:, label])
        precision, recall, _ = precision_recall_curve(is_class, probabilities[:, label])
        kept = _kept(len(false)), _kept(len(recall))
        rows.append(
            {
                "class_name": class_names[label],
                "roc": {"false_positive_rate": _rounded(false[kept[0]]), "true_positive_rate": _rounded(true[kept[0]])},
                "precision_recall": {
                    "recall": _rounded(recall[::-1][kept[1]]),
                    "precision": _rounded(precision[::-1][kept[1]]),
                },
            }
        )
    return rows


def _kept(count: int) -> np.ndarray:
    """Places of the points that stay, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
