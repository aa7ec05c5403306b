import numpy as np
import pytest
import tensorflow as tf

from worker.training.affine import moved

_TURN = 0.6
# turned and shrunk with a shift, mirrored, far outside, as it is
_TRANSFORMS = np.array(
    [
        [1.3 * np.cos(_TURN), -1.3 * np.sin(_TURN), 4.25, 1.3 * np.sin(_TURN), 1.3 * np.cos(_TURN), -9.5],
        [-1.0, 0.0, 30.0, 0.0, 1.0, 0.0],
        [1.0, 0.1, 70.3, 0.0, 1.0, -55.7],
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    ],
    np.float32,
)


def _pictures(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(_TRANSFORMS), 24, 31, 3)).astype(dtype)


@pytest.mark.parametrize("fill_mode", ["reflect", "nearest", "constant"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_it_is_tensorflows_own_operation(fill_mode: str, dtype: str) -> None:
    pictures = _pictures(dtype)
    theirs = tf.raw_ops.ImageProjectiveTransformV3(
        images=pictures.astype("float32"),
        transforms=np.pad(_TRANSFORMS, [(0, 0), (0, 2)]),
        output_shape=pictures.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill_mode.upper(),
    )
    np.testing.assert_allclose(moved(pictures, _TRANSFORMS, fill_mode), theirs, atol=0.01)


def test_a_picture_comes_out_bit_for_bit_equal_in_any_batch_traced_or_not() -> None:
    pictures = _pictures("uint8")
    together = np.asarray(moved(pictures, _TRANSFORMS, "reflect"))
    spec = [tf.TensorSpec((None, *pictures.shape[1:]), tf.uint8), tf.TensorSpec((None, 6), tf.float32)]
    traced = tf.function(lambda x, t: moved(x, t, "reflect"), input_signature=spec)
    np.testing.assert_array_equal(traced(pictures, _TRANSFORMS), together)
    for number in range(len(pictures)):
        alone = slice(number, number + 1)
        np.testing.assert_array_equal(traced(pictures[alone], _TRANSFORMS[alone]), together[alone])


def test_wrapped_pictures_repeat_themselves() -> None:
    pictures = _pictures("uint8")
    shifts = np.array(
        [[1, 0, 40, 0, 1, -30], [1, 0, -3, 0, 1, 0], [1, 0, 0, 0, 1, 100], [1, 0, 31, 0, 1, 24]], np.float32
    )
    for picture, one, (_, _, right, _, _, down) in zip(
        pictures, moved(pictures, shifts, "wrap"), shifts.astype(int), strict=True
    ):
        np.testing.assert_array_equal(one, np.roll(picture, (-down, -right), (0, 1)))
