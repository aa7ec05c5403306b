"""What augmentation makes of a picture: by the very layer that trains and the one resize."""

import base64
import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from core.training_config import Augmentation
from worker.training.layers import AugmentationLayer, PictureResizer, ResizeMode, picture_seeds
from worker.training.pictures import Pixels

VARIANTS = 9


@functools.lru_cache(maxsize=8)
def resizer(height: int, width: int, mode: ResizeMode) -> PictureResizer:
    """The one resize, traced once for each size and mode."""
    return PictureResizer((height, width), mode)


def augmented(pixels: Pixels, question: dict[str, Any]) -> list[str]:
    """Nine augmented variants of one picture.

    Args:
        pixels: uint8 [h, w, 3].
        question: `image_size` (height, width), `resize`, `augmentation` (fields of `Augmentation`) and `seed`.

    Returns:
        Nine PNG files in base64, of `image_size`.
    """
    height, width = question["image_size"]
    resized = resizer(height, width, question["resize"])(pixels)
    layer = AugmentationLayer(Augmentation.model_validate(question["augmentation"]))
    seeds = picture_seeds(int(question["seed"]), 0, np.arange(VARIANTS))
    variants = np.asarray(layer(np.repeat(resized[None], VARIANTS, axis=0), seeds))
    return [png(variant) for variant in variants]


def png(pixels: Pixels) -> str:
    """A PNG file in base64."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return base64.b64encode(out.getvalue()).decode()
