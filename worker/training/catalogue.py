"""Writes `core/backbones.json` and `core/backbone_variables.json` from the real networks: `python -m worker.training.catalogue`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import core.backbones
from worker.training.applications import APPLICATIONS
from worker.training.backbones import build_backbone
from worker.training.folding import fold, folded_into
from worker.training.graph import single_tensor_places, weight_names

# where Keras' files put an underscore into a class name: LayerScale -> layer_scale, but Conv2D -> conv2d
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])")


@dataclass(frozen=True)
class _Entry:
    title: str
    default_image_size: tuple[int, int]
    minimum_image_size: tuple[int, int]
    weights: tuple[str, ...]
    licence: str


_BOTH = ("imagenet", "none")
_APACHE, _KERAS = "Apache-2.0", "Apache-2.0 AND MIT"
# Sizes: what the ImageNet weights were trained at, and the smallest that the network can be built for.
_ENTRIES: dict[str, _Entry] = {
    "efficientnet_lite0": _Entry("EfficientNet-Lite0", (224, 224), (32, 32), _BOTH, _APACHE),
    "efficientnet_lite1": _Entry("EfficientNet-Lite1", (240, 240), (32, 32), _BOTH, _APACHE),
    "efficientnet_lite2": _Entry("EfficientNet-Lite2", (260, 260), (32, 32), _BOTH, _APACHE),
    "mobilenet_v2": _Entry("MobileNetV2", (224, 224), (32, 32), _BOTH, _APACHE),
    "mobilenet_v3_small": _Entry("MobileNetV3 Small", (224, 224), (32, 32), _BOTH, _APACHE),
    "mobilenet_v3_large": _Entry("MobileNetV3 Large", (224, 224), (32, 32), _BOTH, _APACHE),
    "efficientnet_b0": _Entry("EfficientNetB0", (224, 224), (32, 32), _BOTH, _APACHE),
    "efficientnet_v2_b0": _Entry("EfficientNetV2-B0", (224, 224), (32, 32), _BOTH, _APACHE),
    "resnet50_v2": _Entry("ResNet50V2", (224, 224), (32, 32), _BOTH, _KERAS),
    "inception_v3": _Entry("InceptionV3", (299, 299), (75, 75), _BOTH, _APACHE),
    "xception": _Entry("Xception", (299, 299), (71, 71), _BOTH, _KERAS),
    "vgg16": _Entry("VGG16", (224, 224), (32, 32), _BOTH, "Apache-2.0 AND CC-BY-4.0"),
    "densenet121": _Entry("DenseNet121", (224, 224), (32, 32), _BOTH, "Apache-2.0 AND BSD-3-Clause"),
    "convnext_tiny": _Entry("ConvNeXt-Tiny", (224, 224), (32, 32), _BOTH, _KERAS),
    "tiny_cnn": _Entry("Tiny network", (32, 32), (16, 16), ("none",), _APACHE),
}
_EMBEDDED = {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"}


def catalogue_row(backbone_id: str) -> dict[str, Any]:
    """One backbone as `core.backbones.Backbone` reads it, measured on the network itself."""
    entry = _ENTRIES[backbone_id]
    model = build_backbone(backbone_id, image_size=entry.default_image_size, weights="none", seed=0)
    layers = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return {
        "id": backbone_id,
        "title": entry.title,
        "parameters": model.count_params(),
        "default_image_size": list(entry.default_image_size),
        "minimum_image_size": list(entry.minimum_image_size),
        "layers": layers,
        "cut_layers": cut_layers(model),
        "default_cut_layer": layers[-1],
        "features": model.output.shape[-1],
        "batch_norms": sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers),
        "folded_batch_norms": len(folded_into(model)),
        "weights": list(entry.weights),
        "embedded": backbone_id in _EMBEDDED,
        "keras_file": APPLICATIONS[backbone_id].file if backbone_id in APPLICATIONS else None,
        "licence": entry.licence,
    }


def cut_layers(model: keras.Model) -> list[str]:
    """Places for a head: one tensor, behind at least one layer with weights, and the same in both forms.

    A convolution that takes up a BatchNorm gives another output in the folded form, so neither it nor the BatchNorm counts.
    """
    taken = folded_into(model)
    changed = {*taken, *taken.values()}
    order = [layer.name for layer in model.layers]
    lowest = next(index for index, layer in enumerate(model.layers) if layer.weights)
    found = [name for name in single_tensor_places(model) if name not in changed and order.index(name) > lowest]
    return [name for name in found if len(model.get_layer(name).output.shape) == 4]


def variable_rows(model: keras.Model) -> list[list[Any]]:
    """[layer, kind as Keras' files call it, [[variable, shape], ...]] of every layer with weights, in the model's order."""
    rows: list[list[Any]] = []
    for layer in model.layers:
        if layer.weights:
            kind = _CAPITAL.sub("_", type(layer).__name__.removeprefix("Fixed").removeprefix("Quick")).lower()
            rows.append(
                [
                    layer.name,
                    kind,
                    [[name, list(one.shape)] for name, one in zip(weight_names(layer), layer.weights, strict=True)],
                ]
            )
    return rows


def variables_text() -> str:
    """The whole of `core/backbone_variables.json`: one form of one backbone a line."""
    lines = []
    for backbone_id, entry in _ENTRIES.items():
        plain = build_backbone(backbone_id, image_size=entry.minimum_image_size, weights="none", seed=0)
        forms = {"plain": plain, "folded": fold(plain)} if folded_into(plain) else {"plain": plain}
        for form, model in forms.items():
            lines.append(f'"{backbone_id}/{form}":' + json.dumps(variable_rows(model), separators=(",", ":")))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def catalogue_text() -> str:
    """The whole file: one backbone a line."""
    rows = (json.dumps(catalogue_row(backbone_id), separators=(",", ":")) for backbone_id in _ENTRIES)
    return "[\n" + ",\n".join(rows) + "\n]\n"


def main() -> None:
    """Write both files beside `core/backbones.py`."""
    Path(core.backbones.__file__).with_name("backbones.json").write_text(catalogue_text(), encoding="utf-8")
    Path(core.backbones.__file__).with_name("backbone_variables.json").write_text(variables_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
