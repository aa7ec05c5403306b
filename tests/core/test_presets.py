"""The textbooks' recipes stand in the presets to the letter."""

import pytest

from core.errors import InputInvalid
from core.presets import PRESETS, check_start
from core.training_config import FineTunePhase, parse_config

RECIPES = [one for one in PRESETS.values() if one.recipe]


def test_there_are_five_recipes_and_three_presets() -> None:
    assert [one.id for one in RECIPES] == [
        "keras-guide",
        "hands-on-ml-flowers",
        "hands-on-ml-reuse",
        "inception-mixed7",
        "vgg16-block5",
    ]
    assert [one.id for one in PRESETS.values() if not one.recipe] == ["quick", "standard", "best"]


@pytest.mark.parametrize("preset", RECIPES, ids=lambda one: one.id)
def test_a_recipe_has_nothing_of_ours_in_it(preset: object) -> None:
    config = next(one for one in RECIPES if one is preset).config
    assert (config.select, config.resize, config.label_smoothing, config.class_weights) == ("last", "squash", 0, "none")
    assert {phase.keep for phase in config.phases} == {"last"}
    assert all(phase.ema_decay == 0 and phase.early_stopping is None for phase in config.phases)
    assert parse_config(config.model_dump(mode="json")) == config


def test_the_rates_and_epochs_are_those_of_the_books() -> None:
    told = {
        one.id: [
            (phase.epochs, phase.steps_per_epoch, phase.optimizer.name, phase.optimizer.learning_rate)
            for phase in one.config.phases
        ]
        for one in RECIPES
    }
    assert told == {
        "keras-guide": [(20, None, "adam", 0.001), (10, None, "adam", 1e-5)],
        "hands-on-ml-flowers": [(5, None, "sgd", 0.2), (40, None, "sgd", 0.01)],
        "hands-on-ml-reuse": [(4, None, "sgd", 0.01), (16, None, "sgd", 1e-4)],
        "inception-mixed7": [(20, 100, "rmsprop", 1e-4)],
        "vgg16-block5": [(30, 100, "rmsprop", 1e-4), (30, 100, "rmsprop", 1e-5)],
    }
    flowers = PRESETS["hands-on-ml-flowers"].config.phases
    assert [one.schedule.decay_rate for one in flowers] == [0.01, 0.001]
    assert {one.optimizer.momentum for one in flowers} == {0.9}
    thawed = PRESETS["vgg16-block5"].config.phases[1]
    assert isinstance(thawed, FineTunePhase)
    assert thawed.unfreeze_from == "block5_conv2"
    augmentation = PRESETS["vgg16-block5"].config.augmentation
    assert (augmentation.rotation_degrees, augmentation.shift, augmentation.zoom) == (40, (0.2, 0.2), 0.2)
    assert (augmentation.shear_degrees, augmentation.fill_mode) == (0.2, "nearest")


def test_a_recipe_that_starts_from_ones_own_model_asks_for_it() -> None:
    preset = PRESETS["hands-on-ml-reuse"]
    with pytest.raises(InputInvalid, match="starts from a model of your own: say which"):
        check_start(preset, preset.config, chosen=False)
    check_start(preset, preset.config, chosen=True)
    own = parse_config({**preset.config.model_dump(mode="json"), "weights": {"model_id": "x"}})
    check_start(preset, own, chosen=False)
