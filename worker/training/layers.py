"""Thaw's own layers: BatchNorm whose statistics stay, the one resize, and augmentation as one batched operation."""

import math
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from core.training_config import Augmentation
from worker.training.affine import moved

ResizeMode = Literal["crop", "pad", "squash"]
_PADDED_PIXELS = 64_000_000  # a padded square larger than this would cost gigabytes for a sliver of a picture
_RANDOM_NUMBERS = 9  # and a tenth, drawn by itself, so that these stay as they are
_PACKET = 16  # float32 numbers in the widest registers


@keras.saving.register_keras_serializable(package="thaw")
class FixedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm that always normalises by its stored statistics, whoever calls it.

    Keras 3 drops `training=False` given to a nested model once `fit` runs it with `trainable` layers, and the statistics move.
    Here they cannot: gamma and beta learn when `trainable`, mean and variance are constants in every phase.

    Attributes:
        settling: true while an untrained network gets its first statistics (see `settle_statistics`), before any phase.
    """

    settling = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: ARG002 - Keras' signature
        return super().call(inputs, training=self.settling, mask=mask)


def build_resizer(image_size: tuple[int, int], mode: ResizeMode) -> keras.Model:
    """The one resize of Thaw: decoded cache, prediction and export all use it, or the download would answer differently.

    Antialiased and rounded, of Keras' own layers only, so that a `.keras` file of it opens in safe mode. Mode "crop" keeps the
    aspect and the centre, "pad" keeps the aspect and adds black, "squash" keeps neither.

    Args:
        image_size: (height, width) in pixels that come out.
        mode: as in TrainingConfig.resize.

    Returns:
        A functional model: uint8 [n, h, w, 3] at any h and w -> uint8 [n, height, width, 3].
    """
    pictures = keras.Input((None, None, 3), dtype="uint8", name="images")
    resize = keras.layers.Resizing(
        *image_size,
        antialias=True,
        crop_to_aspect_ratio=mode == "crop",
        pad_to_aspect_ratio=mode == "pad",
        dtype="float32",
        name="resize",
    )
    resized = keras.ops.cast(keras.ops.round(resize(pictures)), "uint8")
    return keras.Model(pictures, resized, name="resizer")


class PictureResizer:
    """`build_resizer` for one picture at a time, traced once for all sizes."""

    def __init__(self, image_size: tuple[int, int], mode: ResizeMode) -> None:
        self._mode = mode
        resizer = build_resizer(image_size, mode)
        shape = tf.TensorSpec((1, None, None, 3), tf.uint8)
        self._call = tf.function(resizer, input_signature=[shape]).get_concrete_function()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize uint8 [h, w, 3] to uint8 [height, width, 3]."""
        if self._mode == "pad":
            pixels = _thinned(pixels)
        resized: NDArray[np.uint8] = self._call(tf.constant(pixels[None])).numpy()[0]
        return resized


def _thinned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Leave out pixels of a very long sliver, whose padded square would not fit into memory."""
    step = math.ceil(max(pixels.shape[:2]) / math.sqrt(_PADDED_PIXELS))
    return pixels[::step, ::step] if step > 1 else pixels


def picture_seeds(seed: int, turn: int | NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int32]:
    """Seeds int32 [n, 2] for AugmentationLayer: one per picture, the same whatever batch it comes in.

    Args:
        seed: of the run.
        turn: number of the epoch or the view, one for all or int64 [n].
        positions: int [n], the pictures' places in the run's list.
    """
    mixed = (seed * 1_000_003 + np.broadcast_to(turn, len(positions)) * 7_919) % (2**31 - 1)
    return np.stack([mixed, positions], axis=1).astype(np.int32)


class AugmentationLayer(keras.layers.Layer):
    """Random flip, turn, shift, shear and zoom as one affine operation for the whole batch, then brightness and contrast.

    With `seeds` every picture gets the change its seed decides. Without, changes come from the layer's own seed and a count of
    its calls, and only while training. Never part of an export.

    Args:
        augmentation: ranges of the random changes.
        seed: of the layer's own sequence.
    """

    def __init__(self, augmentation: Augmentation, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.augmentation = augmentation
        self.seed = seed
        self.calls = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="calls")

    def call(self, images: Any, seeds: Any = None, training: bool | None = None) -> Any:
        """Change pictures.

        Args:
            images: uint8 or float [n, h, w, 3], values 0..255.
            seeds: int32 [n, 2], see `picture_seeds`; None: the layer's own.
            training: without seeds, nothing is changed unless true.

        Returns:
            Same shape, dtype and range; uint8 is rounded.
        """
        if seeds is None:
            if not training:
                return images
            seeds = self._own_seeds(tf.shape(images)[0])
        if self.augmentation.changes_nothing:
            return images
        changed = self.changed(images, seeds)
        if images.dtype == tf.uint8:
            return tf.cast(tf.round(changed), tf.uint8)
        return tf.cast(changed, images.dtype)

    def changed(self, images: Any, seeds: Any) -> Any:
        """Pictures changed as their seeds say, not rounded: uint8 or float [n, h, w, 3], int32 [n, 2] -> float32 [n, h, w, 3]."""
        draws = tf.map_fn(self._drawn, tf.convert_to_tensor(seeds), fn_output_signature=tf.float32)
        return self._colour(self._move(images, draws), draws)

    def _drawn(self, seed: Any) -> Any:
        """A picture's random numbers, float32 [10] in -1..1, from its seed int32 [2]."""
        numbers = tf.random.stateless_uniform((_RANDOM_NUMBERS,), seed, -1.0, 1.0)
        if not self.augmentation.zoom:
            return tf.pad(numbers, [[0, 1]])
        other = tf.random.experimental.stateless_fold_in(seed, _RANDOM_NUMBERS)
        return tf.concat([numbers, tf.random.stateless_uniform((1,), other, -1.0, 1.0)], axis=0)

    def _own_seeds(self, count: Any) -> Any:
        call = self.calls.assign_add(1)
        return tf.stack([tf.fill((count,), self.seed ^ tf.cast(call, tf.int32)), tf.range(count)], axis=1)

    def _move(self, images: Any, draws: Any) -> Any:
        wanted = self.augmentation
        geometric = (*wanted.shift, wanted.rotation_degrees, wanted.shear_degrees, wanted.zoom)
        if not (wanted.horizontal_flip or wanted.vertical_flip or any(geometric)):
            return tf.cast(images, tf.float32)
        height, width = images.shape[1:3]
        # in whole packets: a processor's sine of the few numbers after the last one differs in its last digit
        count = tf.shape(draws)[0]
        whole = tf.pad(draws, [[0, -count % _PACKET], [0, 0]])
        transforms = self._transforms(whole, (float(height), float(width)))[:count]
        return moved(images, transforms, wanted.fill_mode)

    def _transforms(self, draws: Any, size: Any) -> Any:
        """[n, 6]: where each output pixel (x, y) is taken from; turn, shear and zoom (by axis) about the centre, then flips and shifts."""
        wanted = self.augmentation
        turn = draws[:, 0] * math.radians(wanted.rotation_degrees)
        shear = draws[:, 1] * math.radians(wanted.shear_degrees)
        zoom_x, zoom_y = (1.0 / (1.0 + draws[:, number] * wanted.zoom) for number in (2, _RANDOM_NUMBERS))
        flip_x = tf.where((draws[:, 3] < 0) & wanted.horizontal_flip, -zoom_x, zoom_x)
        flip_y = tf.where((draws[:, 4] < 0) & wanted.vertical_flip, -zoom_y, zoom_y)
        # rotation times shear, the matrix of Keras' ImageDataGenerator, columns scaled
        a, b = tf.cos(turn) * flip_x, -tf.sin(turn + shear) * flip_y
        c, d = tf.sin(turn) * flip_x, tf.cos(turn + shear) * flip_y
        centre_y, centre_x = (size[0] - 1) / 2, (size[1] - 1) / 2
        from_x = centre_x + draws[:, 6] * wanted.shift[1] * size[1]
        from_y = centre_y + draws[:, 5] * wanted.shift[0] * size[0]
        right, down = centre_x - a * from_x - b * from_y, centre_y - c * from_x - d * from_y
        return tf.stack([a, b, right, c, d, down], axis=1)

    def _colour(self, images: Any, draws: Any) -> Any:
        wanted = self.augmentation
        if wanted.contrast:
            mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
            images = mean + (images - mean) * (1.0 + draws[:, 7, None, None, None] * wanted.contrast)
        if wanted.brightness:
            images += draws[:, 8, None, None, None] * wanted.brightness * 255.0
        if wanted.contrast or wanted.brightness:
            images = tf.clip_by_value(images, 0.0, 255.0)
        return images

    def get_config(self) -> dict[str, Any]:
        """Keras' description of the layer."""
        return {**super().get_config(), "augmentation": self.augmentation.model_dump(), "seed": self.seed}
