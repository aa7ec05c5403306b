"""The networks of the catalogue: functional Keras models with their preprocessing inside and no top.

`build_backbone` gives the plain form (BatchNorm layers whose statistics never move); `worker.training.folding` makes the folded
form of it. Layer names do not depend on what else the process has built, and stand in `core/backbones.json`.
"""

import hashlib
import http.client
import re
import shutil
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from core.backbones import keras_home
from core.errors import WeightsUnavailable
from worker.training.layers import FixedBatchNormalization
from worker.training.lite0_weights import lite0_arrays

_SETTLING_PICTURES = 8
_DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte
_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications/"
# Keras file name -> (address, MD5 as Keras itself states it, or None where it states none)
_DOWNLOADS: dict[str, tuple[str, str | None]] = {
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5": (_APPLICATIONS + "mobilenet_v2/", None),
    "xception_weights_tf_dim_ordering_tf_kernels_notop.h5": (
        _APPLICATIONS + "xception/",
        "b0042744bf5b25fce3cb969f33bebb97",
    ),
}
# Names that Keras numbers through the whole process, e.g. conv2d_7
_AUTOMATIC = re.compile(r"^(conv2d|batch_normalization|add)(_\d+)?$")

# EfficientNet-Lite0, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite:
# repeats, kernel, stride, expansion, channels
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def build_backbone(backbone_id: str, *, image_size: tuple[int, int], weights: str, seed: int) -> keras.Model:
    """Build one network of the catalogue in its plain form.

    Args:
        backbone_id: id in `core.backbones.BACKBONES`.
        image_size: (height, width) in pixels.
        weights: "imagenet" or "none" (random, from `seed`; see also `settle_statistics`).
        seed: decides every random weight, whatever the process did before.

    Returns:
        A functional model: float32 [n, height, width, 3] raw pixel values 0..255 -> feature map [n, h, w, c] of its last layer.
        Preprocessing is a layer of it; every BatchNorm is a FixedBatchNormalization.

    Raises:
        WeightsUnavailable: ImageNet weights are neither embedded, nor in Keras' cache, nor reachable.
    """
    raw = _BUILDERS[backbone_id](image_size)
    if weights == "imagenet":
        _load_imagenet(raw, backbone_id)
    names = _stable_names(raw.layers)
    model = keras.models.clone_model(raw, clone_function=lambda layer: _own_layer(layer, names[layer.name], seed))
    if weights == "imagenet":
        for layer in raw.layers:
            if layer.weights:
                model.get_layer(names[layer.name]).set_weights(layer.get_weights())
    return model


def settle_statistics(backbone: keras.Model, seed: int) -> None:
    """Give the BatchNorms of an untrained backbone statistics that fit its random weights.

    They never move later, and with mean 0 and variance 1 a deep random network answers nearly the same to everything (features
    of 1e-8). Smooth random colour fields are good enough: what counts is the scale, not what is to be seen.
    """
    norms = [layer for layer in backbone.layers if isinstance(layer, FixedBatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.settling, layer.momentum = True, 0.0
    try:
        backbone(_colour_fields(backbone.input.shape[1:3], seed))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.settling, layer.momentum = False, momentum
    for layer in norms:  # a channel that hardly moved would be blown up on real pictures
        variance = np.asarray(layer.moving_variance)
        layer.moving_variance.assign(np.maximum(variance, 0.05 * variance.mean()))


def _colour_fields(image_size: tuple[int, int], seed: int) -> Any:
    coarse = np.random.default_rng(seed).uniform(0, 255, (_SETTLING_PICTURES, 6, 6, 3)).astype(np.float32)
    return keras.ops.image.resize(coarse, image_size)


def _stable_names(layers: Sequence[keras.layers.Layer]) -> dict[str, str]:
    """Number automatic names from the start, as in a process that built nothing else."""
    counts: dict[str, int] = {}
    names = {}
    for layer in layers:
        found = _AUTOMATIC.match(layer.name)
        if found is None:
            names[layer.name] = layer.name
            continue
        stem = found.group(1)
        count = counts.get(stem, 0)
        names[layer.name] = f"{stem}_{count}" if count else stem
        counts[stem] = count + 1
    return names


def _own_layer(layer: keras.layers.Layer, name: str, seed: int) -> keras.layers.Layer:
    config = {**layer.get_config(), "name": name}
    for key, value in config.items():
        if key.endswith("_initializer") and isinstance(value, dict) and "seed" in value.get("config", {}):
            own_seed = zlib.crc32(f"{seed}/{name}/{key}".encode())
            config[key] = {**value, "config": {**value["config"], "seed": own_seed}}
    if isinstance(layer, keras.layers.BatchNormalization):
        return FixedBatchNormalization.from_config(config)
    return layer.__class__.from_config(config)


def _load_imagenet(model: keras.Model, backbone_id: str) -> None:
    if backbone_id == "efficientnet_lite0":
        for name, arrays in lite0_arrays().items():
            if name != "top_dense":
                model.get_layer(name).set_weights(arrays)
        return
    file = KERAS_FILES.get(backbone_id)
    if file is None:
        raise WeightsUnavailable(
            f'There are no ImageNet weights for "{backbone_id}". Received: "imagenet"; allowed: "none".'
        )
    path = keras_home() / "models" / file
    if not path.is_file():
        _download(file, path)
    try:
        model.load_weights(path)
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"The weights file {path.name} in Keras' cache cannot be read: {error}") from error


def _download(file: str, path: Path) -> None:
    folder, md5 = _DOWNLOADS[file]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        with urllib.request.urlopen(folder + file, timeout=_DOWNLOAD_TIMEOUT) as answer, part.open("wb") as target:  # noqa: S310 - fixed https address
            shutil.copyfileobj(answer, target)
    except (OSError, http.client.HTTPException) as error:
        part.unlink(missing_ok=True)
        raise WeightsUnavailable(
            f"The ImageNet weights {file} are not in Keras' cache and could not be fetched ({error}). Put the file into "
            f"{path.parent}, or choose efficientnet_lite0, whose weights come with Thaw."
        ) from error
    if md5 is not None and hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest() != md5:
        part.unlink()
        raise WeightsUnavailable(
            f"What was fetched as {file} is not the file that Keras publishes; it was thrown away."
        )
    part.replace(path)


def _input(image_size: tuple[int, int], scale: float, offset: float) -> Any:
    pictures = keras.Input((*image_size, 3), dtype="float32", name="pictures")
    return pictures, keras.layers.Rescaling(scale, offset, name="preprocessing")(pictures)


def _conv_bn_relu(x: Any, name: str, *, conv: keras.layers.Layer, relu: bool = True) -> Any:
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(conv(x))
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _conv(name: str, channels: int, kernel: int = 1, stride: int = 1) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        channels, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )


def _depthwise(name: str, kernel: int, stride: int) -> keras.layers.Layer:
    return keras.layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer="he_normal", name=f"{name}_conv"
    )


def _lite0(image_size: tuple[int, int]) -> keras.Model:
    pictures, x = _input(image_size, 1 / 128, -127 / 128)
    x = _conv_bn_relu(x, "stem", conv=_conv("stem", 32, 3, 2))
    block = 0
    for repeats, kernel, stride, expansion, channels in _LITE0_STAGES:
        for repeat in range(repeats):
            x = _lite0_block(x, f"b{block}", kernel, stride if repeat == 0 else 1, expansion, channels)
            block += 1
    x = keras.layers.BatchNormalization(epsilon=1e-3, name="top_bn")(_conv("top", 1280)(x))
    return keras.Model(pictures, keras.layers.ReLU(6.0, name="top_activation")(x), name="efficientnet_lite0")


def _lite0_block(x: Any, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    skip = x
    if expansion > 1:
        x = _conv_bn_relu(x, f"{name}_expand", conv=_conv(f"{name}_expand", x.shape[-1] * expansion))
    x = _conv_bn_relu(x, f"{name}_depthwise", conv=_depthwise(f"{name}_depthwise", kernel, stride))
    x = _conv_bn_relu(x, f"{name}_project", conv=_conv(f"{name}_project", channels), relu=False)
    if stride == 1 and skip.shape[-1] == channels:
        x = keras.layers.Add(name=f"{name}_add")([x, skip])
    return x


def _tiny_cnn(image_size: tuple[int, int]) -> keras.Model:
    """A network for tests and first tries: one of everything that folding and cutting must get right."""
    pictures, x = _input(image_size, 1 / 128, -127 / 128)
    x = _conv_bn_relu(x, "block1", conv=_conv("block1", 16, 3, 2))
    x = _conv_bn_relu(x, "block2_depthwise", conv=_depthwise("block2_depthwise", 3, 2))
    x = _conv_bn_relu(x, "block2", conv=_conv("block2", 32))
    y = _conv_bn_relu(x, "block3", conv=_conv("block3", 32, 3), relu=False)
    x = keras.layers.Add(name="block3_add")([y, x])
    x = _conv_bn_relu(x, "block4", conv=_conv("block4", 64, 3, 2))
    return keras.Model(pictures, x, name="tiny_cnn")


def _mobilenet_v2(image_size: tuple[int, int]) -> keras.Model:
    pictures, x = _input(image_size, 1 / 127.5, -1.0)
    raw = keras.applications.MobileNetV2(include_top=False, weights=None, input_tensor=x, input_shape=(*image_size, 3))
    return keras.Model(pictures, raw.output, name="mobilenet_v2")


def _xception(image_size: tuple[int, int]) -> keras.Model:
    pictures, x = _input(image_size, 1 / 127.5, -1.0)
    raw = keras.applications.Xception(include_top=False, weights=None, input_tensor=x, input_shape=(*image_size, 3))
    return keras.Model(pictures, raw.output, name="xception")


_BUILDERS: dict[str, Callable[[tuple[int, int]], keras.Model]] = {
    "efficientnet_lite0": _lite0,
    "mobilenet_v2": _mobilenet_v2,
    "xception": _xception,
    "tiny_cnn": _tiny_cnn,
}
KERAS_FILES: dict[str, str] = {
    "mobilenet_v2": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    "xception": "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
}
