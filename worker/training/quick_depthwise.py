"""Depthwise convolution with gradients of its own: the same mathematics as TensorFlow's, by its faster kernels.

TensorFlow's depthwise gradients on processors are slow for 5x5 filters and several times slower in bfloat16 than in float32
(images/s of an EfficientNet-Lite0 step from `b10_add`, 2 cores with AVX-512 BF16: stock float32 163, stock bfloat16 95, this in
float32 176, this in bfloat16 281). So here, at stride 1, padded to the same size, for filters of odd size:

- the gradient of the input is a forward convolution with the turned filter;
- the gradient of a filter of 5x5 or more is a forward convolution too: pictures and channels become channels together, and
  the output's gradient, as large as the picture, is the filter.

There, the gradient of a smaller filter, or on a larger map, is TensorFlow's kernel in the dtype that the layer computes in. At
other strides and paddings, and for filters of even size, both gradients are TensorFlow's kernels in float32, whatever the layer
computes in.
"""

from typing import Any

import keras
import tensorflow as tf

_LARGEST_MAP = 32  # pixels a side up to which the second trick was measured to win
_SMALLEST_FILTER = 5


@keras.saving.register_keras_serializable(package="thaw")
class QuickDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' layer with another gradient. Same weights, same config, same forward pass."""

    def call(self, inputs: Any) -> Any:
        """Float [n, h, w, c] -> [n, h', w', c]."""
        if self.depth_multiplier != 1 or self.dilation_rate != (1, 1) or self.data_format != "channels_last":
            return super().call(inputs)
        kernel = tf.convert_to_tensor(self.kernel)
        y = _depthwise(inputs, kernel, self.strides[0], self.padding.upper())
        if self.use_bias:
            y = tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))
        return self.activation(y)


def _depthwise(inputs: Any, kernel: Any, stride: int, padding: str) -> Any:
    strides = [1, stride, stride, 1]
    quick = stride == 1 and padding == "SAME" and kernel.shape[0] % 2 == 1 and kernel.shape[1] % 2 == 1

    @tf.custom_gradient
    def convolution(x: Any, k: Any) -> tuple[Any, Any]:
        def gradient(dy: Any) -> tuple[Any, Any]:
            # the float32 copies cost nothing where everything is float32 already
            x32, k32, dy32 = (tf.cast(one, tf.float32) for one in (x, k, dy))
            if quick:
                dx = tf.nn.depthwise_conv2d(dy, tf.reverse(k, [0, 1]), strides, padding)
            else:
                dx = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), k32, dy32, strides, padding)
            if quick and _small_map_large_filter(x, k):
                dk = _filter_gradient(x, dy, k)
            elif quick:
                dk = tf.nn.depthwise_conv2d_backprop_filter(x, k.shape, dy, strides, padding)
            else:
                dk = tf.nn.depthwise_conv2d_backprop_filter(x32, k.shape, dy32, strides, padding)
            return tf.cast(dx, x.dtype), tf.cast(dk, k.dtype)

        return tf.nn.depthwise_conv2d(x, k, strides, padding), gradient

    return convolution(inputs, kernel)


def _small_map_large_filter(x: Any, kernel: Any) -> bool:
    height, width = x.shape[1:3]
    known = height is not None and width is not None
    return known and max(height, width) <= _LARGEST_MAP and min(kernel.shape[:2]) >= _SMALLEST_FILTER


def _filter_gradient(x: Any, dy: Any, kernel: Any) -> Any:
    """Sum over pictures of the correlation of x with dy, float32 [kh, kw, c, 1]."""
    high, wide = kernel.shape[:2]
    _, height, width, channels = x.shape
    count = tf.shape(x)[0]
    by_place = (1, 2, 0, 3)
    pictures = tf.reshape(tf.transpose(x, by_place), (1, height, width, count * channels))
    pictures = tf.pad(pictures, [[0, 0], [high // 2, high // 2], [wide // 2, wide // 2], [0, 0]])
    filters = tf.reshape(tf.transpose(dy, by_place), (height, width, count * channels, 1))
    each = tf.nn.depthwise_conv2d(pictures, filters, [1, 1, 1, 1], "VALID")
    each = tf.reshape(tf.cast(each, tf.float32), (high, wide, count, channels))
    return tf.reduce_sum(each, axis=2)[..., None]
