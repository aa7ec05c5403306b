"""The exported classifier answers as the trained network and its doubt say, by Keras' own layers alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from core.training_config import FrozenPhase, Head, TrainingConfig
from tests.worker.training.doubts import doubt_of
from worker.training.answering import answering_model, whole_model
from worker.training.doubt import NEVER
from worker.training.golden import Reference, patterns
from worker.training.layers import FixedBatchNormalization
from worker.training.network import build_network, inference_model


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        backbone="tiny_cnn",
        weights="none",
        image_size=(24, 16),
        resize="crop",
        phases=(FrozenPhase(features="live"),),
        **changes,
    )


@pytest.mark.parametrize(
    "head",
    [Head(binary=True), Head(hidden_units=(5,), dropout=0.3), Head(pooling="flatten"), Head(pooling="max")],
    ids=["sigmoid", "hidden", "flatten", "max"],
)
def test_the_graph_gives_what_the_network_and_its_doubt_give(head: Head) -> None:
    wanted = config(head=head)
    network = build_network(wanted, 2)
    assert any(isinstance(layer, FixedBatchNormalization) for layer in network.backbone.layers)
    doubt = doubt_of(network)
    reference = Reference(network, wanted, doubt)
    resized = np.stack([reference.resize(pixels) for pixels in patterns(3)])
    found = {name: np.asarray(value) for name, value in answering_model(network, doubt)(resized).items()}
    assert found["probabilities"].shape == (len(resized), 2)
    for index, pixels in enumerate(resized):
        expected = reference.answer(pixels)
        np.testing.assert_allclose(found["probabilities"][index], expected["probabilities"], atol=1e-5)
        assert found["known_score"][index] == pytest.approx(expected["known_score"], abs=1e-4)
        assert found["verdict"][index] == expected["verdict"]
    plain = np.asarray(inference_model(network)(resized))
    assert (found["probabilities"].argmax(axis=1) == plain.argmax(axis=1)).all()
    assert np.abs(found["probabilities"] - plain).max() > 1e-3


def test_a_class_that_is_never_confident_is_unsure_of_the_surest_answer() -> None:
    wanted = config()
    network = build_network(wanted, 3)
    dense = network.head.get_layer("head_dense")
    dense.bias.assign([200.0, 0.0, 0.0])
    doubt = doubt_of(network)
    for threshold, verdict in ((1.0, 0), (NEVER, 1)):
        model = answering_model(network, replace(doubt, thresholds=np.full(3, threshold, np.float32), limit=1e6))
        found = model(np.zeros((1, 24, 16, 3), np.uint8))
        assert float(np.max(found["probabilities"])) == 1.0
        assert int(found["verdict"][0]) == verdict


def test_a_black_picture_is_unknown_to_a_network_of_colours() -> None:
    wanted = config()
    network = build_network(wanted, 3)
    doubt = doubt_of(network)
    own, black = next(iter(patterns(11))), np.zeros((24, 16, 3), np.uint8)
    reference = Reference(network, wanted, doubt)
    answers = answering_model(network, doubt)(np.stack([reference.resize(own), black]))
    known = np.asarray(answers["known_score"])
    assert known[1] < known[0]
    assert known[0] > 0.5


@pytest.mark.parametrize("pooling", ["avg", "flatten"])
def test_a_picture_without_any_feature_gets_the_score_of_the_reference(pooling: str) -> None:
    wanted = config(head=Head(pooling=pooling))
    network = build_network(wanted, 3)
    doubt = doubt_of(network)
    last = network.backbone.get_layer("block4_bn")
    last.gamma.assign(0 * last.gamma)
    last.beta.assign(0 * last.beta - 1)  # below zero: the ReLU after it is dead
    picture = np.zeros((24, 16, 3), np.uint8)
    assert not np.asarray(network.backbone(picture[None].astype(np.float32))).any()
    expected = Reference(network, wanted, doubt).answer(picture)
    found = answering_model(network, doubt)(picture[None])
    assert float(found["known_score"][0]) == pytest.approx(expected["known_score"], abs=1e-5)
    assert int(found["verdict"][0]) == expected["verdict"]


def test_the_keras_file_opens_in_safe_mode_and_has_layers_of_keras_only(tmp_path: Path) -> None:
    wanted = config()
    network = build_network(wanted, 3)
    doubt = doubt_of(network)
    reference = Reference(network, wanted, doubt)
    whole = whole_model(reference.resizer, answering_model(network, doubt))
    whole.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert "thaw" not in json.dumps(keras.saving.serialize_keras_object(loaded))
    picture = next(iter(patterns(5)))[None]
    for name, value in whole(picture).items():
        np.testing.assert_allclose(np.asarray(loaded(picture)[name]), np.asarray(value), atol=1e-6)
