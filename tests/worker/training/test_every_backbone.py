"""Every backbone of the catalogue does its whole work: builds, learns in both phases, is exported and read back."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from core.backbones import BACKBONES
from tests.worker.training.doubts import doubt_of
from tests.worker.training.exports import export_now
from tests.worker.training.keras_networks import in_their_order
from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.workplaces import open_run
from worker.training.applications import APPLICATIONS, preprocessed
from worker.training.backbones import build_backbone, settle_statistics
from worker.training.evaluate import exported_graph
from worker.training.folding import fold, form_of
from worker.training.network import inference_model

QUICK = ("efficientnet_lite0", "mobilenet_v2", "tiny_cnn")
EVERY = [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in sorted(BACKBONES)]
COUNTS = {"train": 3, "validation": 1, "test": 1}


def _size(backbone_id: str) -> list[int]:
    return [max(side, 32) for side in BACKBONES[backbone_id].minimum_image_size]


def _learn_export_and_read_back(tmp_path: Path, backbone_id: str, features: str) -> tuple[float, float]:
    """Share of the same answers that the export was checked with, and the largest difference of what is read back."""
    step: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 1, "features": features, "keep": "last"}
    phases = [
        {"kind": "frozen", **step},
        {"kind": "fine_tune", **step, "unfreeze_from": {"fraction": 0.3}, "optimizer": {"learning_rate": 0.001}},
    ]
    config = {"backbone": backbone_id, "weights": "none", "image_size": _size(backbone_id), "phases": phases}
    opened = open_run(make_run_folder(tmp_path / "run", {**config, "batch_size": 4}, counts=COUNTS))
    network = opened.work.network
    before = network.backbone.get_weights()
    opened.run_phases()
    changed = [not np.array_equal(old, new) for old, new in zip(before, network.backbone.get_weights(), strict=True)]
    assert any(changed)
    assert not all(changed)
    assert network.form == (BACKBONES[backbone_id].form if features == "cached" else "plain")
    assert len(opened.curve) == 2
    pictures = [Path(opened.work.folder.pictures.paths[at]) for at in opened.work.positions("test")]
    names = opened.work.folder.class_names
    export = export_now(
        network,
        config=opened.work.config,
        doubt=doubt_of(network, temperature=None),
        class_names=names,
        folder=tmp_path / "model",
        test_pictures=pictures,
    )
    pixels = np.random.default_rng(0).integers(0, 255, (2, *_size(backbone_id), 3), dtype=np.uint8)
    read_back = exported_graph(tmp_path / "model" / "saved_model")(pixels)
    return export.agreement.top1, float(np.abs(read_back - np.asarray(inference_model(network)(pixels))).max())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backbone_id", EVERY)
def test_it_learns_in_both_phases_and_its_export_answers_alike(tmp_path: Path, backbone_id: str) -> None:
    same_class, difference = _learn_export_and_read_back(tmp_path, backbone_id, "cached")
    assert same_class == 1.0
    assert difference <= 1e-3


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backbone_id", sorted(BACKBONES))
def test_it_does_so_in_its_plain_form_too(tmp_path: Path, backbone_id: str) -> None:
    same_class, difference = _learn_export_and_read_back(tmp_path, backbone_id, "live")
    assert same_class == 1.0
    assert difference <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("backbone_id", sorted(BACKBONES))
def test_folding_as_far_as_the_graph_allows_keeps_the_function(backbone_id: str) -> None:
    plain = build_backbone(backbone_id, image_size=tuple(_size(backbone_id)), weights="none", seed=0)
    settle_statistics(plain, 0)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, *_size(backbone_id), 3)).astype("float32")
    expected, found = np.asarray(plain(pixels)), np.asarray(fold(plain)(pixels))
    assert form_of(plain) == BACKBONES[backbone_id].form
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("backbone_id", sorted(APPLICATIONS))
def test_it_is_keras_own_network_behind_the_preprocessing_keras_documents(backbone_id: str) -> None:
    """Same random weights in Keras' network: the same feature map from raw pixels."""
    size = tuple(_size(backbone_id))
    ours = build_backbone(backbone_id, image_size=size, weights="none", seed=0)
    settle_statistics(ours, 0)
    application = APPLICATIONS[backbone_id]
    theirs = application.build(include_top=False, weights=None, input_shape=(*size, 3), **application.arguments)
    theirs.set_weights(in_their_order(theirs, ours))
    pixels = np.random.default_rng(1).uniform(0, 255, (2, *size, 3)).astype("float32")
    expected = np.asarray(theirs(_documented(backbone_id, pixels), training=False))
    np.testing.assert_allclose(np.asarray(ours(pixels)), expected, atol=1e-3 * np.abs(expected).max())


def _documented(backbone_id: str, pixels: np.ndarray) -> np.ndarray:
    """What Keras' documentation says the network wants, by its own functions where it has one."""
    modules = {
        "mobilenet_v2": keras.applications.mobilenet_v2,
        "resnet50_v2": keras.applications.resnet_v2,
        "inception_v3": keras.applications.inception_v3,
        "xception": keras.applications.xception,
        "vgg16": keras.applications.vgg16,
        "densenet121": keras.applications.densenet,
    }
    if backbone_id in modules:
        return np.asarray(modules[backbone_id].preprocess_input(pixels.copy()))
    if backbone_id.startswith("mobilenet_v3"):
        return pixels / 127.5 - 1
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (pixels / 255 - mean) / deviation
    # Keras' EfficientNetB0 divides by 255 itself (and normalises by weights that are neutral here)
    return np.asarray(wanted * 255 if backbone_id == "efficientnet_b0" else wanted, np.float32)


def test_preprocessing_is_part_of_the_network_and_turns_channels_where_the_weights_want_it() -> None:
    pictures = keras.Input((2, 2, 3))
    application = APPLICATIONS["vgg16"]
    x = preprocessed(pictures, application.scale, application.offset, blue_first=application.blue_first)
    given = np.full((1, 2, 2, 3), [10.0, 20.0, 30.0], "float32")
    found = np.asarray(keras.Model(pictures, x)(given))[0, 0, 0]
    expected = keras.applications.vgg16.preprocess_input(given.copy())[0, 0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
