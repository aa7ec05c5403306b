"""The graph of a functional model: who feeds whom, and where one tensor alone carries everything on.

Operations that are no layers (VGG's turn of channels) count as places on the way, never as places to cut at.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

_NUMBERED = re.compile(r"variable(_\d+)?")


def parents(model: keras.Model) -> dict[str, tuple[str, ...]]:
    """Layer name -> names of the layers that feed it within this model (a layer may also live in others), in order."""
    found: dict[str, tuple[str, ...]] = {operation.name: () for operation in model.operations}
    waiting = [tensor._keras_history for tensor in model.outputs]
    seen: set[tuple[str, int]] = set()
    while waiting:
        operation, index, _ = waiting.pop()
        if (operation.name, index) in seen:
            continue
        seen.add((operation.name, index))
        sources = [tensor._keras_history for tensor in operation._inbound_nodes[index].input_tensors]
        found[operation.name] = tuple(source.operation.name for source in sources)
        waiting.extend(sources)
    return found


def children(model: keras.Model) -> dict[str, list[str]]:
    """Layer name -> names of the layers that it feeds."""
    found: dict[str, list[str]] = {operation.name: [] for operation in model.operations}
    for name, sources in parents(model).items():
        for source in sources:
            found[source].append(name)
    return found


def single_tensor_places(model: keras.Model) -> list[str]:
    """Layers whose output alone feeds everything after them, in order; the last is the output layer.

    A residual connection that passes a layer by makes it no such place: a cut there would need two tensors.
    """
    consumers = children(model)
    order = [operation.name for operation in model.operations]
    position = {name: index for index, name in enumerate(order)}
    places = []
    reach: dict[str, int] = {name: max((position[one] for one in consumers[name]), default=-1) for name in order}
    furthest = -1  # the last layer that anything before this one still feeds
    for index, name in enumerate(order):
        if furthest <= index:
            places.append(name)
        furthest = max(furthest, reach[name])
    return _with_names(model, places)


def _with_names(model: keras.Model, names: Sequence[str]) -> list[str]:
    """Those that are layers one may ask for: neither the input nor an operation without a layer (VGG's turn of channels)."""
    layers = {layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)}
    return [name for name in names if name in layers]


def learned(layer: keras.layers.Layer) -> bool:
    """True when the layer has weights that a phase could train."""
    return any(variable.trainable for variable in layer.variables) or bool(layer.trainable_weights)


def weight_names(layer: keras.layers.Layer) -> list[str]:
    """Names of a layer's weights, in its order, the same in every process.

    Keras numbers the weights that it made without a name through the whole process (ConvNeXt's layer scale: `variable_54`); here
    they have their place.
    """
    return [f"weight_{place}" if _NUMBERED.fullmatch(one.name) else one.name for place, one in enumerate(layer.weights)]


def draws(key: str, value: object) -> bool:
    """Whether an entry of a layer's config is an initializer that draws random numbers."""
    return key.endswith("_initializer") and isinstance(value, Mapping) and "seed" in value.get("config", {})


def without_random_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's config with zeros where weights would be drawn that others replace at once: drawing them takes much of building."""
    return {key: "zeros" if draws(key, value) else value for key, value in config.items()}


def with_random_weights_again(model: keras.Model) -> keras.Model:
    """Give layers made so Keras' usual initializers: whoever builds the network anew from a file's config must not get zeros,
    which learn nothing.
    """
    for layer in model.layers:
        for key in ("kernel_initializer", "depthwise_initializer", "pointwise_initializer"):
            if isinstance(getattr(layer, key, None), keras.initializers.Zeros):
                seed = zlib.crc32(f"{layer.name}/{key}".encode())
                setattr(layer, key, keras.initializers.GlorotUniform(seed=seed))
    return model
