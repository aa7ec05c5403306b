"""The one resize and the one augmentation."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from core.training_config import Augmentation
from worker.training.layers import AugmentationLayer, PictureResizer, build_resizer, picture_seeds

NOTHING = {"horizontal_flip": False, "rotation_degrees": 0.0}
RANDOM = np.random.default_rng(0)


def _picture(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _bars() -> np.ndarray:
    """16 x 16 pictures, left half dark, right half bright."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 200
    return np.repeat(picture[None], 32, axis=0)


def _augmented(images: np.ndarray, turn: int = 0, **changes: object) -> np.ndarray:
    layer = AugmentationLayer(Augmentation(**{**NOTHING, **changes}))
    return np.asarray(layer(images, picture_seeds(0, turn, np.arange(len(images)))))


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("shape", [(40, 40), (31, 77), (90, 33), (1, 200), (5, 5)])
def test_every_shape_becomes_the_size_asked_for(mode: str, shape: tuple[int, int]) -> None:
    resized = PictureResizer((20, 24), mode)(_picture(*shape))
    assert resized.shape == (20, 24, 3)
    assert resized.dtype == np.uint8


def test_crop_keeps_the_centre_and_the_aspect() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert PictureResizer((20, 20), "crop")(wide).min() == 255


def test_pad_keeps_everything_and_adds_black() -> None:
    resized = PictureResizer((30, 30), "pad")(np.full((10, 30, 3), 255, np.uint8))
    assert resized[12:18].min() == 255
    assert resized[:9].max() == resized[21:].max() == 0


def test_squash_keeps_everything() -> None:
    assert PictureResizer((30, 30), "squash")(np.full((10, 30, 3), 255, np.uint8)).min() == 255


def test_pixels_are_rounded_and_antialiased() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    picture = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    resized = PictureResizer((16, 16), "squash")(picture)
    assert set(np.unique(resized)) <= {126, 127, 128, 129}  # without antialiasing: 0 or 255
    exact = tf.image.resize(picture[None], (16, 16), antialias=True).numpy()[0]
    np.testing.assert_array_equal(resized, np.round(exact))


def test_a_picture_of_the_right_size_is_not_changed() -> None:
    picture = _picture(16, 16)
    for mode in ("crop", "pad", "squash"):
        np.testing.assert_array_equal(PictureResizer((16, 16), mode)(picture), picture)


def test_a_very_long_sliver_is_padded_without_a_giant_square() -> None:
    sliver = np.full((2, 200_000, 3), 255, np.uint8)  # its padded square would have 40 gigapixels
    assert PictureResizer((16, 16), "pad")(sliver).shape == (16, 16, 3)


def test_the_resizer_opens_from_a_keras_file_in_safe_mode(tmp_path: Path) -> None:
    resizer = build_resizer((16, 12), "crop")
    resizer.save(tmp_path / "resizer.keras")
    picture = _picture(40, 50)[None]
    opened = keras.models.load_model(tmp_path / "resizer.keras", safe_mode=True)
    np.testing.assert_array_equal(opened(picture), resizer(picture))


def test_a_flip_mirrors_some_pictures_exactly_and_leaves_the_others() -> None:
    images = _bars()
    mirrored = [np.array_equal(one, images[0][:, ::-1]) for one in _augmented(images, horizontal_flip=True)]
    kept = [np.array_equal(one, images[0]) for one in _augmented(images, horizontal_flip=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 6 < sum(mirrored) < 26


def test_a_vertical_flip_changes_nothing_on_upright_bars() -> None:
    np.testing.assert_array_equal(_augmented(_bars(), vertical_flip=True), _bars())


def test_a_shift_moves_the_edge_by_no_more_than_it_may() -> None:
    edges = (_augmented(_bars(), shift=(0.0, 0.25), fill_mode="nearest")[:, 8, :, 0] < 100).sum(axis=1)
    assert edges.min() >= 4
    assert edges.max() <= 12
    assert len(set(edges.tolist())) > 3


def test_zoom_keeps_the_centre() -> None:
    picture = np.zeros((8, 17, 17, 3), np.float32)
    picture[:, 8, 8] = 255
    zoomed = _augmented(picture, zoom=0.5, fill_mode="constant")
    assert (zoomed[:, 8, 8, 0] > 254).all()


def test_zoom_is_drawn_for_each_axis() -> None:
    """A white square of half the side: how high and how wide it becomes."""
    square = np.zeros((64, 64, 64, 3), np.float32)
    square[:, 16:48, 16:48] = 255
    zoomed = _augmented(square, zoom=0.4, fill_mode="constant")[..., 0] > 127
    high, wide = zoomed.any(axis=2).sum(axis=1), zoomed.any(axis=1).sum(axis=1)
    for sizes in (high, wide):  # 32 pixels, times 0.6 to 1.4
        assert 19 <= sizes.min() < 23
        assert 41 < sizes.max() <= 45
    assert abs(np.corrcoef(high, wide)[0, 1]) < 0.3
    assert (np.abs(high - wide) > 4).sum() > 32


def test_a_zoom_leaves_every_other_number_as_it_is() -> None:
    """With and without it the same pictures are mirrored, and made brighter by as much."""
    bars, changes = _bars().astype("float32"), {"horizontal_flip": True, "brightness": 0.2}
    plain = _augmented(bars, **changes)
    zoomed = _augmented(bars, **changes, zoom=1e-6, fill_mode="nearest")
    assert len(np.unique(plain[:, 0, 0, 0])) > 16
    np.testing.assert_allclose(zoomed, plain, atol=0.02)


def test_turning_uncovers_corners_and_the_fill_mode_fills_them() -> None:
    white = np.full((32, 16, 16, 3), 255, np.uint8)
    assert _augmented(white, rotation_degrees=45.0, fill_mode="constant")[:, 0, 0].min() == 0
    for mode in ("reflect", "nearest", "wrap"):
        assert _augmented(white, rotation_degrees=45.0, fill_mode=mode).min() == 255


def test_brightness_and_contrast_stay_in_range() -> None:
    changed = _augmented(_bars().astype("float32"), brightness=0.5, contrast=0.9)
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert len({float(one.mean()) for one in changed}) > 16


@pytest.mark.parametrize("traced", [False, True])
def test_a_picture_changes_the_same_way_in_any_batch(traced: bool) -> None:
    """To the last digit, or stored features would depend on which others were missing."""
    images = np.stack([_picture(48, 48) for _ in range(32)])
    layer = AugmentationLayer(Augmentation(shear_degrees=10.0, zoom=0.2, contrast=0.3, brightness=0.1))
    spec = [tf.TensorSpec((None, 48, 48, 3), tf.uint8), tf.TensorSpec((None, 2), tf.int32)]
    change = tf.function(layer.changed, input_signature=spec) if traced else layer.changed
    seeds = picture_seeds(3, 1, np.arange(32))
    whole = np.asarray(change(images, seeds))
    for count in (1, 2, 3, 7, 8, 24, 31):
        np.testing.assert_array_equal(whole[-count:], change(images[-count:], seeds[-count:]), err_msg=f"{count}")
    assert not np.array_equal(whole, change(images, picture_seeds(3, 2, np.arange(32))))


def test_without_seeds_it_works_only_while_training_and_differently_each_time() -> None:
    images = np.stack([_picture(16, 16) for _ in range(6)])
    one, same = AugmentationLayer(Augmentation(), seed=5), AugmentationLayer(Augmentation(), seed=5)
    np.testing.assert_array_equal(one(images), images)
    first, second = np.asarray(one(images, training=True)), np.asarray(one(images, training=True))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, same(images, training=True))


def test_dtype_and_shape_are_kept() -> None:
    for dtype in ("uint8", "float32"):
        changed = AugmentationLayer(Augmentation())(_bars().astype(dtype), picture_seeds(0, 0, np.arange(32)))
        assert changed.dtype == dtype
        assert changed.shape == (32, 16, 16, 3)


def test_a_traced_step_knows_height_and_width_behind_it() -> None:
    """Layers choose their kernels by them: without, an EfficientNet-Lite0 step takes 1.6 times as long."""
    layer = AugmentationLayer(Augmentation())
    spec = [tf.TensorSpec((None, 48, 64, 3), tf.float32), tf.TensorSpec((None, 2), tf.int32)]
    traced = tf.function(layer, input_signature=spec).get_concrete_function()
    assert traced.output_shapes.as_list() == [None, 48, 64, 3]


def test_switched_off_it_changes_nothing() -> None:
    np.testing.assert_array_equal(_augmented(_bars()), _bars())
