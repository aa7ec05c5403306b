"""The textbooks' recipes stand in the presets to the letter."""

from typing import Any

import pytest

from core.errors import InputInvalid
from core.presets import PRESETS, check_start
from core.training_config import parse_config

RECIPES = [one for one in PRESETS.values() if one.recipe]


# Every field of every recipe, written down from the table of docs/recipes.md and the sentence above it, not from the code's defaults
STEADY = {"name": "constant", "decay_rate": 0.0, "warmup_epochs": 0.0}
AUGMENTED_BY_NOTHING = {
    "horizontal_flip": False,
    "vertical_flip": False,
    "rotation_degrees": 0.0,
    "shift": [0.0, 0.0],
    "shear_degrees": 0.0,
    "zoom": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "fill_mode": "reflect",
}
AS_THE_GUIDE = {**AUGMENTED_BY_NOTHING, "horizontal_flip": True, "rotation_degrees": 36.0}
STRONGLY = {
    **AUGMENTED_BY_NOTHING,
    "horizontal_flip": True,
    "rotation_degrees": 40.0,
    "shift": [0.2, 0.2],
    "shear_degrees": 0.2,
    "zoom": 0.2,
    "fill_mode": "nearest",
}


def _phase(kind: str, epochs: int, optimizer: str, rate: float, **others: Any) -> dict[str, Any]:
    momentum = others.pop("momentum", 0.0)
    thawed = {"unfreeze_from": None} if kind == "fine_tune" else {}
    return {
        "kind": kind,
        "epochs": epochs,
        "steps_per_epoch": None,
        "features": "live",
        "views": 1,
        "ema_decay": 0.0,
        "keep": "last",
        "optimizer": {"name": optimizer, "learning_rate": rate, "momentum": momentum, "weight_decay": 0.0},
        "schedule": STEADY,
        "early_stopping": None,
        **thawed,
        **others,
    }


def _recipe(backbone: str, side: int, head: dict[str, Any], *phases: dict[str, Any], **others: Any) -> dict[str, Any]:
    plain = {"pooling": "avg", "hidden_units": [], "activation": "relu", "dropout": 0.0, "binary": True}
    return {
        "backbone": backbone,
        "weights": "imagenet",
        "image_size": [side, side],
        "resize": "squash",
        "cut_layer": None,
        "head": {**plain, **head},
        "augmentation": AUGMENTED_BY_NOTHING,
        "batch_size": 32,
        "phases": list(phases),
        "select": "last",
        "class_weights": "none",
        "label_smoothing": 0.0,
        "seed": 0,
        "precision": "float32",
        **others,
    }


def _decaying(rate: float) -> dict[str, Any]:
    return {"name": "inverse_time", "decay_rate": rate, "warmup_epochs": 0.0}


PRINTED = {
    "keras-guide": _recipe(
        "xception",
        150,
        {"dropout": 0.2},
        _phase("frozen", 20, "adam", 0.001),
        _phase("fine_tune", 10, "adam", 1e-5),
        augmentation=AS_THE_GUIDE,
    ),
    "hands-on-ml-flowers": _recipe(
        "xception",
        224,
        {"binary": False},
        _phase("frozen", 5, "sgd", 0.2, momentum=0.9, schedule=_decaying(0.01), features="cached"),
        _phase("fine_tune", 40, "sgd", 0.01, momentum=0.9, schedule=_decaying(0.001)),
    ),
    "hands-on-ml-reuse": _recipe(
        "tiny_cnn",
        28,
        {},
        _phase("frozen", 4, "sgd", 0.01, features="cached"),
        _phase("fine_tune", 16, "sgd", 1e-4),
        weights="none",
    ),
    "inception-mixed7": _recipe(
        "inception_v3",
        150,
        {"pooling": "flatten", "hidden_units": [1024], "dropout": 0.2},
        _phase("frozen", 20, "rmsprop", 1e-4, steps_per_epoch=100),
        cut_layer="mixed7",
        batch_size=20,
        augmentation=STRONGLY,
    ),
    "vgg16-block5": _recipe(
        "vgg16",
        150,
        {"pooling": "flatten", "hidden_units": [256]},
        _phase("frozen", 30, "rmsprop", 1e-4, steps_per_epoch=100),
        _phase("fine_tune", 30, "rmsprop", 1e-5, steps_per_epoch=100, unfreeze_from="block5_conv2"),
        batch_size=20,
        augmentation=STRONGLY,
    ),
}


@pytest.mark.parametrize("recipe", PRINTED)
def test_every_field_of_a_recipe_is_the_books(recipe: str) -> None:
    assert PRESETS[recipe].config.model_dump(mode="json") == PRINTED[recipe]


def test_there_are_five_recipes_and_three_presets() -> None:
    assert [one.id for one in RECIPES] == list(PRINTED)
    assert [one.id for one in PRESETS.values() if not one.recipe] == ["quick", "standard", "best"]


@pytest.mark.parametrize("preset", RECIPES, ids=lambda one: one.id)
def test_a_recipe_has_nothing_of_ours_in_it(preset: object) -> None:
    config = next(one for one in RECIPES if one is preset).config
    assert (config.select, config.resize, config.label_smoothing, config.class_weights) == ("last", "squash", 0, "none")
    assert {phase.keep for phase in config.phases} == {"last"}
    assert all(phase.ema_decay == 0 and phase.early_stopping is None for phase in config.phases)
    assert parse_config(config.model_dump(mode="json")) == config


def test_a_recipe_that_starts_from_ones_own_model_asks_for_it() -> None:
    preset = PRESETS["hands-on-ml-reuse"]
    with pytest.raises(InputInvalid, match="starts from a model of your own: say which"):
        check_start(preset, preset.config, chosen=False)
    check_start(preset, preset.config, chosen=True)
    own = parse_config({**preset.config.model_dump(mode="json"), "weights": {"model_id": "x"}})
    check_start(preset, own, chosen=False)
