"""The log's sentences say what happened, in words and numbers that hold."""

from core.training_config import FineTunePhase, Fraction, FrozenPhase, Optimizer, parse_config
from worker.training import telling

SUMMARY = {"trainable_parameters": 6405, "non_trainable_parameters": 3_350_000}


def test_the_frozen_phase_says_how_many_parameters_learn_and_by_what() -> None:
    said = telling.phase_begins(FrozenPhase(optimizer=Optimizer(name="lbfgs")), SUMMARY)
    assert said == "Frozen phase: 6,405 of 3,356,405 parameters learn; logistic regression."


def test_the_fine_tune_phase_says_from_where_it_is_thawed() -> None:
    wheres = (None, "b10_add", Fraction(fraction=0.3))
    said = [telling.phase_begins(FineTunePhase(unfreeze_from=where), SUMMARY) for where in wheres]
    assert ["the whole backbone" in said[0], "from b10_add" in said[1], "the top 30.0 %" in said[2]] == [True] * 3


def test_what_was_found_in_a_cache_is_not_claimed_as_work() -> None:
    assert "already" in telling.pictures_ready(300, 0, 0.0)
    assert "Decoded 40 of 300" in telling.pictures_ready(300, 40, 1.0)
    assert "already (bfloat16)" in telling.features_ready(0, 0.1, "bfloat16")
    assert "(200 images/s, float32)" in telling.features_ready(300, 1.5, "float32")


def test_the_network_is_named_with_its_weights_and_form() -> None:
    tiny = parse_config({"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 32]})
    assert telling.network_built(tiny, "folded", 24_000).endswith(
        "24,000 parameters; BatchNorm folded into the convolutions."
    )
    assert "ImageNet weights" in telling.network_built(parse_config({}), "plain", 1)
    several = parse_config({"backbone": "resnet50_v2", "weights": "none"})
    assert "32 of 49" in telling.network_built(several, "partly folded", 1)
    assert "no BatchNorm in it" in telling.network_built(parse_config({"backbone": "vgg16"}), "plain", 1)


def test_a_damaged_checkpoint_is_named_with_what_is_done_instead() -> None:
    assert "00-000004-epoch is damaged" in telling.checkpoint_damaged("00-000004-epoch", None)
    assert "begins again" in telling.checkpoint_damaged("00-000004-epoch", None)
    assert "goes on from 00-000003-epoch" in telling.checkpoint_damaged("00-000004-epoch", "00-000003-epoch")
