"""Keras' own networks beside those that Thaw builds of them."""

import re
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from core.backbones import BACKBONES
from worker.training.applications import APPLICATIONS


def random_application(backbone_id: str) -> keras.Model:
    """Keras' own network without its top, for its smallest pictures; every array is random, so that none is another's."""
    side = max(32, BACKBONES[backbone_id].minimum_image_size[0])
    network = APPLICATIONS[backbone_id].build(include_top=False, weights=None, input_shape=(side, side, 3))
    random = np.random.default_rng(0)
    for variable in network.weights:
        if variable.dtype == "float32":
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return network


def assert_same_weights(theirs: keras.Model, ours: keras.Model) -> None:
    """Bit for bit, each in its place; but for Keras' Normalization, which ours has in its preprocessing."""
    for variable, expected in zip(theirs.weights, in_their_order(theirs, ours), strict=True):
        assert np.array_equal(variable.numpy(), expected), variable.path


def in_their_order(theirs: keras.Model, ours: keras.Model) -> list[np.ndarray]:
    """Our weights as Keras' network lists its own: layer by layer; its Normalization (EfficientNet) keeps what it has."""
    arrays: list[np.ndarray] = []
    flat = [
        one for layer in theirs.layers for one in (layer.layers if isinstance(layer, keras.Sequential) else [layer])
    ]
    mine = {(type(one).__name__.removeprefix("Fixed"), at): one for at, one in _numbered(ours.layers)}
    for at, layer in _numbered(flat):
        if isinstance(layer, keras.layers.Normalization):
            arrays.extend(layer.get_weights())
        else:
            arrays.extend(mine[type(layer).__name__, at].get_weights())
    return arrays


def _numbered(layers: list[Any]) -> list[tuple[int, Any]]:
    counts: dict[str, int] = {}
    found = []
    for layer in layers:
        if layer.weights:
            kind = type(layer).__name__.removeprefix("Fixed")
            found.append((counts.get(kind, 0), layer))
            counts[kind] = counts.get(kind, 0) + 1
    return found


_OLD_NAMES = {"conv2d": "convolution2d", "batch_normalization": "batchnormalization"}


def _old_name(layer: str) -> str:
    """As Keras 1 called a layer without a name of its own, counted from 1: conv2d_1 was convolution2d_2."""
    found = re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d+))?", layer)
    return layer if found is None else f"{_OLD_NAMES[found[1]]}_{int(found[2] or 0) + 1}"


def write_old_file(path: Path, source: keras.Model) -> None:
    """As the files of VGG16 and Xception that Keras publishes were written: layers and weights by their names in Keras 1."""
    layers = [layer for layer in source.layers if layer.weights]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [_old_name(layer.name) for layer in layers]
        for layer in layers:
            name = _old_name(layer.name)
            group = file.create_group(name)
            names = [f"{name}_{'Wb'[at] if at < 2 else at}_1:0" for at in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            for key, variable in zip(names, layer.weights, strict=True):
                group[key] = variable.numpy()
