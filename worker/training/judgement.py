"""The judgement: scores of the test pictures from what the networks answered. Knows no network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from worker.training import statistics
from worker.training.class_curves import areas, curves
from worker.training.reliability import before_and_after, log_loss, thresholds
from worker.training.temperature import fit_temperature

_TOP_K = (2, 3, 5, 10)


@dataclass(frozen=True)
class Judged:
    """What one phase's network says.

    Attributes:
        test: probabilities float32 [n_test, classes].
        validation: probabilities float32 [n_validation, classes].
        temperature: by which these probabilities are scaled already, where the network has it inside; None: unscaled.
    """

    test: np.ndarray
    validation: np.ndarray
    temperature: float | None = None


def evaluation(
    judged: Mapping[str, Judged],
    labels: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    chosen: str,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """The body of evaluation.json.

    Args:
        judged: phase kind -> its answers.
        labels: `test` and `validation` -> int32 labels.
        chosen: phase kind of the model.
        groups: group of each test picture, int [n_test]; None: every picture by itself.
    """
    groups = np.arange(len(labels["test"])) if groups is None else groups
    phases = {kind: _phase(one, labels, class_names, groups) for kind, one in judged.items()}
    comparison = None
    if {"frozen", "fine_tune"} <= judged.keys():
        right = {kind: one.test.argmax(axis=1) == labels["test"] for kind, one in judged.items()}
        comparison = asdict(statistics.compare(right["frozen"], right["fine_tune"], chosen, groups))
    return {"split": "test", "chosen_phase": chosen, "phases": phases, "comparison": comparison}


def _phase(
    judged: Judged, labels: Mapping[str, np.ndarray], class_names: Sequence[str], groups: np.ndarray
) -> dict[str, Any]:
    truth, said = labels["test"], judged.test.argmax(axis=1)
    names = list(range(len(class_names)))
    right = said == truth
    interval = statistics.accuracy_interval(right, groups)
    per_class = _per_class(judged.test, truth, class_names)
    temperature, scaled = judged.temperature, judged.temperature is not None
    if not scaled:
        shown = labels["validation"]
        temperature = fit_temperature(statistics.logarithms(judged.validation), shown, np.arange(len(shown)))
    present = [row for row in per_class if row["support"]]
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": [interval.low, interval.high],
        "interval_method": interval.method,
        "groups": len(np.unique(groups)),
        "right": int(right.sum()),
        "pictures": len(truth),
        "loss": log_loss(judged.test, truth),
        "macro_f1": float(np.mean([row["f1"] for row in present])),
        "weighted_f1": sum(row["f1"] * row["support"] for row in present) / len(truth),
        "macro_roc_auc": _mean([row["roc_auc"] for row in per_class]),
        "macro_average_precision": _mean([row["average_precision"] for row in per_class]),
        "top_k": _top_k(judged.test, truth, groups),
        "per_class": per_class,
        "confusion_matrix": {
            "class_names": list(class_names),
            "counts": confusion_matrix(truth, said, labels=names).tolist(),
        },
        "curves": curves(judged.test, truth, class_names, [row["roc_auc"] for row in per_class]),
        "calibration": before_and_after(judged.test, truth, temperature, scaled=scaled),
        "thresholds": thresholds(judged.test, truth),
        "validation": {
            "accuracy": float(np.mean(judged.validation.argmax(axis=1) == labels["validation"])),
            "loss": log_loss(judged.validation, labels["validation"]),
        },
    }


def _per_class(probabilities: np.ndarray, truth: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    names = list(range(len(class_names)))
    columns = precision_recall_fscore_support(truth, probabilities.argmax(axis=1), labels=names, zero_division=0.0)
    precision, recall, f1, support = columns
    return [
        {
            "class_name": name,
            "precision": float(precision[label]),
            "recall": float(recall[label]),
            "f1": float(f1[label]),
            "support": int(support[label]),
            "roc_auc": roc,
            "average_precision": average,
        }
        for label, (name, (roc, average)) in enumerate(zip(class_names, areas(probabilities, truth), strict=True))
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _top_k(probabilities: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """How often the true class is among the first k, for each k below the number of classes."""
    ranks = (-probabilities).argsort(axis=1, kind="stable")
    place = (ranks == truth[:, None]).argmax(axis=1)
    rows = []
    for k in _TOP_K:
        if k < probabilities.shape[1]:
            interval = statistics.accuracy_interval(place < k, groups)
            rows.append({"k": k, "accuracy": float(np.mean(place < k)), "interval": [interval.low, interval.high]})
    return rows
