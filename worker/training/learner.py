"""One phase's graph: forward, loss, step, moving average. Made anew for every phase, since a trace keeps what was trainable."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.training_config import PhaseBase
from worker.training.checkpoints import Arrays
from worker.training.schedules import make_optimizer

Logits = Callable[[Any, bool], Any]


@dataclass(frozen=True)
class Sums:
    """Sums over pictures: cross entropy (plain: no smoothing, no weights), right answers, pictures."""

    loss: float = 0.0
    right: float = 0.0
    pictures: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.loss + other.loss, self.right + other.right, self.pictures + other.pictures)

    @property
    def metrics(self) -> dict[str, float]:
        """Means, as an `epoch` event has them."""
        count = max(self.pictures, 1)
        return {"loss": self.loss / count, "accuracy": self.right / count}


@dataclass(frozen=True)
class Batches:
    """Some equal batches: x [k, b, ...], labels int32 [k, b], weights float32 [k, b], seeds int32 [k, b, 2]."""

    x: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    seeds: np.ndarray

    @property
    def pictures(self) -> int:
        """How many pictures these are."""
        return int(self.labels.size)


def logits_of(head: keras.Model, source: Any) -> Logits:
    """The head without its last activation: from the tensor `source` of its graph to float32 logits [n, units].

    A softmax is never asked for its logarithm this way, which would lose the gradient of sure answers.
    """
    dense = head.get_layer("head_dense")
    before = None if dense.input is source else keras.Model(source, dense.input)

    def logits(x: Any, training: bool) -> Any:
        hidden = x if before is None else before(x, training=training)
        return tf.matmul(tf.cast(hidden, tf.float32), dense.kernel) + dense.bias

    return logits


def cross_entropy(logits: Any, labels: Any, n_classes: int, smoothing: float) -> Any:
    """Cross entropy per picture, float32 [n]; one column of logits means a sigmoid for label 1.

    Smoothing gives every class `smoothing / n_classes` of each label (Szegedy et al., 2016).
    """
    if logits.shape[-1] == 1:
        target = tf.cast(labels, tf.float32) * (1.0 - smoothing) + smoothing / 2
        return tf.nn.sigmoid_cross_entropy_with_logits(target, logits[:, 0])
    target = tf.one_hot(labels, n_classes) * (1.0 - smoothing) + smoothing / n_classes
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


def answers(logits: Any) -> Any:
    """Label answered per picture, int32 [n]."""
    if logits.shape[-1] == 1:
        return tf.cast(logits[:, 0] > 0, tf.int32)
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


class Learner:
    """Trains some variables through a function that gives logits.

    Args:
        logits: (x, training) -> logits; BatchNorm statistics inside never move.
        augment: (x, seeds) -> x, in the loop; None where views are stored or pictures stay plain.
        variables: what learns.
        phase: optimizer, schedule, moving average.
        steps_per_epoch: of this phase.
        smoothing: label smoothing of the training loss.
        many: small inputs: one call of the graph takes many steps in a loop of its own.
    """

    def __init__(  # noqa: PLR0913 - what a phase's graph is made of
        self,
        logits: Logits,
        augment: Callable[[Any, Any], Any] | None,
        variables: Sequence[Any],
        phase: PhaseBase,
        *,
        steps_per_epoch: int,
        n_classes: int,
        smoothing: float,
        many: bool,
    ) -> None:
        self.variables = list(variables)
        self._logits, self._augment = logits, augment
        self._n_classes, self._smoothing = n_classes, smoothing
        self._steps_per_epoch, self._many = steps_per_epoch, many
        self.optimizer = make_optimizer(phase, steps_per_epoch)
        self.optimizer.build(self.variables)
        self._decay = phase.ema_decay
        self.average = (
            [tf.Variable(variable.value, trainable=False) for variable in self.variables] if self._decay else []
        )
        self._traced: dict[str, Any] = {}

    def _step(self, x: Any, labels: Any, weights: Any, seeds: Any) -> tuple[Any, Any]:
        if self._augment is not None:
            x = self._augment(x, seeds)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in self.variables:
                tape.watch(variable.value)
            logits = self._logits(x, True)
            loss = tf.reduce_mean(cross_entropy(logits, labels, self._n_classes, self._smoothing) * weights)
        self.optimizer.apply(tape.gradient(loss, [variable.value for variable in self.variables]), self.variables)
        self._follow()
        return self._sums(logits, labels)

    def _follow(self) -> None:
        """Move the average. It warms up as (1 + t) / (10 + t), so that few steps do not leave it at the start."""
        if not self.average:
            return
        step = tf.cast(self.optimizer.iterations.value, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + step) / (10.0 + step))
        for mean, variable in zip(self.average, self.variables, strict=True):
            mean.assign(mean * decay + (1.0 - decay) * variable.value)

    def _sums(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        loss = tf.reduce_sum(cross_entropy(logits, labels, self._n_classes, 0.0))
        right = tf.reduce_sum(tf.cast(answers(logits) == labels, tf.float32))
        return loss, right

    def _steps(self, x: Any, labels: Any, weights: Any, seeds: Any) -> tuple[Any, Any]:
        loss, right = tf.constant(0.0), tf.constant(0.0)
        for i in tf.range(tf.shape(x)[0]):
            one, hits = self._step(x[i], labels[i], weights[i], seeds[i])
            loss += one
            right += hits
        return loss, right

    def _judge_batch(self, x: Any, labels: Any) -> tuple[Any, Any]:
        return self._sums(self._logits(x, False), labels)

    def _call(self, name: str, function: Callable[..., Any], *arrays: np.ndarray, free: int) -> Any:
        """Call a traced function, traced once: the first `free` axes of its arrays may have any length."""
        if name not in self._traced:
            specs = [tf.TensorSpec((*[None] * free, *array.shape[free:]), array.dtype) for array in arrays]
            self._traced[name] = tf.function(function, input_signature=specs)
        return self._traced[name](*arrays)

    def train(self, batches: Batches) -> Sums:
        """Take the steps of some batches."""
        arrays = (batches.x, batches.labels, batches.weights, batches.seeds)
        if self._many:
            loss, right = self._call("steps", self._steps, *arrays, free=2)
        else:
            loss, right = self._call("step", self._step, *(array[0] for array in arrays), free=1)
        return Sums(float(loss), float(right), batches.pictures)

    def judge(self, x: np.ndarray, labels: np.ndarray) -> Sums:
        """Judge a batch of plain pictures with the weights as they are; no dropout."""
        loss, right = self._call("judge", self._judge_batch, x, labels, free=1)
        return Sums(float(loss), float(right), len(labels))

    def with_average(self, work: Callable[[], Any]) -> Any:
        """Do `work` with the moving average in place of the weights; as they are where there is no average."""
        if not self.average:
            return work()
        raw = [variable.numpy() for variable in self.variables]
        assign(self.variables, [mean.numpy() for mean in self.average])
        try:
            return work()
        finally:
            assign(self.variables, raw)

    def kept(self) -> list[np.ndarray]:
        """The weights that count now: the moving average where there is one."""
        return [variable.numpy() for variable in (self.average or self.variables)]

    def arrays(self) -> dict[str, Arrays]:
        """What a checkpoint needs to go on with this phase."""
        return {
            "now": numbered([variable.numpy() for variable in self.variables]),
            "optimizer": numbered([variable.numpy() for variable in self.optimizer.variables]),
            "average": numbered([variable.numpy() for variable in self.average]),
        }

    def restore(self, groups: dict[str, Arrays], phase_epoch: int) -> None:
        """Put back what `arrays` gave."""
        assign(self.variables, in_order(groups["now"]))
        assign(self.optimizer.variables, in_order(groups["optimizer"]))
        assign(self.average, in_order(groups["average"]))
        # The same number unless the batch size was halved meanwhile: then the schedule goes on from the same epoch.
        self.optimizer.iterations.assign(phase_epoch * self._steps_per_epoch)


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Set variables one by one."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def numbered(values: Sequence[np.ndarray]) -> Arrays:
    """A list of arrays under names that keep its order."""
    return {f"{number:05d}": np.asarray(value) for number, value in enumerate(values)}


def in_order(arrays: Arrays) -> list[np.ndarray]:
    """The list that `numbered` was given."""
    return [arrays[name] for name in sorted(arrays)]


def reseed(model: keras.Model, *key: int) -> None:
    """Set every random layer's sequence (dropout) to a start that only `key` decides: the same epoch, the same masks."""
    for layer in model.layers:
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            mixed = zlib.crc32(f"{key}/{layer.name}".encode())
            generator.state.assign(np.array([mixed, 0], dtype=generator.state.dtype))
