"""The judgement: test pictures once per phase kind, the chosen one through the exported graph itself."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from worker.training import statistics
from worker.training.class_curves import areas, curves
from worker.training.events import Place, Progress
from worker.training.materials import Workplace
from worker.training.network import Network, inference_model
from worker.training.reliability import before_and_after, log_loss, thresholds

_BATCH = 32
_TOP_K = (2, 3, 5, 10)
Answer = Callable[[np.ndarray], np.ndarray]


def choose(results: Sequence[Mapping[str, Any]], select: str) -> Mapping[str, Any]:
    """The phase that becomes the model, from validation alone.

    Args:
        results: finished phases, in order.
        select: `last`, or `validation`: the last fine-tune phase only when its validation accuracy is higher than the last frozen
            phase's, or equal with a lower loss.
    """
    last = last_of_each_kind(results)
    if select == "last" or len(last) == 1:
        return results[-1]
    frozen, tuned = last["frozen"], last["fine_tune"]
    one, other = frozen["validation"], tuned["validation"]
    wins = (other["accuracy"], -other["loss"]) > (one["accuracy"], -one["loss"])
    return tuned if wins else frozen


def last_of_each_kind(results: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Kind -> the last finished phase of that kind."""
    return {result["phase"]: result for result in results}


def exported_graph(saved_model: Path) -> Answer:
    """The download as it will answer: its signature for resized pictures, uint8 [n, H, W, 3] -> float32 [n, classes]."""
    loaded = tf.saved_model.load(str(saved_model))
    signature = loaded.signatures["serving_resized"]

    def answer(pixels: np.ndarray, keep: Any = loaded) -> np.ndarray:  # noqa: ARG001 - the signature dies with `loaded`
        probabilities: np.ndarray = signature(images=tf.constant(pixels))["probabilities"].numpy()
        return probabilities

    return answer


def trained_graph(network: Network) -> Answer:
    """The network as it answers without augmentation and dropout: the same form that is exported."""
    model = inference_model(network)
    spec = tf.TensorSpec((None, *model.input.shape[1:]), tf.uint8)
    traced = tf.function(lambda pixels: model(pixels, training=False), input_signature=[spec])

    def answer(pixels: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = traced(pixels).numpy()
        return probabilities

    return answer


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


def ask(work: Workplace, answer: Answer, message: str) -> Judged:
    """Probabilities of every test and validation picture, from the decoded cache."""
    sides = [work.positions("test"), work.positions("validation")]
    total = sum(len(side) for side in sides)
    steps = sum(-(-len(side) // _BATCH) for side in sides)
    progress = Progress(work.speaker, Place("evaluate", message=message), steps, total)
    step = done = 0
    found = []
    for positions in sides:
        parts = []
        for first in range(0, len(positions), _BATCH):
            work.orders.check()
            parts.append(answer(work.pictures.batch(positions[first : first + _BATCH])))
            step, done = step + 1, done + len(parts[-1])
            progress.at(step, done)
        found.append(np.concatenate(parts))
    return Judged(found[0], found[1])


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
        temperature = statistics.fit_temperature(judged.validation, labels["validation"])
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


def write_predictions(file: TextIO, work: Workplace, kind: str, judged: Judged) -> None:
    """Append one line per test and validation picture."""
    file.writelines(json.dumps(row) + "\n" for row in _rows(work, kind, judged))


def _rows(work: Workplace, kind: str, judged: Judged) -> Iterator[dict[str, Any]]:
    for split, probabilities in (("test", judged.test), ("validation", judged.validation)):
        for position, answer in zip(work.positions(split), probabilities, strict=True):
            yield {
                "image_id": work.folder.pictures.ids[position],
                "phase": kind,
                "split": split,
                "true_label": int(work.folder.pictures.labels[position]),
                "predicted_label": int(answer.argmax()),
                "probabilities": [round(float(value), 6) for value in answer],
            }
