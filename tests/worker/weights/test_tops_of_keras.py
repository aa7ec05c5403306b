"""What Keras itself writes of a backbone under a top is taken, whatever the top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
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


def _checked(model: keras.Model, path: Path, backbone_id: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the report on the file that Keras writes of a model, what was taken of it)."""
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    target = path.with_name("checked.npz")
    question = {"source": str(path), "target": str(target), "backbone": backbone_id}
    report = check({**question, "most_bytes": 10**9})
    assert "error" not in report, report
    with np.load(target) as file:
        return report, {name.split(":", maxsplit=1)[1]: file[name] for name in file.files}


def _brought_along(layer: keras.layers.Layer) -> bool:
    """Preprocessing inside Keras' network, in place of which ours stands."""
    return isinstance(layer, keras.layers.Normalization)


def _different(model: keras.Model) -> None:
    """Every array of a model gets values of its own, variances positive ones: one taken for another would show."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.uniform(0.1, 1.0, weight.shape))


def _sums_of(weights: Sequence[Any]) -> list[float]:
    """Sums of arrays, sorted: files have their layers in various orders."""
    return sorted(float(np.sum(weight.numpy(), dtype=np.float64)) for weight in weights)


def _sums(taken: Mapping[str, np.ndarray]) -> list[float]:
    return sorted(float(np.sum(array, dtype=np.float64)) for array in taken.values())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("backbone_id", "ending"), WITH_TOP)
def test_keras_own_files_with_top_are_taken(tmp_path: Path, backbone_id: str, ending: str) -> None:
    side, ours = _side(backbone_id), APPLICATIONS[backbone_id]
    whole = ours.build(include_top=True, weights=None, input_shape=(side, side, 3), classes=7, **ours.arguments)
    _different(whole)
    report, taken = _checked(whole, tmp_path / f"a{ending}", backbone_id)
    assert report["unexpected"], "the top is told"
    assert report["missing"] == []
    of_all = _sums_of(whole.weights)
    assert all(one in of_all for one in _sums(taken)), "arrays come as they are"
    assert len(set(_sums(taken))) == len(taken) == report["matched"], "none is taken twice"


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
    _different(model)
    report, taken = _checked(model, tmp_path / f"a{ending}", backbone_id)
    assert report["unexpected"], "the head is told"
    own = [weight for layer in base.layers if not _brought_along(layer) for weight in layer.weights]
    assert _sums(taken) == _sums_of(own), "every array of the backbone and none of the head"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("features", ["cached", "live"])
def test_files_of_ones_own_models_are_taken(tmp_path: Path, features: str, ending: str) -> None:
    head = {"pooling": "flatten", "hidden_units": [24, 12]}
    config = parse_config({**TINY, "phases": [{"kind": "frozen", "epochs": 1, "features": features}], "head": head})
    report, _ = _checked(inference_model(build_network(config, 3)), tmp_path / f"a{ending}", "tiny_cnn")
    assert report["unexpected"], "the head is told"
    assert (report["form"], report["way"]) == ("folded" if features == "cached" else "plain", "name")


def test_a_head_of_convolutions_is_taken_on_a_backbone_of_thaw(tmp_path: Path) -> None:
    base = build_backbone("tiny_cnn", image_size=(32, 32), weights="none", seed=0)
    x = keras.layers.Conv2D(8, 3, name="head_conv")(keras.layers.BatchNormalization(name="head_bn")(base.output))
    model = keras.Model(base.input, x)
    _different(model)
    for ending in ENDINGS:
        report, taken = _checked(model, tmp_path / f"a{ending}", "tiny_cnn")
        assert (report["way"], len(report["unexpected"])) == ("name", 6)
        assert _sums(taken) == _sums_of(base.weights)
