"""A config is checked before anything starts: each wrong field is named, with what was received and what is allowed."""

import json
from typing import Any

import pytest

from core.backbones import BACKBONES
from core.errors import ConfigInvalid, FieldProblem
from core.presets import PRESETS
from core.training_config import (
    Augmentation,
    FineTunePhase,
    Fraction,
    first_trainable_layer,
    merged,
    parse_config,
)

FROZEN = {"kind": "frozen"}


def test_the_example_of_the_contract_is_a_valid_config() -> None:
    config = parse_config(
        {
            "phases": [
                {"kind": "frozen", "epochs": 20, "early_stopping": {"patience": 5}},
                {
                    "kind": "fine_tune",
                    "epochs": 8,
                    "unfreeze_from": "b10_add",
                    "views": 4,
                    "ema_decay": 0.98,
                    "optimizer": {"name": "adamw", "learning_rate": 0.0003},
                    "schedule": {"name": "cosine", "warmup_epochs": 1},
                },
            ]
        }
    )
    assert config.epochs_total == 28
    assert isinstance(config.phases[1], FineTunePhase)


@pytest.mark.parametrize(
    ("wrong", "field", "says"),
    [
        ({"backbone": "resnet9000"}, "backbone", "resnet9000"),
        ({"batch_size": 0}, "batch_size", "Received: 0"),
        ({"colour": "red"}, "colour", "no field"),
        ({"image_size": [20, 20]}, "image_size", "at least 32 x 32"),
        ({"image_size": [8, 8]}, "image_size.0", "Received: 8"),
        ({"cut_layer": "nowhere"}, "cut_layer", "Allowed"),
        ({"phases": []}, "phases", "at least 1"),
        ({"phases": [FROZEN, {"kind": "fine_tune", "unfreeze_from": "b99_add"}]}, "phases.1.unfreeze_from", "b99_add"),
        (
            {"cut_layer": "b10_add", "phases": [FROZEN, {"kind": "fine_tune", "unfreeze_from": "b14_add"}]},
            "phases.1.unfreeze_from",
            "above the cut layer",
        ),
        ({"phases": [{"kind": "fine_tune"}]}, "phases.0.kind", "must be frozen"),
        ({"phases": [{"kind": "thaw"}]}, "phases.0", "thaw"),
        ({"phases": [{**FROZEN, "features": "live", "views": 3}]}, "phases.0.views", "allowed: 1"),
        ({"phases": [{**FROZEN, "optimizer": {"name": "lion"}}]}, "phases.0.optimizer.name", "lion"),
        ({"phases": [{**FROZEN, "optimizer": {"learning_rate": 99}}]}, "phases.0.optimizer.learning_rate", "99"),
        (
            {"head": {"hidden_units": [8]}, "phases": [{**FROZEN, "optimizer": {"name": "lbfgs"}}]},
            "phases.0.optimizer.name",
            "linear",
        ),
        (
            {"phases": [{**FROZEN, "features": "live", "optimizer": {"name": "lbfgs"}}]},
            "phases.0.optimizer.name",
            "cached features of a frozen phase only",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_received(wrong: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse_config(wrong)
    problems = {one.field: one.message for one in refused.value.problems}
    assert field in problems
    assert says in problems[field]


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("efficientnet_b0", "block1a_se_squeeze"),  # global pooling inside a squeeze-excite branch
        ("efficientnet_b0", "block7a_se_expand"),
        ("mobilenet_v3_small", "expanded_conv_squeeze_excite_avg_pool"),
        ("efficientnet_lite0", "stem_conv"),  # takes up a BatchNorm: another output in the folded form
    ],
)
def test_a_layer_that_is_no_cut_is_refused_with_those_that_are(backbone: str, layer: str) -> None:
    allowed = BACKBONES[backbone].cut_layers
    assert layer in BACKBONES[backbone].layers
    with pytest.raises(ConfigInvalid) as refused:
        parse_config({"backbone": backbone, "cut_layer": layer})
    (problem,) = refused.value.problems
    assert (problem.field, problem.received) == ("cut_layer", layer)
    assert problem.message.startswith(
        f'{BACKBONES[backbone].title} cannot be cut at "{layer}". Allowed: {allowed[0]}, '
    )
    assert problem.message.endswith(f", {allowed[-1]}, or null.")


def _tuned(unfreeze_from: object, features: str = "cached", **config: object) -> dict[str, Any]:
    return {"phases": [FROZEN, {"kind": "fine_tune", "features": features, "unfreeze_from": unfreeze_from}], **config}


@pytest.mark.parametrize(
    ("unfreeze_from", "besides", "first", "such_as"),
    [
        ("top_activation", {}, "top_activation", ("top_bn", 0.015)),
        ({"fraction": 0.001}, {}, "top_activation", ("top_bn", 0.015)),
        ({"fraction": 0.01}, {"cut_layer": "b10_add"}, "b10_add", ("b10_project_bn", 0.022)),
        ("block5_pool", {"backbone": "vgg16"}, "block5_pool", ("block5_conv3", 0.106)),
        ("mixed9_1", {"backbone": "inception_v3"}, "mixed9_1", ("batch_normalization_93", 0.02)),
        # every convolution of the last block lies before it, and only their BatchNorms after it
        ("activation_87", {"backbone": "inception_v3"}, "activation_87", ("batch_normalization_93", 0.02)),
    ],
)
def test_a_phase_that_thaws_nothing_is_refused(
    unfreeze_from: object, besides: dict[str, Any], first: str, such_as: tuple[str, float]
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse_config(_tuned(unfreeze_from, **besides))
    (problem,) = refused.value.problems
    assert problem == FieldProblem(
        "phases.1.unfreeze_from",
        f'From "{first}" on no layer has weights of its own: nothing of the backbone would learn. Received: '
        f"{json.dumps(unfreeze_from)}; allowed: null, a layer with weights such as "
        f'"{such_as[0]}", or a share such as {{"fraction": {such_as[1]}}}.',
        unfreeze_from,
    )
    for allowed in (such_as[0], {"fraction": such_as[1]}):
        parse_config(_tuned(allowed, **besides))


def test_batchnorm_alone_learns_where_it_is_not_folded() -> None:
    live = parse_config(_tuned("activation_87", features="live", backbone="inception_v3")).phases[1]
    alone = parse_config(_tuned("top_bn")).phases[1]
    assert [phase.model_dump()["unfreeze_from"] for phase in (live, alone)] == ["activation_87", "top_bn"]
    with pytest.raises(ConfigInvalid):
        parse_config(_tuned("activation_87", features="cached", backbone="inception_v3"))


def test_a_fraction_counts_layers_from_the_top() -> None:
    def first(fraction: float, cut_layer: str | None = None) -> str | None:
        return first_trainable_layer("tiny_cnn", FineTunePhase(unfreeze_from=Fraction(fraction=fraction)), cut_layer)

    assert first_trainable_layer("tiny_cnn", FineTunePhase(unfreeze_from=None)) is None
    assert first(0.12) == "block4_bn"  # two of sixteen
    assert first(1.0) == "preprocessing"
    assert first(0.25, "block2_relu") == "block2_bn"


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse_config({"batch_size": 0, "seed": -1, "resize": "stretch"})
    assert {one.field for one in refused.value.problems} == {"batch_size", "seed", "resize"}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"phases": [{**FROZEN, "epochs": 0}]}, "phases.0.epochs"),
        ({"weights": 5}, "weights"),
        ({"weights": {"model": "x"}}, "weights"),
        ({"phases": [FROZEN, {"kind": "fine_tune", "unfreeze_from": 3}]}, "phases.1.unfreeze_from"),
        ({"phases": [FROZEN, {"kind": "fine_tune", "unfreeze_from": {"fraction": 2}}]}, "phases.1.unfreeze_from"),
    ],
)
def test_one_mistake_is_named_once(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse_config(wrong)
    assert [one.field for one in refused.value.problems] == [field]


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigInvalid):
        parse_config({"label_smoothing": float("nan")})


@pytest.mark.parametrize("weights", [{"model_id": "x"}, {"weights_id": "x"}])
def test_weights_of_ones_own_are_served(weights: dict[str, str]) -> None:
    assert parse_config({"weights": weights}).model_dump(mode="json")["weights"] == weights


def test_equal_configs_have_equal_fingerprints_and_a_seed_changes_it() -> None:
    assert parse_config({}).fingerprint == parse_config({"batch_size": 32}).fingerprint
    assert parse_config({}).fingerprint != parse_config({"seed": 1}).fingerprint


def test_changes_are_merged_into_objects_and_replace_lists() -> None:
    base = {"head": {"dropout": 0.2, "pooling": "avg"}, "phases": [FROZEN, FROZEN], "batch_size": 32}
    changed = merged(base, {"head": {"dropout": 0.5}, "phases": [FROZEN]})
    assert changed == {"head": {"dropout": 0.5, "pooling": "avg"}, "phases": [FROZEN], "batch_size": 32}


def test_weights_are_replaced_whole() -> None:
    assert merged({"weights": {"model_id": "a"}}, {"weights": {"weights_id": "b"}}) == {"weights": {"weights_id": "b"}}


def test_an_augmentation_with_everything_off_is_known_to_change_nothing() -> None:
    assert Augmentation(horizontal_flip=False, rotation_degrees=0).changes_nothing
    assert not Augmentation().changes_nothing


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_the_way_through_json(name: str) -> None:
    config = PRESETS[name].config
    assert parse_config(config.model_dump(mode="json")) == config
