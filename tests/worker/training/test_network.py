"""What learns in which phase, where the network is cut, and that BatchNorm statistics never move."""

from typing import Any

import keras
import numpy as np
import pytest

from core.backbones import BACKBONES
from core.errors import ConfigInvalid
from core.training_config import FineTunePhase, FrozenPhase, Head, TrainingConfig
from worker.training.backbones import build_backbone
from worker.training.learner import logits_of
from worker.training.materials import live_form
from worker.training.network import (
    Network,
    build_network,
    computing_in,
    inference_model,
    layer_summary,
    resolve_first,
    set_trainable,
    split_backbone,
    split_place,
)

LIVE = FrozenPhase(features="live")


def _config(**changes: Any) -> TrainingConfig:
    base: dict[str, Any] = {"backbone": "tiny_cnn", "weights": "none", "image_size": (16, 16)}
    return TrainingConfig(**{**base, **changes})


def _pictures(count: int = 8, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _train_one_step(network: Network) -> None:
    model = keras.Sequential([network.backbone, network.head])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(_pictures().astype("float32"), np.arange(8) % 3, epochs=1, batch_size=4, verbose=0)


def test_all_phases_cached_give_the_folded_form_and_a_live_phase_the_plain_one() -> None:
    assert build_network(_config(), 3).form == "folded"
    assert build_network(_config(phases=(FrozenPhase(), FineTunePhase(features="live"))), 3).form == "plain"


def test_the_counts_are_those_of_the_keras_guide() -> None:
    config = TrainingConfig(
        backbone="xception",
        weights="none",
        image_size=(150, 150),
        head=Head(binary=True),
        phases=(LIVE, FineTunePhase(features="live")),
    )
    network = build_network(config, 2)
    counts = []
    for index, phase in enumerate(config.phases):
        set_trainable(network, phase)
        summary = layer_summary(network, phase, index)
        counts.append((summary["trainable_parameters"], summary["non_trainable_parameters"]))
    assert counts == [(2_049, 20_861_480), (20_809_001, 54_528)]


def test_statistics_stay_bit_equal_through_a_fine_tune_phase_while_gamma_and_beta_learn() -> None:
    phases = (LIVE, FineTunePhase(features="live"))
    network = build_network(_config(phases=phases), 3)
    set_trainable(network, phases[1])
    norms = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [[array.copy() for array in layer.get_weights()] for layer in norms]
    _train_one_step(network)
    assert len(norms) == 5
    for layer, (gamma, beta, mean, variance) in zip(norms, before, strict=True):
        after = layer.get_weights()
        assert np.array_equal(after[2], mean), layer.name
        assert np.array_equal(after[3], variance), layer.name
        assert not np.array_equal(after[0], gamma), layer.name
        assert not np.array_equal(after[1], beta), layer.name


@pytest.mark.parametrize("form", ["plain", "folded"])
def test_in_a_frozen_phase_only_the_head_learns(form: str) -> None:
    phase = LIVE if form == "plain" else FrozenPhase()
    network = build_network(_config(phases=(phase,)), 3)
    set_trainable(network, phase)
    backbone, head = network.backbone.get_weights(), network.head.get_weights()
    _train_one_step(network)
    assert all(np.array_equal(one, other) for one, other in zip(backbone, network.backbone.get_weights(), strict=True))
    assert not np.array_equal(head[0], network.head.get_weights()[0])


@pytest.mark.parametrize("form", ["plain", "folded"])
def test_layers_below_the_named_one_do_not_learn(form: str) -> None:
    features = "live" if form == "plain" else "cached"
    phase = FineTunePhase(features=features, unfreeze_from="block3_conv")
    network = build_network(_config(phases=(FrozenPhase(features=features), phase)), 3)
    set_trainable(network, phase)
    before = {layer.name: layer.get_weights() for layer in network.backbone.layers if layer.weights}
    _train_one_step(network)
    moved = {
        name
        for name in before
        if not np.array_equal(before[name][0], network.backbone.get_layer(name).get_weights()[0])
    }
    expected = {"block3_conv", "block4_conv"} | ({"block3_bn", "block4_bn"} if form == "plain" else set())
    assert moved == expected


def test_the_same_name_thaws_the_same_layers_in_both_forms() -> None:
    names = []
    for features in ("live", "cached"):
        phase = FineTunePhase(features=features, unfreeze_from="block13_sepconv1")
        config = TrainingConfig(
            backbone="xception", weights="none", image_size=(71, 71), phases=(FrozenPhase(features=features), phase)
        )
        network = build_network(config, 2)
        set_trainable(network, phase)
        learning = [layer for layer in network.backbone.layers if layer.trainable_weights]
        names.append({layer.name for layer in learning if not isinstance(layer, keras.layers.BatchNormalization)})
    assert names[0] == names[1]
    assert {"block13_sepconv1", "block14_sepconv2"} <= names[0]
    assert "block12_sepconv3" not in names[0]


def test_a_batchnorm_named_in_the_folded_form_means_the_layer_that_took_it_up() -> None:
    phase = FineTunePhase(unfreeze_from="block4_bn")
    network = build_network(_config(phases=(FrozenPhase(), phase)), 3)
    assert network.form == "folded"
    assert resolve_first(network, phase) == "block4_conv"


@pytest.mark.parametrize("features", ["live", "cached"])
def test_what_the_config_lets_thaw_learns_and_what_it_refuses_would_not(features: str) -> None:
    network = build_network(_config(phases=(FrozenPhase(features=features),)), 3)
    for layer in BACKBONES["tiny_cnn"].layers:
        phase = FineTunePhase(features=features, unfreeze_from=layer)
        set_trainable(network, phase)
        try:
            _config(phases=(FrozenPhase(features=features), phase))
        except ConfigInvalid:
            assert not network.backbone.trainable_weights, layer
        else:
            assert network.backbone.trainable_weights, layer


def test_a_layer_above_the_cut_cannot_be_thawed() -> None:
    phase = FineTunePhase(unfreeze_from="block4_conv")
    with pytest.raises(ConfigInvalid, match=r'"block4_conv" lies above the cut layer "block3_add"'):
        _config(cut_layer="block3_add", phases=(FrozenPhase(), phase))


@pytest.mark.parametrize("features", ["live", "cached"])
@pytest.mark.parametrize(
    ("first", "place"),
    [
        ("block1_conv", None),  # nothing with weights lies below
        ("block2_conv", "block2_depthwise_relu"),
        ("block3_conv", "block2_relu"),
        ("block3_add", "block3_add"),  # an addition has nothing to learn: the cut rises above it
        ("block4_relu", "block4_relu"),
    ],
)
def test_the_halves_together_are_the_backbone(features: str, first: str, place: str | None) -> None:
    backbone = build_network(_config(phases=(FrozenPhase(features=features),)), 3).backbone
    x = _pictures().astype("float32")
    expected = np.asarray(backbone(x))
    lower, upper = split_backbone(backbone, first)
    assert split_place(backbone, first) == place
    found = x if lower is None else lower(x)
    found = found if upper is None else upper(found)
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_a_cut_through_a_residual_block_moves_below_the_block() -> None:
    backbone = build_backbone("efficientnet_lite0", image_size=(32, 32), weights="none", seed=0)
    assert split_place(backbone, "b10_project_conv") == "b9_add"
    assert split_place(backbone, "b10_add") == "b10_add"
    assert split_place(backbone, "b11_expand_conv") == "b10_add"


def test_training_the_upper_half_trains_the_network() -> None:
    phase = FineTunePhase(unfreeze_from="block3_conv")
    network = build_network(_config(phases=(FrozenPhase(), phase)), 3)
    set_trainable(network, phase)
    lower, upper = split_backbone(network.backbone, resolve_first(network, phase))
    assert lower is not None
    assert upper is not None
    before = inference_model(network)(_pictures())
    model = keras.Sequential([upper, network.head])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(lower.predict(_pictures().astype("float32"), verbose=0), np.arange(8) % 3, verbose=0)
    assert float(np.abs(inference_model(network)(_pictures()) - before).max()) > 1e-4
    assert not lower.trainable_weights


def test_the_summary_lists_layers_as_the_run_folder_contract_says() -> None:
    network = build_network(_config(), 3)
    set_trainable(network, FrozenPhase())
    summary = layer_summary(network, FrozenPhase(), 0)
    assert summary["phase"] == "frozen"
    assert summary["trainable_parameters"] == 64 * 3 + 3
    assert summary["layers"][1] == {
        "name": "block1_conv",
        "kind": "Conv2D",
        "shape": [8, 8, 16],
        "parameters": 3 * 3 * 3 * 16 + 16,
        "trainable": False,
    }
    assert summary["layers"][-1]["trainable"] is True


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_the_inference_model_answers_uint8_with_two_columns_for_a_sigmoid_head(pooling: str) -> None:
    network = build_network(_config(head=Head(binary=True, pooling=pooling, hidden_units=(5,), dropout=0.5)), 2)
    answer = np.asarray(inference_model(network)(_pictures()))
    assert answer.shape == (8, 2)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)
    one_column = np.asarray(network.head(network.backbone(_pictures().astype("float32"))))
    np.testing.assert_allclose(answer[:, 1:], one_column, atol=1e-6)
    np.testing.assert_array_equal(answer, inference_model(network)(_pictures(), training=False))


def test_one_sigmoid_unit_is_refused_for_three_classes() -> None:
    with pytest.raises(ConfigInvalid, match="Received: 3 classes"):
        build_network(_config(head=Head(binary=True)), 3)


# Keras 3.15.1 asks numpy 2 for a copy of a TensorFlow variable in a way that numpy calls deprecated
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_weights_of_the_inference_model_come_back_from_a_file(tmp_path: Any) -> None:
    network = build_network(_config(seed=1), 3)
    inference_model(network).save_weights(tmp_path / "kept.weights.h5")
    other = inference_model(build_network(_config(seed=2), 3))
    assert not np.array_equal(other(_pictures()), inference_model(network)(_pictures()))
    other.load_weights(tmp_path / "kept.weights.h5")
    np.testing.assert_array_equal(other(_pictures()), inference_model(network)(_pictures()))


def test_a_model_computes_in_bfloat16_only_while_it_is_told_to() -> None:
    network = build_network(_config(), 3)
    x = _pictures().astype("float32")
    exact = np.asarray(network.backbone(x))
    with computing_in(network.backbone, "mixed_bfloat16"):
        fast = network.backbone(x)
    assert str(fast.dtype.name) == "bfloat16"
    rough = np.asarray(keras.ops.cast(fast, "float32"))
    assert 0 < np.abs(rough - exact).max() < 0.03 * np.abs(exact).max()
    np.testing.assert_array_equal(np.asarray(network.backbone(x)), exact)
    assert all(weight.dtype == "float32" for weight in network.backbone.weights)


@pytest.mark.parametrize(("features", "differ"), [("cached", True), ("live", False)])
def test_steps_through_the_whole_backbone_are_in_bfloat16_only_where_no_batch_norm_is_left(
    features: Any, differ: bool
) -> None:
    network = build_network(_config(phases=(FrozenPhase(features=features),)), 3)
    logits = logits_of(network.head, network.head.input)
    exact, fast = (live_form(network, logits, bfloat16=wanted)(_pictures(), False).numpy() for wanted in (False, True))
    assert fast.dtype == np.float32
    assert np.array_equal(exact, fast) != differ
    np.testing.assert_allclose(fast, exact, atol=0.05 * np.abs(exact).max())
    assert {weight.dtype for weight in network.backbone.weights} == {"float32"}
