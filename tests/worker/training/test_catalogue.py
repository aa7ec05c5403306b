"""`core/backbones.json` says of the networks what they are."""

import json
from pathlib import Path

import pytest

import core.backbones
from core.backbones import BACKBONES
from worker.training.backbones import build_backbone
from worker.training.catalogue import catalogue_row, catalogue_text


def test_the_file_is_what_the_networks_give() -> None:
    file = Path(core.backbones.__file__).with_name("backbones.json")
    assert file.read_text(encoding="utf-8") == catalogue_text(), "run: python -m worker.training.catalogue"


@pytest.mark.parametrize("backbone_id", sorted(BACKBONES))
def test_every_backbone_builds_at_its_smallest_size_with_the_same_layers(backbone_id: str) -> None:
    backbone = BACKBONES[backbone_id]
    model = build_backbone(backbone_id, image_size=backbone.minimum_image_size, weights="none", seed=0)
    assert tuple(layer.name for layer in model.layers[1:]) == backbone.layers
    assert model.count_params() == backbone.parameters


@pytest.mark.parametrize("backbone_id", sorted(BACKBONES))
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


def test_a_row_is_plain_json() -> None:
    row = catalogue_row("tiny_cnn")
    assert json.loads(json.dumps(row)) == row
