"""What every process that sees a GPU sets before TensorFlow's first operation."""

import tensorflow as tf


def set_up_gpus() -> None:
    """Memory as it is needed, as cards are shared (TensorFlow by itself takes most of it at its start); and float32 that is float32.

    TF32, which TensorFlow allows itself on newer cards, keeps ten bits of it: the download, computed on a processor, would not agree.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
