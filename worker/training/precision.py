"""bfloat16 for the frozen parts, where the processor has it and real pictures confirm that it changes nothing that matters."""

import keras
import numpy as np
import tensorflow as tf

from worker.training.features import processor_class

_ENOUGH = 0.999  # cosine between the features of float32 and of bfloat16, the lowest of the pictures looked at


def processor_has_bfloat16() -> bool:
    """True with AVX-512 BF16, AMX BF16, or Arm BF16: without them bfloat16 is emulated and slow."""
    return any(flag in processor_class().split("-") for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def in_bfloat16(model: keras.Model) -> keras.Model:
    """A copy that computes in bfloat16 (its weights stay float32); preprocessing stays float32, pixels are exact in both."""

    def make(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer | keras.layers.Rescaling):
            config["dtype"] = "mixed_bfloat16"
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=make)
    copy.set_weights(model.get_weights())
    return copy


def bfloat16_agrees(frozen: keras.Model, pictures: np.ndarray) -> float:
    """Lowest cosine between float32 and bfloat16 features over some pictures, uint8 [n, H, W, 3]."""
    x = tf.cast(pictures, tf.float32)
    exact, fast = (_rows(tf.function(lambda x, m=m: m(x, training=False))(x)) for m in (frozen, in_bfloat16(frozen)))
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
    return float(np.min(np.sum(exact * fast, axis=1) / np.maximum(norms, 1e-12)))


def agrees(cosine: float) -> bool:
    """True when bfloat16 may be used."""
    return cosine > _ENOUGH


def _rows(values: object) -> np.ndarray:
    array = np.asarray(tf.cast(values, tf.float32))
    return array.reshape(len(array), -1)
