"""Features as the frozen phase of a quick run stores them, of pictures that are in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from core.presets import PRESETS
from worker.training.layers import PictureResizer
from worker.training.materials import frozen_part
from worker.training.network import build_network


def plain_features(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pooled features of uint8 pictures [h, w, 3], of length one: float32 [n, d], in float32 throughout."""
    config = PRESETS["quick"].config
    network = build_network(config, 2)
    frozen: Any = frozen_part(network, config.phases[0])[0]
    run = tf.function(lambda pixels: frozen(tf.cast(pixels, tf.float32), training=False))
    resize = PictureResizer(config.image_size, config.resize)
    found = [
        run(np.stack([np.asarray(resize(one)) for one in pictures[start : start + 32]])).numpy()
        for start in range(0, len(pictures), 32)
    ]
    rows = np.concatenate(found)
    directions: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return directions
