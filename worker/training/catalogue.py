"""Writes `core/backbones.json` from the real networks: `python -m worker.training.catalogue`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import core.backbones
from worker.training.backbones import KERAS_FILES, build_backbone
from worker.training.folding import folded_into
from worker.training.graph import single_tensor_places


@dataclass(frozen=True)
class _Entry:
    title: str
    default_image_size: tuple[int, int]
    minimum_image_size: tuple[int, int]
    weights: tuple[str, ...]
    licence: str


# Sizes: what the ImageNet weights were trained at, and the smallest that the network can be built for.
_ENTRIES: dict[str, _Entry] = {
    "efficientnet_lite0": _Entry("EfficientNet-Lite0", (224, 224), (32, 32), ("imagenet", "none"), "Apache-2.0"),
    "mobilenet_v2": _Entry("MobileNetV2", (224, 224), (32, 32), ("imagenet", "none"), "Apache-2.0"),
    "xception": _Entry("Xception", (299, 299), (71, 71), ("imagenet", "none"), "Apache-2.0 AND MIT"),
    "tiny_cnn": _Entry("Tiny network", (32, 32), (16, 16), ("none",), "Apache-2.0"),
}
_EMBEDDED = {"efficientnet_lite0"}


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
        "weights": list(entry.weights),
        "embedded": backbone_id in _EMBEDDED,
        "keras_file": KERAS_FILES.get(backbone_id),
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
    return [name for name in single_tensor_places(model) if name not in changed and order.index(name) > lowest]


def catalogue_text() -> str:
    """The whole file: one backbone a line."""
    rows = (json.dumps(catalogue_row(backbone_id), separators=(",", ":")) for backbone_id in _ENTRIES)
    return "[\n" + ",\n".join(rows) + "\n]\n"


def main() -> None:
    """Write the file beside `core/backbones.py`."""
    Path(core.backbones.__file__).with_name("backbones.json").write_text(catalogue_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
