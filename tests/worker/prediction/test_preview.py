"""The preview shows what training will see."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.training_config import Augmentation
from worker.prediction.preview import VARIANTS, augmented
from worker.training.layers import AugmentationLayer, PictureResizer, picture_seeds

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def asked(seed: int = 1, **augmentation: object) -> list[np.ndarray]:
    question: dict[str, Any] = {"image_size": [32, 48], "resize": "crop", "augmentation": augmentation, "seed": seed}
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in augmented(PIXELS, question)]


def test_nine_variants_are_those_that_the_training_layer_makes() -> None:
    resized = PictureResizer((32, 48), "crop")(PIXELS)
    seeds = picture_seeds(1, 0, np.arange(VARIANTS))
    wanted = AugmentationLayer(Augmentation(zoom=0.3))(np.repeat(resized[None], VARIANTS, 0), seeds)
    np.testing.assert_array_equal(asked(zoom=0.3), np.asarray(wanted))


def test_variants_differ_and_come_again_with_their_seed() -> None:
    first, again, other = asked(1), asked(1), asked(2)
    assert len({one.tobytes() for one in first}) == VARIANTS
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("off", [{"horizontal_flip": False, "rotation_degrees": 0}])
def test_with_everything_off_all_nine_are_the_plain_picture(off: dict[str, object]) -> None:
    resized = PictureResizer((32, 48), "crop")(PIXELS)
    np.testing.assert_array_equal(asked(**off), np.repeat(resized[None], VARIANTS, 0))
