"""`core/backbones.json` and `core/backbone_variables.json` say of the networks what they are."""

import json
from pathlib import Path
from typing import Any

import pytest

import core.backbones
from core.backbones import BACKBONES, variables_of
from worker.training.backbones import build_backbone
from worker.training.catalogue import catalogue_row, catalogue_text, variable_rows, variables_text
from worker.training.folding import fold

QUICK = ("efficientnet_lite0", "mobilenet_v2", "tiny_cnn")
EVERY = [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in sorted(BACKBONES)]


def _written(name: str) -> str:
    return Path(core.backbones.__file__).with_name(name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_files_are_what_the_networks_give() -> None:
    assert _written("backbones.json") == catalogue_text(), "run: python -m worker.training.catalogue"
    assert _written("backbone_variables.json") == variables_text(), "run: python -m worker.training.catalogue"


def test_there_are_the_backbones_that_were_promised() -> None:
    families = "lite0 lite1 lite2 mobilenet_v2 v3_small v3_large efficientnet_b0 v2_b0 resnet50 inception xception vgg16 densenet"
    for part in [*families.split(), "convnext", "tiny_cnn"]:
        assert any(part in one for one in BACKBONES), part
    assert {one.form for one in BACKBONES.values()} == {"folded", "partly folded", "plain"}


@pytest.mark.parametrize("backbone_id", EVERY)
def test_a_row_is_what_the_network_gives(backbone_id: str) -> None:
    row: dict[str, Any] = catalogue_row(backbone_id)
    assert next(one for one in json.loads(_written("backbones.json")) if one["id"] == backbone_id) == row


@pytest.mark.parametrize("backbone_id", EVERY)
def test_every_backbone_builds_at_its_smallest_size_with_the_same_layers_and_variables(backbone_id: str) -> None:
    backbone = BACKBONES[backbone_id]
    model = build_backbone(backbone_id, image_size=backbone.minimum_image_size, weights="none", seed=0)
    assert tuple(layer.name for layer in model.layers[1:]) == backbone.layers
    assert model.count_params() == backbone.parameters
    for name in backbone.cut_layers:  # even then something is left for pooling
        assert min(model.get_layer(name).output.shape[1:3]) >= 1, name
    forms = {"plain": model, "folded": fold(model)} if backbone.folded_batch_norms else {"plain": model}
    for form, network in forms.items():
        listed = [
            [one.layer, one.kind, [[name, list(shape)] for name, shape in one.shapes.items()]]
            for one in variables_of(backbone_id, form)
        ]
        assert listed == variable_rows(network), form


@pytest.mark.parametrize("backbone_id", EVERY)
def test_cut_layers_are_layers_with_spatial_output_and_end_with_the_default(backbone_id: str) -> None:
    backbone = BACKBONES[backbone_id]
    model = build_backbone(backbone_id, image_size=backbone.default_image_size, weights="none", seed=0)
    assert backbone.cut_layers[-1] == backbone.default_cut_layer
    for name in backbone.cut_layers:
        shape = model.get_layer(name).output.shape
        assert len(shape) == 4
        assert min(shape[1:3]) > 1


def test_the_documented_cuts_are_there() -> None:
    assert {"b10_add", "b14_add", "top_activation"} <= set(BACKBONES["efficientnet_lite0"].cut_layers)
    assert "mixed7" in BACKBONES["inception_v3"].cut_layers
    assert {"block5_conv1", "block5_conv2"} <= set(BACKBONES["vgg16"].layers)


@pytest.mark.parametrize("backbone_id", sorted(BACKBONES))
def test_variables_add_up_to_the_parameters_and_names_are_unique(backbone_id: str) -> None:
    layers = variables_of(backbone_id, "plain")
    total = 0
    for one in layers:
        for shape in one.shapes.values():
            size = 1
            for side in shape:
                size *= side
            total += size
    assert total == BACKBONES[backbone_id].parameters
    assert len({one.layer for one in layers}) == len(layers)
