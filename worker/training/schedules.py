"""Optimizers and learning rates as a phase names them."""

import math
from typing import Any

import keras
import tensorflow as tf

from core.training_config import PhaseBase


class PhaseSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from zero, then constant, a half cosine down to zero at the phase's end, or rate / (1 + decay * step).

    Args:
        phase: optimizer and schedule.
        steps_per_epoch: steps of one epoch of this phase.
    """

    def __init__(self, phase: PhaseBase, steps_per_epoch: int) -> None:
        super().__init__()
        self._rate = phase.optimizer.learning_rate
        self._shape = phase.schedule.name
        self._decay_rate = phase.schedule.decay_rate
        self._warm_up = phase.schedule.warmup_epochs * steps_per_epoch
        self._total = phase.epochs * steps_per_epoch

    def __call__(self, step: Any) -> Any:
        """Learning rate (scalar float32) of the step after `step` steps."""
        step = tf.cast(step, tf.float32)
        rate = self._after_warm_up(tf.maximum(step - self._warm_up, 0.0))
        if self._warm_up:
            rate *= tf.minimum((step + 1.0) / self._warm_up, 1.0)
        return rate

    def _after_warm_up(self, step: Any) -> Any:
        if self._shape == "cosine":
            share = tf.minimum(step / max(self._total - self._warm_up, 1.0), 1.0)
            return self._rate * 0.5 * (1.0 + tf.cos(math.pi * share))
        if self._shape == "inverse_time":
            return self._rate / (1.0 + self._decay_rate * step)
        return tf.constant(self._rate, tf.float32) + 0.0 * step

    def get_config(self) -> dict[str, Any]:
        """Keras' description; the schedule is never saved."""
        return {"rate": self._rate, "shape": self._shape}


def make_optimizer(phase: PhaseBase, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of a phase, unbuilt. Decoupled weight decay spares biases and BatchNorm's scale and shift."""
    wanted = phase.optimizer
    rate = PhaseSchedule(phase, steps_per_epoch)
    if wanted.name == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=wanted.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer
    if wanted.name == "sgd":
        return keras.optimizers.SGD(rate, momentum=wanted.momentum)
    if wanted.name == "rmsprop":
        return keras.optimizers.RMSprop(rate, momentum=wanted.momentum)
    return keras.optimizers.Adam(rate)
