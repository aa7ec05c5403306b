"""Heat maps: where the evidence lies by construction, for every kind of head, through a saved module."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from core.training_config import FrozenPhase, Head, TrainingConfig
from tests.worker.training.doubts import doubt_of
from worker.training.answering import answering_model
from worker.training.explain import drawn, explaining, in_original
from worker.training.export import write_saved_model
from worker.training.golden import Reference
from worker.training.network import Network, build_network

SIDE = 48


def config(**head: Any) -> TrainingConfig:
    return TrainingConfig(
        backbone="tiny_cnn",
        weights="none",
        image_size=(SIDE, SIDE),
        head=Head(**head),
        phases=(FrozenPhase(features="live"),),
    )


def bright_finder(labels: int = 2, *, pooling: str = "avg", binary: bool = False) -> Network:
    """A network whose backbone measures brightness in an 8 x 8 grid; label 1 is bright, label 0 dark."""
    network = build_network(config(pooling=pooling, binary=binary, dropout=0.0), labels)
    pixels = keras.Input((SIDE, SIDE, 3))
    means = keras.layers.AveragePooling2D(SIDE // 8)(pixels)
    grid = keras.layers.Conv2D(2, 1, kernel_initializer="zeros", name="bright_and_dark")
    backbone = keras.Model(pixels, keras.layers.ReLU()(grid(means)), name="brightness")
    bright = np.full(3, 1 / 300)
    grid.set_weights([np.stack([bright, -bright], axis=1).reshape(1, 1, 3, 2), np.array([-0.5, 0.5])])
    features = keras.Input((8, 8, 2))
    pool = type(network.head.get_layer("head_pooling"))(name="head_pooling")
    units = network.head.output.shape[-1]
    dense = keras.layers.Dense(units, "sigmoid" if binary else "softmax", name="head_dense")
    head = keras.Model(features, dense(pool(features)), name="head")
    for_bright = np.array([1.0, -1.0]) if binary else np.array([[-1.0, 1.0], [1.0, -1.0]])
    kernel = np.tile(for_bright.reshape(2, units), (64 if pooling == "flatten" else 1, 1))
    dense.set_weights([kernel.astype(np.float32), np.zeros(units, np.float32)])
    return Network(backbone, head, "plain", "brightness", {})


def picture() -> np.ndarray:
    """Dark, with one bright square at rows 12..24, columns 30..42."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[12:24, 30:42] = 255
    return pixels


@pytest.mark.parametrize(("pooling", "binary"), [("avg", False), ("max", False), ("flatten", False), ("avg", True)])
def test_the_map_lies_where_the_evidence_for_the_class_is(pooling: str, binary: bool) -> None:
    explain = explaining(bright_finder(pooling=pooling, binary=binary))
    for_bright, for_dark = explain(np.stack([picture()] * 2), np.array([1, 0], np.int32)).numpy()
    where = np.zeros((8, 8), bool)
    where[2:4, 5:7] = True
    assert for_bright[where].min() > 0
    assert for_bright[~where].max() == 0
    assert for_dark[where].max() == 0
    assert for_dark.max() > 0


def test_the_box_holds_the_object_in_picture_and_original() -> None:
    found = explaining(bright_finder())(picture()[None], np.array([1], np.int32)).numpy()[0]
    heatmap = drawn(picture(), found)
    assert heatmap.box is not None
    left, top, right, bottom = (share * SIDE for share in heatmap.box)
    overlap = (min(right, 42) - max(left, 30)) * (min(bottom, 24) - max(top, 12))
    assert overlap / (12 * 12 + (right - left) * (bottom - top) - overlap) > 0.6


def test_the_largest_part_has_the_box() -> None:
    found = np.zeros((8, 8), np.float32)
    found[0, 0] = 1.0
    found[4:7, 4:8] = 0.9
    box = drawn(np.zeros((64, 64, 3), np.uint8), found).box
    assert box is not None
    assert box[0] > 0.4
    assert box[1] > 0.4


def test_nothing_for_the_class_is_a_grey_picture_without_a_box() -> None:
    heatmap = drawn(np.full((8, 8, 3), (200, 0, 0), np.uint8), np.zeros((2, 2), np.float32))
    assert heatmap.box is None
    assert np.ptp(heatmap.picture, axis=2).max() == 0


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("crop", (100, 0, 150, 50)),  # the middle 100 x 100 of 200 x 100
        ("pad", (100, 0, 200, 50)),  # 200 x 200, of which the middle 100 rows are the picture
        ("squash", (100, 0, 200, 50)),
    ],
)
def test_a_box_is_found_again_in_the_original(resize: str, expected: tuple[int, int, int, int]) -> None:
    assert in_original((0.5, 0.0, 1.0, 0.5), (100, 200), (50, 50), resize) == expected


@pytest.mark.parametrize("head", [{}, {"pooling": "flatten", "hidden_units": (4,)}, {"binary": True}])
def test_a_saved_module_explains_as_the_network_did(tmp_path: Path, head: dict[str, Any]) -> None:
    network = build_network(config(**head), 2)
    explain = explaining(network)
    doubt = doubt_of(network)
    resizer = Reference(network, config(**head), doubt).resizer
    classifier = answering_model(network, doubt)
    shared = explaining(replace(network, backbone=classifier.get_layer(network.backbone.name)))
    write_saved_model(classifier, resizer, (SIDE, SIDE), tmp_path / "saved", (shared, network.head.variables))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.array([0, 1], np.int32)
    assert set(loaded.signatures) == {"serving_default", "serving_resized", "serving_bytes"}
    np.testing.assert_allclose(loaded.explain(pixels, labels), explain(pixels, labels), rtol=1e-4, atol=1e-6)


def test_maps_of_a_folded_network_are_those_of_the_plain_one() -> None:
    plain = build_network(config(), 2)
    cached = TrainingConfig(**{**config().model_dump(), "phases": (FrozenPhase(),)})
    folded = build_network(cached, 2)
    assert (plain.form, folded.form) == ("plain", "folded")
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.array([0, 1], np.int32)
    np.testing.assert_allclose(
        explaining(folded)(pixels, labels), explaining(plain)(pixels, labels), rtol=1e-3, atol=1e-5
    )
