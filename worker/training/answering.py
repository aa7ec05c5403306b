"""The network as it answers and is exported: probabilities, how well it knows such pictures, and a verdict. Only Keras' own layers."""

from typing import Any

import keras
import numpy as np

from worker.training.doubt import KNOWN, Doubt
from worker.training.layers import FixedBatchNormalization
from worker.training.network import Network
from worker.training.quick_depthwise import QuickDepthwiseConv2D


def answering_model(network: Network, doubt: Doubt) -> keras.Model:
    """The classifier with all that it knows of itself; weights are copies, so that it stays as it is.

    Returns:
        A functional model without augmentation, dropout and layers of ours: uint8 [n, H, W, 3] already resized -> a dictionary:
        `probabilities` float32 [n, classes] (two columns also for a sigmoid head), scaled by the temperature;
        `known_score` float32 [n], 0 to 1, below 0.5 the picture is unlike those the model learnt from;
        `verdict` int32 [n]: 0 confident, 1 unsure, 2 unknown.
    """
    height, width = network.backbone.input.shape[1:3]
    pictures = keras.Input((height, width, 3), dtype="uint8", name="pictures")
    x = keras.layers.Rescaling(1.0, dtype="float32", name="as_float")(pictures)
    features = plain_copy(network.backbone)(x, training=False)
    pooling = network.head.get_layer("head_pooling")
    pooled = type(pooling).from_config(pooling.get_config())(features)
    probabilities = _probabilities(network.head, pooled, doubt.temperature)
    average = pooled
    if isinstance(pooling, keras.layers.Flatten):
        average = keras.layers.GlobalAveragePooling2D(name="average")(features)
    known = _known_score(average, doubt)
    outputs = {
        "probabilities": probabilities,
        "known_score": known,
        "verdict": _verdict(probabilities, known, doubt.thresholds),
    }
    model = keras.Model(pictures, outputs, name="classifier")
    model.trainable = False
    return model


def whole_model(resizer: keras.Model, classifier: keras.Model) -> keras.Model:
    """The classifier with the one resize in front: uint8 [n, h, w, 3] at any h and w; what a `.keras` file carries."""
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    return keras.Model(images, classifier(resizer(images), training=False), name="whole")


def plain_copy(model: keras.Model) -> keras.Model:
    """The same function by Keras' own layers, with weights of its own: our layers differ from them in learning only."""
    stock = {
        FixedBatchNormalization: keras.layers.BatchNormalization,
        QuickDepthwiseConv2D: keras.layers.DepthwiseConv2D,
    }

    def make(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer):  # an operation (VGG's turn of channels) has nothing that learns
            config["trainable"] = False  # a BatchNormalization answers by its stored statistics, whoever calls it
        return stock.get(type(layer), type(layer)).from_config(config)

    copy = keras.models.clone_model(model, clone_function=make)
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def _probabilities(head: keras.Model, pooled: Any, temperature: float | None) -> Any:
    """The head's answer from its pooled features, with the temperature inside the last kernel."""
    x = pooled
    for layer in head.layers:
        if isinstance(layer, keras.layers.Dense):
            copy = type(layer).from_config(layer.get_config())
            x = copy(x)
            scale = 1.0 if layer.name != "head_dense" or temperature is None else 1.0 / temperature
            copy.set_weights([np.asarray(weight) * np.float32(scale) for weight in layer.get_weights()])
    if x.shape[-1] == 1:
        x = keras.layers.Concatenate(name="both_classes")([1.0 - x, x])
    return keras.layers.Identity(name="probabilities")(x)


def _known_score(average: Any, doubt: Doubt) -> Any:
    """sigmoid((limit - squared length outside the directions) / width), float32 [n]; see `doubt.fit_directions`."""
    unit = keras.layers.UnitNormalization(name="length_one")(average)
    mean = doubt.mean.astype(np.float64)
    inside = _dense(unit, doubt.directions, -(mean @ doubt.directions), "inside")
    # |x - m|^2; |x| is 1, and 0 where every feature is
    length = keras.ops.sum(keras.ops.square(unit), axis=-1, keepdims=True)
    away = length + _dense(unit, -2.0 * mean[:, None], np.array([mean @ mean]), "away")
    within = keras.ops.sum(keras.ops.square(inside), axis=-1, keepdims=True)
    score = keras.ops.sigmoid((doubt.limit - (away - within)) / doubt.width)
    return keras.ops.squeeze(score, axis=-1)


def _verdict(probabilities: Any, known: Any, thresholds: np.ndarray) -> Any:
    # without argmax, which Keras makes of operations that LiteRT and ONNX do not have
    over = keras.layers.Rescaling(1.0, [-float(value) for value in thresholds], name="over_threshold")(probabilities)
    is_best = keras.ops.cast(probabilities >= keras.ops.max(probabilities, axis=-1, keepdims=True), "float32")
    enough = is_best * keras.ops.cast(over >= 0.0, "float32")
    unsure = keras.ops.cast(keras.ops.max(enough, axis=-1) < 0.5, "int32")
    unknown = keras.ops.cast(known < KNOWN, "int32")
    return keras.ops.maximum(unsure, 2 * unknown)


def _dense(x: Any, kernel: np.ndarray, bias: np.ndarray, name: str) -> Any:
    layer = keras.layers.Dense(kernel.shape[1], name=name)
    y = layer(x)
    layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return y
