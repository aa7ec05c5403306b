"""The own gradient is the stock gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from worker.training.quick_depthwise import QuickDepthwiseConv2D

CASES = [
    (3, 1, "same"),
    (5, 1, "same"),
    (5, 2, "same"),
    (3, 2, "valid"),
    (7, 1, "same"),
    (3, 1, "valid"),
    (4, 1, "same"),
]


def _gradients(layer: keras.layers.Layer, x: tf.Tensor) -> list[np.ndarray]:
    @tf.function
    def run(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cast(layer(x), tf.float32)
            loss = tf.reduce_sum(y * tf.random.stateless_normal(tf.shape(y), (2, 3)))
        return [y, *tape.gradient(loss, [x, layer.kernel.value, layer.bias.value])]

    return [np.asarray(tf.cast(one, tf.float32)) for one in run(x)]


def _pair(
    size: int, stride: int, padding: str, dtype: str, activation: str
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    stock = keras.layers.DepthwiseConv2D(
        size,
        stride,
        padding,
        activation=activation,
        depthwise_initializer=keras.initializers.GlorotUniform(seed=4),
        bias_initializer=keras.initializers.RandomNormal(seed=5),
        dtype="float32",
    )
    stock.build((None, 12, 10, 6))
    quick = QuickDepthwiseConv2D.from_config({**stock.get_config(), "dtype": dtype})
    quick.build((None, 12, 10, 6))
    quick.set_weights(stock.get_weights())
    return stock, quick


@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_forward_and_gradients_are_those_of_keras_layer(size: int, stride: int, padding: str) -> None:
    x = tf.random.stateless_normal((3, 12, 10, 6), (0, 1))
    stock, quick = _pair(size, stride, padding, "float32", "relu")
    for expected, found in zip(_gradients(stock, x), _gradients(quick, x), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_in_bfloat16_the_gradients_point_the_same_way(size: int, stride: int, padding: str) -> None:
    x = tf.cast(tf.cast(tf.random.stateless_normal((3, 12, 10, 6), (0, 1)), tf.bfloat16), tf.float32)
    # without an activation: a value next to zero may round to its other side, and then gradients differ for that reason alone
    stock, quick = _pair(size, stride, padding, "mixed_bfloat16", "linear")
    for expected, found in zip(_gradients(stock, x), _gradients(quick, x), strict=True):
        cosine = np.sum(expected * found) / (np.linalg.norm(expected) * np.linalg.norm(found))
        assert cosine > 0.99


def test_a_depth_multiplier_is_left_to_keras() -> None:
    layer = QuickDepthwiseConv2D(3, depth_multiplier=2)
    assert layer(tf.zeros((1, 8, 8, 3))).shape == (1, 6, 6, 6)
