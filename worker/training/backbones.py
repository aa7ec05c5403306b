"""The networks of the catalogue: functional Keras models with their preprocessing inside and no top.

`build_backbone` gives the plain form (BatchNorm layers whose statistics never move); `worker.training.folding` makes the folded
form of it. Layer names do not depend on what else the process has built, and stand in `core/backbones.json`.
"""

import functools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from core.errors import WeightsUnavailable
from worker.training.applications import APPLICATIONS, load_published, preprocessed, raw_application
from worker.training.graph import draws, without_random_weights
from worker.training.layers import FixedBatchNormalization
from worker.training.lite_weights import lite_arrays

_SETTLING_PIXELS = 8 * 224 * 224
_FEWEST_SETTLING, _MOST_SETTLING = 8, 128  # pictures
# Names that Keras numbers through the whole process, e.g. conv2d_7
_AUTOMATIC = re.compile(
    r"^(conv2d|batch_normalization|layer_normalization|activation|re_lu|add|multiply|concatenate|zero_padding2d|max_pooling2d"
    r"|average_pooling2d|global_average_pooling2d|reshape|dropout)(?:_(\d+))?$"
)

# EfficientNet-Lite0, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite:
# repeats, kernel, stride, expansion, channels
_LITE_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# backbone -> (width, depth) by which it scales Lite0; the first and last stage keep their depth, stem and head their width
_LITE_SCALES = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
_Own = Callable[[keras.layers.Layer], keras.layers.Layer]  # what makes a layer ours: `_own_layer` with a seed


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
    trained = weights == "imagenet"
    if backbone_id not in APPLICATIONS:
        model = _BUILDERS[backbone_id](image_size, functools.partial(_own_layer, seed=None if trained else seed))
        if trained:
            _load_lite(model)
        return model
    raw = raw_application(backbone_id, image_size)
    if not trained:
        return _own_form(raw, seed)
    load_published(raw, backbone_id)
    model = _own_form(raw, None)
    names = _stable_names(raw)
    own = {layer.name: layer for layer in model.layers}
    for layer in _flat(raw.layers):
        if layer.weights and names[layer.name] in own:
            own[names[layer.name]].set_weights(layer.get_weights())
    return model


def _own_form(raw: keras.Model, seed: int | None) -> keras.Model:
    """The same network as one flat graph of layers under stable names, with our BatchNorm and first weights as `_own_layer` says."""
    names = _stable_names(raw)

    def make(operation: Any) -> Any:
        if isinstance(operation, keras.Sequential):
            return tuple(_own_layer(layer, names[layer.name], seed=seed) for layer in operation.layers)
        if isinstance(operation, keras.layers.Layer) and not _replaced(operation):
            return _own_layer(operation, names[operation.name], seed=seed)
        return operation

    def call(made: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(made, tuple):
            x = inputs[0]
            for layer in made:
                x = layer(x)
            return x
        if isinstance(made, keras.layers.Layer):
            return inputs[0] if _replaced(made) else made(*inputs, **options)
        as_layer = _as_layer(made, names[made.name], inputs)
        return made(*inputs, **options) if as_layer is None else as_layer

    return keras.models.clone_model(raw, clone_function=make, call_function=call)


def _replaced(layer: keras.layers.Layer) -> bool:
    """True for preprocessing that Keras' network brings along: ours stands before it."""
    return isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling) and layer.name != "preprocessing"


def _as_layer(operation: Any, name: str, inputs: tuple[Any, ...]) -> Any:
    """Sums and products that Keras wrote as operators, as layers with names: a residual sum may be cut at; None for others."""
    kind = type(operation).__name__
    if kind not in {"Add", "Multiply"}:
        return None
    tensors = [one for one in inputs if keras.utils.is_keras_tensor(one)]
    if len(tensors) == 2:
        return (keras.layers.Add if kind == "Add" else keras.layers.Multiply)(name=name)(tensors)
    number = next(float(one) for one in inputs if not keras.utils.is_keras_tensor(one))
    scale, offset = (1.0, number) if kind == "Add" else (number, 0.0)
    return keras.layers.Rescaling(scale, offset, name=name)(tensors[0])


def settle_statistics(backbone: keras.Model, seed: int) -> None:
    """Give the BatchNorms of an untrained backbone statistics that fit its random weights.

    They never move later, and with mean 0 and variance 1 a deep random network answers nearly the same to everything (features
    of 1e-8). Random colour fields are good enough: what counts is the scale, not what is to be seen.
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


def _colour_fields(image_size: tuple[int, int], seed: int) -> np.ndarray:
    """Random pictures float32 [n, h, w, 3] with as much contrast in every octave, as photographs have (Field, 1987).

    Smaller pictures come in larger numbers: the deepest BatchNorm of a small one sees a single point of each.
    """
    height, width = image_size
    count = int(np.clip(_SETTLING_PIXELS / (height * width), _FEWEST_SETTLING, _MOST_SETTLING))
    random = np.random.default_rng(seed)
    fields = np.zeros((count, height, width, 3), np.float32)
    for octave in range(1, math.ceil(math.log2(max(height, width))) + 1):
        grid = (count, min(2**octave, height), min(2**octave, width), 3)
        fields += np.asarray(keras.ops.image.resize(random.normal(size=grid).astype(np.float32), image_size))
    shade = random.uniform(60, 190, (count, 1, 1, 3)).astype(np.float32)
    pictures: np.ndarray = np.clip(shade + 60 * fields / fields.std(), 0, 255)
    return pictures


def _flat(operations: Iterable[Any]) -> Iterator[Any]:
    """Every operation, those inside a Sequential one by one."""
    for operation in operations:
        if isinstance(operation, keras.Sequential):
            yield from operation.layers
        else:
            yield operation


def _stable_names(model: keras.Model) -> dict[str, str]:
    """Number automatic names from the start, as in a process that built nothing else: in the order in which they were made."""
    names = {}
    automatic: dict[str, list[tuple[int, str]]] = {}
    for operation in _flat(model.operations):
        found = _AUTOMATIC.match(operation.name)
        names[operation.name] = operation.name
        if found is not None:
            automatic.setdefault(found.group(1), []).append((int(found.group(2) or 0), operation.name))
    for stem, numbered in automatic.items():
        for count, (_, name) in enumerate(sorted(numbered)):
            names[name] = f"{stem}_{count}" if count else stem
    return names


def _own_layer(layer: keras.layers.Layer, name: str | None = None, *, seed: int | None) -> keras.layers.Layer:
    """A new layer like this one: with our BatchNorm, and random weights from the seed and its name.

    Args:
        layer: built or not; unchanged.
        name: of the new one; None: the same.
        seed: None: zeros, for trained weights that are put in at once.
    """
    config = layer.get_config()
    config["name"] = name = name or config["name"]
    if seed is None:
        config = without_random_weights(config)
    for key, value in config.items():
        if draws(key, value):
            own_seed = zlib.crc32(f"{seed}/{name}/{key}".encode())
            config[key] = {**value, "config": {**value["config"], "seed": own_seed}}
    if isinstance(layer, keras.layers.BatchNormalization):
        return FixedBatchNormalization.from_config(config)
    return layer.__class__.from_config(config)


def _load_lite(model: keras.Model) -> None:
    if model.name not in _LITE_SCALES:
        raise WeightsUnavailable(
            f'There are no ImageNet weights for "{model.name}". Received: "imagenet"; allowed: "none".'
        )
    for name, arrays in lite_arrays(model.name).items():
        if name != "top_dense":
            model.get_layer(name).set_weights(arrays)


def _input(image_size: tuple[int, int]) -> Any:
    """Pictures, and what EfficientNet-Lite's weights want of them."""
    pictures = keras.Input((*image_size, 3), dtype="float32", name="pictures")
    return pictures, preprocessed(pictures, 1 / 128, -127 / 128)


def _conv_bn_relu(own: _Own, x: Any, name: str, *, conv: keras.layers.Layer, relu: bool = True) -> Any:
    x = own(keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn"))(own(conv)(x))
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _conv(name: str, channels: int, kernel: int = 1, stride: int = 1) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        channels, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )


def _depthwise(name: str, kernel: int, stride: int) -> keras.layers.Layer:
    return keras.layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer="he_normal", name=f"{name}_conv"
    )


def _lite(backbone_id: str, image_size: tuple[int, int], own: _Own) -> keras.Model:
    width, depth = _LITE_SCALES[backbone_id]
    pictures, x = _input(image_size)
    x = _conv_bn_relu(own, x, "stem", conv=_conv("stem", 32, 3, 2))
    block = 0
    for number, (repeats, kernel, stride, expansion, channels) in enumerate(_LITE_STAGES):
        scaled = repeats if number in {0, len(_LITE_STAGES) - 1} else math.ceil(repeats * depth)
        for repeat in range(scaled):
            x = _lite_block(
                own, x, f"b{block}", kernel, stride if repeat == 0 else 1, expansion, _eights(channels * width)
            )
            block += 1
    x = own(keras.layers.BatchNormalization(epsilon=1e-3, name="top_bn"))(own(_conv("top", 1280))(x))
    return keras.Model(pictures, keras.layers.ReLU(6.0, name="top_activation")(x), name=backbone_id)


def _eights(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _lite_block(own: _Own, x: Any, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    skip = x
    if expansion > 1:
        x = _conv_bn_relu(own, x, f"{name}_expand", conv=_conv(f"{name}_expand", x.shape[-1] * expansion))
    x = _conv_bn_relu(own, x, f"{name}_depthwise", conv=_depthwise(f"{name}_depthwise", kernel, stride))
    x = _conv_bn_relu(own, x, f"{name}_project", conv=_conv(f"{name}_project", channels), relu=False)
    if stride == 1 and skip.shape[-1] == channels:
        x = keras.layers.Add(name=f"{name}_add")([x, skip])
    return x


def _tiny_cnn(image_size: tuple[int, int], own: _Own) -> keras.Model:
    """A network for tests and first tries: one of everything that folding and cutting must get right."""
    pictures, x = _input(image_size)
    x = _conv_bn_relu(own, x, "block1", conv=_conv("block1", 16, 3, 2))
    x = _conv_bn_relu(own, x, "block2_depthwise", conv=_depthwise("block2_depthwise", 3, 2))
    x = _conv_bn_relu(own, x, "block2", conv=_conv("block2", 32))
    y = _conv_bn_relu(own, x, "block3", conv=_conv("block3", 32, 3), relu=False)
    x = keras.layers.Add(name="block3_add")([y, x])
    x = _conv_bn_relu(own, x, "block4", conv=_conv("block4", 64, 3, 2))
    return keras.Model(pictures, x, name="tiny_cnn")


_BUILDERS: dict[str, Callable[[tuple[int, int], _Own], keras.Model]] = {
    **{backbone_id: functools.partial(_lite, backbone_id) for backbone_id in _LITE_SCALES},
    "tiny_cnn": _tiny_cnn,
}
