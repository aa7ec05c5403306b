"""Where a network looked: Grad-CAM as a function inside the exported graph, and what people see of it.

It is a hint, not a proof: the map says where the features that spoke for a class lay, on a grid as coarse as the cut layer's.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from worker.training.learner import logits_of
from worker.training.network import Network
from worker.training.pictures import Pixels

_BOX_FROM = 0.5  # of the largest value: what lies in the rough box
_PAPER = 236.0  # grey that is mixed into what the answer did not rest on


def explaining(network: Network) -> Any:
    """Grad-CAM (Selvaraju et al., 2017) of a network, traced: for the exported module, which needs no Keras to answer it.

    Each channel of the cut layer's feature map is weighted by the mean of its gradient towards the class's logit. With a flatten
    head, gradient times activation is taken place by place instead (HiResCAM, Draelos and Carin, 2020): there every place has
    weights of its own, and their mean would say nothing. For a pooled linear head both are the same. A sigmoid head has one logit,
    which speaks for label 1 and, with its sign turned, for label 0.

    Returns:
        A tf.function: images uint8 [n, H, W, 3] already resized, labels int32 [n] -> float32 [n, h, w], at least 0; all 0 where nothing
        spoke for the class.
    """
    logits = logits_of(network.head, network.head.input)
    by_place = isinstance(network.head.get_layer("head_pooling"), keras.layers.Flatten)
    size = network.backbone.input.shape[1:3]
    specs = [
        tf.TensorSpec((None, *size, 3), tf.uint8, name="images"),
        tf.TensorSpec((None,), tf.int32, name="labels"),
    ]

    @tf.function(input_signature=specs)
    def explain(images: Any, labels: Any) -> Any:
        features = tf.cast(network.backbone(tf.cast(images, tf.float32), training=False), tf.float32)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(features)
            found = logits(features, False)
            if found.shape[-1] == 1:
                scores = tf.where(labels == 1, found[:, 0], -found[:, 0])
            else:
                scores = tf.gather(found, labels, axis=1, batch_dims=1)
        gradients = tape.gradient(scores, features)
        if not by_place:
            gradients = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(gradients * features, axis=-1))

    return explain


@dataclass(frozen=True)
class Heatmap:
    """What people see.

    Attributes:
        picture: uint8 [H, W, 3], the picture in colour where the answer rested, grey elsewhere.
        box: (left, top, right, bottom) as shares of the picture's width and height, around the largest connected part of at least half
            the greatest value; None where the map is empty.
    """

    picture: Pixels
    box: tuple[float, float, float, float] | None


def drawn(pixels: Pixels, found: np.ndarray) -> Heatmap:
    """Draw a map over its picture.

    Args:
        pixels: uint8 [H, W, 3], as the network saw it.
        found: float32 [h, w], from `explaining`.
    """
    height, width = pixels.shape[:2]
    peak = float(found.max())
    if peak <= 0:
        return Heatmap(_greyed(pixels, np.zeros((height, width))), None)
    small = Image.fromarray((found / peak).astype(np.float32))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(0.0, 1.0)
    return Heatmap(_greyed(pixels, smooth), _box(smooth))


def _greyed(pixels: Pixels, strength: np.ndarray) -> Pixels:
    share = np.sqrt(strength)[:, :, None]
    grey = pixels.mean(axis=2, keepdims=True) * 0.35 + _PAPER * 0.65
    mixed: Pixels = (pixels * share + grey * (1.0 - share)).round().clip(0, 255).astype(np.uint8)
    return mixed


def _box(smooth: np.ndarray) -> tuple[float, float, float, float]:
    numbers, _ = ndimage.label(smooth >= _BOX_FROM * smooth.max())
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    rows, columns = ndimage.find_objects((numbers == int(sizes.argmax())).astype(np.int32))[0]
    height, width = smooth.shape
    return columns.start / width, rows.start / height, columns.stop / width, rows.stop / height


def in_original(
    box: tuple[float, float, float, float], original: tuple[int, int], view: tuple[int, int], resize: str
) -> tuple[int, int, int, int]:
    """A box of the resized picture as pixels (left, top, right, bottom) of the upright original.

    Args:
        box: shares of the resized picture.
        original, view: (height, width) in pixels.
        resize: `crop`, `pad` or `squash`, as it was resized.
    """
    height, width = original
    scale = {"crop": min, "pad": max}.get(resize)
    across, down = float(width), float(height)  # what of the original the view shows, in its pixels
    if scale is not None:
        factor = scale(height / view[0], width / view[1])
        across, down = view[1] * factor, view[0] * factor
    left, top = (width - across) / 2, (height - down) / 2
    x0, x1 = (min(max(left + share * across, 0.0), width) for share in (box[0], box[2]))
    y0, y1 = (min(max(top + share * down, 0.0), height) for share in (box[1], box[3]))
    return round(x0), round(y0), round(x1), round(y1)
