"""Layers that Keras numbered by itself are found whatever number the process had reached."""

from typing import Any

import numpy as np
import pytest

from core.backbones import variables_of
from worker.weights.arrays import Group
from worker.weights.matching import match


def _groups(backbone_id: str, renamed: dict[str, str]) -> list[Group]:
    """The file of a backbone whose arrays tell their layer: each is filled with the layer's place."""
    return [
        Group(
            renamed.get(layer.layer, layer.layer),
            layer.kind,
            {name: np.full(shape, place, np.float32) for name, shape in layer.shapes.items()},
        )
        for place, layer in enumerate(variables_of(backbone_id, "plain"))
    ]


def _places(arrays: dict[str, Any], backbone_id: str) -> list[float]:
    return [
        float(arrays[f"{layer.layer}/{next(iter(layer.shapes))}"].flat[0])
        for layer in variables_of(backbone_id, "plain")
    ]


@pytest.mark.parametrize("shift", [1, 7])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("backbone_id", ["convnext_tiny", "inception_v3"])
def test_automatic_names_match_in_the_order_of_their_numbers(backbone_id: str, backwards: bool, shift: int) -> None:
    renamed = {}
    for layer in variables_of(backbone_id, "plain"):
        stem, _, number = layer.layer.removeprefix(layer.kind).rpartition("_")
        if layer.layer == layer.kind or (layer.layer.startswith(layer.kind) and not stem and number.isdecimal()):
            renamed[layer.layer] = f"{layer.kind}_{int(number or 0) + shift}"
    assert renamed
    groups = _groups(backbone_id, renamed)
    found = match(groups[::-1] if backwards else groups, backbone_id)
    assert found.way == "name"
    places = _places(found.arrays, backbone_id)
    assert places == list(range(len(places)))
