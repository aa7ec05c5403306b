"""Backbone and head of a run: built from a TrainingConfig, cut where training begins, thawed as a phase says.

For the phases: build_network -> set_trainable(network, phase) -> split_backbone(network.backbone, first) and train
head(upper(features of lower)). Compile or trace again after set_trainable: Keras does not notice otherwise. Layers and weights
are shared by every model made here, so training the upper part trains the network.
"""

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from core.backbones import BACKBONES
from core.errors import ConfigInvalid, FieldProblem
from core.training_config import FineTunePhase, FrozenPhase, TrainingConfig, first_trainable_layer
from worker.training.backbones import build_backbone, settle_statistics
from worker.training.folding import fold, folded_into, form_of
from worker.training.graph import single_tensor_places, with_random_weights_again
from worker.training.start import assign_all, read_start


@dataclass
class Network:
    """Backbone and head.

    Attributes:
        backbone: float32 [n, H, W, 3] raw pixels 0..255 -> feature map [n, h, w, c] of the cut layer.
        head: feature map -> float32 probabilities [n, classes]; a sigmoid head gives one column, that of label 1.
        form: "folded" (BatchNorm inside the kernels), "partly folded" (where the graph allows it), or "plain" (gamma and beta learn,
            statistics fixed).
        backbone_id: id in the catalogue.
        taken_up: BatchNorm that folding removed -> the layer that carries it now; empty in the plain form.
    """

    backbone: keras.Model
    head: keras.Model
    form: str
    backbone_id: str
    taken_up: dict[str, str]

    @property
    def name(self) -> str:
        """Backbone and form, as features and measurements that are kept are called."""
        return f"{self.backbone_id}/{self.form}"


@dataclass(frozen=True)
class Start:
    """Arrays of one's own that a backbone starts from.

    Attributes:
        file: see `worker.training.start`.
        cut_layer: where the earlier model was cut; None: not at all, or uploaded weights.
    """

    file: Path
    cut_layer: str | None = None


def build_network(config: TrainingConfig, n_classes: int, start: Start | None = None) -> Network:
    """Build the untrained classifier of a config.

    Folded as far as the graph allows when every phase caches its features; else plain, as the textbooks have it. Weights of a
    folded network stay folded whatever the phases are: taking BatchNorm out again would divide by gamma.

    Args:
        start: where the config's own weights are; only with `{"model_id"}` or `{"weights_id"}`. Without one the backbone is
            random (for whoever puts trained weights in afterwards).

    Raises:
        WeightsUnavailable: see build_backbone and read_start.
        ConfigInvalid: a sigmoid head with other than two classes.
    """
    trained = config.weights == "imagenet"
    whole = build_backbone(
        config.backbone, image_size=config.image_size, weights="imagenet" if trained else "none", seed=config.seed
    )
    if not trained and start is None:
        settle_statistics(whole, config.seed)
    plain = _cut_at(whole, config.cut_layer or BACKBONES[config.backbone].default_cut_layer)
    folds = all(phase.features == "cached" for phase in config.phases)
    form, arrays = (None, None) if start is None else read_start(start.file, whole, start.cut_layer)
    if arrays is not None and form == "plain":
        assign_all(plain, arrays)
    folds = folds or form == "folded"
    backbone = with_random_weights_again(fold(plain) if folds else plain)
    if arrays is not None and form == "folded":
        assign_all(backbone, arrays)
    taken_up = folded_into(plain) if folds else {}
    head = build_head(config, n_classes, backbone.output.shape[1:])
    return Network(backbone, head, form_of(plain) if folds else "plain", config.backbone, taken_up)


def _cut_at(backbone: keras.Model, layer: str) -> keras.Model:
    return keras.Model(backbone.input, backbone.get_layer(layer).output, name=backbone.name)


def build_head(config: TrainingConfig, n_classes: int, shape: tuple[int, int, int]) -> keras.Model:
    """An untrained head on a feature map of `shape` (h, w, c), its first weights decided by the config's seed.

    Raises:
        ConfigInvalid: a sigmoid head with other than two classes.
    """
    head = config.head
    if head.binary and n_classes != 2:
        message = f"One sigmoid unit tells two classes apart. Received: {n_classes} classes; allowed: 2, or head.binary false."
        raise ConfigInvalid(message, problems=(FieldProblem("head.binary", message, True),))
    pooling = {
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
        "flatten": keras.layers.Flatten,
    }[head.pooling]
    features = keras.Input(shape, name="features")
    x = pooling(name="head_pooling")(features)
    for index, units in enumerate(head.hidden_units):
        initializer = _glorot(config.seed, f"head_hidden{index}")
        x = keras.layers.Dense(units, head.activation, kernel_initializer=initializer, name=f"head_hidden{index}")(x)
    if head.dropout:
        x = keras.layers.Dropout(head.dropout, seed=config.seed, name="head_dropout")(x)
    units, activation = (1, "sigmoid") if head.binary else (n_classes, "softmax")
    dense = keras.layers.Dense(
        units, activation, kernel_initializer=_glorot(config.seed, "head_dense"), dtype="float32", name="head_dense"
    )
    return keras.Model(features, dense(x), name="head")


def _glorot(seed: int, name: str) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=zlib.crc32(f"{seed}/{name}".encode()))


def resolve_first(network: Network, phase: FineTunePhase) -> str | None:
    """`first_trainable_layer` as a layer that this network has: a folded BatchNorm stands for the layer that took it up."""
    first = first_trainable_layer(network.backbone_id, phase, network.backbone.layers[-1].name)
    return None if first is None else network.taken_up.get(first, first)


def set_trainable(network: Network, phase: FrozenPhase | FineTunePhase) -> None:
    """Freeze and thaw the layers as the phase says. The head always learns; BatchNorm statistics never do."""
    learning: list[str] = []
    if isinstance(phase, FineTunePhase):
        learning = _from(network.backbone, resolve_first(network, phase))
    network.backbone.trainable = True
    for layer in network.backbone.layers:
        layer.trainable = layer.name in learning
    network.head.trainable = True


def _from(backbone: keras.Model, first: str | None) -> list[str]:
    """Names of `first` and all after it, in the catalogue's order: folding may reorder parallel branches."""
    names = [layer.name for layer in backbone.layers]
    if backbone.name in BACKBONES:
        catalogued = BACKBONES[backbone.name].layers
        names = [name for name in catalogued if name in names]
    return names if first is None else names[names.index(first) :]


def split_place(backbone: keras.Model, first_trainable: str | None) -> str | None:
    """Layer after which `split_backbone` cuts; None where nothing lies below.

    The highest place that one tensor passes and below which nothing learns: residual connections that cross the wished cut push
    it down to the next such place, layers without weights let it rise.
    """
    if first_trainable is None:
        return None
    weighted = {layer.name: index for index, layer in enumerate(backbone.layers) if layer.weights}
    order = [layer.name for layer in backbone.layers]
    learning = min(
        (weighted[name] for name in _from(backbone, first_trainable) if name in weighted), default=len(order)
    )
    lowest = min(weighted.values(), default=len(order))
    below = [name for name in single_tensor_places(backbone) if lowest <= order.index(name) < learning]
    return below[-1] if below else None


def split_backbone(backbone: keras.Model, first_trainable: str | None) -> tuple[keras.Model | None, keras.Model | None]:
    """Split into a lower part that stays frozen and an upper part that holds every layer that learns.

    Args:
        backbone: plain or folded.
        first_trainable: from `resolve_first`; None: everything learns.

    Returns:
        (lower, upper), sharing layers and weights with `backbone`: upper(lower(x)) is backbone(x). lower is None when everything
        learns; upper is None when nothing of the backbone lies above the cut. Where the cut went: `split_place`, which is also
        `lower.layers[-1].name`.
    """
    place = split_place(backbone, first_trainable)
    if place is None:
        return None, backbone
    tensor = backbone.get_layer(place).output
    lower = keras.Model(backbone.input, tensor, name=f"{backbone.name}_lower")
    if place == backbone.layers[-1].name:
        return lower, None
    return lower, keras.Model(tensor, backbone.output, name=f"{backbone.name}_upper")


def layer_summary(network: Network, phase: FrozenPhase | FineTunePhase, phase_index: int) -> dict[str, Any]:
    """One entry of `layers.json` (see the run folder contract), as the network stands after `set_trainable`."""
    rows = [_row(layer) for layer in (*network.backbone.layers, *network.head.layers) if not _is_input(layer)]
    trainable = sum(_size(layer.trainable_weights) for layer in (*network.backbone.layers, *network.head.layers))
    total = sum(row["parameters"] for row in rows)
    return {
        "phase": phase.kind,
        "phase_index": phase_index,
        "trainable_parameters": trainable,
        "non_trainable_parameters": total - trainable,
        "layers": rows,
    }


def _is_input(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.InputLayer)


def _size(weights: list[Any]) -> int:
    return int(sum(np.prod(weight.shape) for weight in weights))


def _row(layer: keras.layers.Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": type(layer).__name__.removeprefix("Fixed").removeprefix("Quick"),
        "shape": list(layer.output.shape[1:]),
        "parameters": _size(layer.weights),
        "trainable": bool(layer.trainable_weights),
    }


@contextlib.contextmanager
def computing_in(model: keras.Model, policy: str, exact: frozenset[str] = frozenset()) -> Iterator[None]:
    """Let every layer of a model compute by a dtype policy, e.g. "mixed_bfloat16", while a function is traced inside.

    Weights stay float32 and are shared with everything else that holds the layers; preprocessing stays float32, and so do the
    layers named in `exact`.
    """
    kept = keras.layers.InputLayer | keras.layers.Rescaling
    layers = [layer for layer in model.layers if not isinstance(layer, kept) and layer.name not in exact]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old


def inference_model(network: Network) -> keras.Model:
    """The classifier as it answers: no augmentation, no dropout; shares the weights of `network`.

    Returns:
        A functional model: uint8 [n, H, W, 3] already resized -> float32 probabilities [n, classes], two columns also for a
        sigmoid head.
    """
    height, width = network.backbone.input.shape[1:3]
    pictures = keras.Input((height, width, 3), dtype="uint8", name="pictures")
    x = keras.layers.Rescaling(1.0, dtype="float32", name="as_float")(pictures)
    x = network.head(network.backbone(x, training=False), training=False)
    if network.head.output.shape[-1] == 1:
        x = keras.layers.Concatenate(name="both_classes")([1.0 - x, x])
    return keras.Model(pictures, x, name="classifier")
