"""What Keras itself writes of a backbone under a top is taken, whatever the top."""

from pathlib import Path
from typing import Any

import keras
import pytest

from core.backbones import BACKBONES
from core.training_config import parse_config
from tests.worker.training.run_folders import TINY
from worker.training.applications import APPLICATIONS
from worker.training.backbones import build_backbone
from worker.training.network import build_network, inference_model
from worker.weights.checker import check

ENDINGS = (".weights.h5", ".keras", ".h5")
# ConvNeXt's last LayerNorm is part of its top and called so there; only a file that tells the order of all layers has it as its last
WITH_TOP = [
    (backbone_id, ending)
    for backbone_id in sorted(APPLICATIONS)
    for ending in ENDINGS
    if backbone_id != "convnext_tiny" or ending == ".h5"
]


def _side(backbone_id: str) -> int:
    return max(32, BACKBONES[backbone_id].minimum_image_size[0])


def _taken(model: keras.Model, path: Path, backbone_id: str) -> dict[str, Any]:
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    question = {"source": str(path), "target": str(path.with_name("checked.npz")), "backbone": backbone_id}
    report = check({**question, "most_bytes": 10**9})
    assert "error" not in report, report
    assert report["unexpected"]
    return report


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("backbone_id", "ending"), WITH_TOP)
def test_keras_own_files_with_top_are_taken(tmp_path: Path, backbone_id: str, ending: str) -> None:
    side, ours = _side(backbone_id), APPLICATIONS[backbone_id]
    whole = ours.build(include_top=True, weights=None, input_shape=(side, side, 3), classes=7, **ours.arguments)
    _taken(whole, tmp_path / f"a{ending}", backbone_id)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("backbone_id", sorted(APPLICATIONS))
def test_a_head_of_convolutions_is_taken_on_every_backbone_and_around_it(
    tmp_path: Path, backbone_id: str, nested: bool, ending: str
) -> None:
    side, ours = _side(backbone_id), APPLICATIONS[backbone_id]
    base = ours.build(include_top=False, weights=None, input_shape=(side, side, 3), **ours.arguments)
    pictures = keras.Input((side, side, 3))
    inputs, x = (pictures, base(pictures)) if nested else (base.input, base.output)
    x = keras.layers.SeparableConv2D(24, 3, padding="same", name="head_separable")(x)
    x = keras.layers.BatchNormalization(name="head_bn")(x)
    x = keras.layers.Conv2DTranspose(8, 2, name="head_up")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same", name="head_conv")(x))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    for layer in base.layers[: len(base.layers) // 2]:
        layer.trainable = False
    _taken(model, tmp_path / f"a{ending}", backbone_id)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("features", ["cached", "live"])
def test_files_of_ones_own_models_are_taken(tmp_path: Path, features: str, ending: str) -> None:
    head = {"pooling": "flatten", "hidden_units": [24, 12]}
    config = parse_config({**TINY, "phases": [{"kind": "frozen", "epochs": 1, "features": features}], "head": head})
    report = _taken(inference_model(build_network(config, 3)), tmp_path / f"a{ending}", "tiny_cnn")
    assert (report["form"], report["way"]) == ("folded" if features == "cached" else "plain", "name")


def test_a_head_of_convolutions_is_taken_on_a_backbone_of_thaw(tmp_path: Path) -> None:
    base = build_backbone("tiny_cnn", image_size=(32, 32), weights="none", seed=0)
    x = keras.layers.Conv2D(8, 3, name="head_conv")(keras.layers.BatchNormalization(name="head_bn")(base.output))
    for ending in ENDINGS:
        assert _taken(keras.Model(base.input, x), tmp_path / f"a{ending}", "tiny_cnn")["way"] == "name"
