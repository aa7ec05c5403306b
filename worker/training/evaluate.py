"""Asking the networks: test pictures once per phase kind, the chosen one through the exported graph itself."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from worker.training.events import Place, Progress
from worker.training.judgement import Judged
from worker.training.materials import Workplace
from worker.training.network import Network, inference_model

BATCH = 32  # pictures of 224 x 224 pixels
Answer = Callable[[np.ndarray], np.ndarray]


def choose(results: Sequence[Mapping[str, Any]], select: str) -> Mapping[str, Any]:
    """The phase that becomes the model, from validation alone.

    Args:
        results: finished phases, in order.
        select: `last`; `validation`: the last fine-tune phase only when its validation accuracy is higher than the last frozen phase's,
            or equal with a lower loss; `validation_loss`: only when its validation loss is lower.
    """
    last = last_of_each_kind(results)
    if select == "last" or len(last) == 1:
        return results[-1]
    frozen, tuned = last["frozen"], last["fine_tune"]
    one, other = frozen["validation"], tuned["validation"]
    by_loss = other["loss"] < one["loss"]
    if select == "validation_loss" or other["accuracy"] == one["accuracy"]:
        return tuned if by_loss else frozen
    return tuned if other["accuracy"] > one["accuracy"] else frozen


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


def ask(work: Workplace, answer: Answer, message: str) -> Judged:
    """Probabilities of every test and validation picture, from the decoded cache."""
    sides = [work.positions("test"), work.positions("validation")]
    total = sum(len(side) for side in sides)
    size = work.folder.at_once(BATCH)
    steps = sum(-(-len(side) // size) for side in sides)
    progress = Progress(work.speaker, Place("evaluate", message=message), steps, total)
    step = done = 0
    found = []
    for positions in sides:
        parts = []
        for first in range(0, len(positions), size):
            work.orders.check()
            parts.append(answer(work.pictures.batch(positions[first : first + size])))
            step, done = step + 1, done + len(parts[-1])
            progress.at(step, done)
        found.append(np.concatenate(parts))
    return Judged(found[0], found[1])


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
