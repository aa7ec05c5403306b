"""A GPU is shared: whoever uses it takes its memory as it needs it. TensorFlow by itself takes most of it at its start."""

import tensorflow as tf


def take_as_needed() -> None:
    """Set that for every GPU that this process sees. Before TensorFlow's first operation."""
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
