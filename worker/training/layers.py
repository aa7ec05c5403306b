"""Thaw's own layers: BatchNorm whose statistics stay, the one resize, and augmentation as one batched operation."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="thaw")
class FixedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm that always normalises by its stored statistics, whoever calls it.

    Keras 3 drops `training=False` given to a nested model once `fit` runs it with `trainable` layers, and the statistics move.
    Here they cannot: gamma and beta learn when `trainable`, mean and variance are constants in every phase.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: ARG002 - Keras' signature
        return super().call(inputs, training=False, mask=mask)
