import numpy as np
import pytest

from worker.training.reliability import before_and_after, calibration, thresholds
from worker.training.statistics import with_temperature


def drawn(n: int, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, labels) of a calibrated network of three classes; sharpened, it is too sure of itself."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 3)) * 2
    calibrated = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(3, p=row) for row in calibrated])
    return with_temperature(calibrated, 1 / sharpness), labels


def test_an_always_sure_and_half_right_network_is_off_by_half() -> None:
    found = calibration(np.tile([1.0, 0.0], (10, 1)), np.array([0, 1] * 5))
    assert found["ece"] == pytest.approx(0.5)
    assert [one["count"] for one in found["bins"]] == [0] * 9 + [10]
    assert found["bins"][9]["band"] == [1.0, 1.0]
    assert found["calibrated"] is False


def test_few_pictures_of_a_calibrated_network_lie_inside_the_band_although_their_error_is_not_zero() -> None:
    inside = [calibration(*drawn(60, seed=seed)) for seed in range(40)]
    assert min(one["ece"] for one in inside) > 0.01
    assert sum(one["calibrated"] for one in inside) >= 36  # 97.5 % expected


def test_bands_of_the_bins_hold_the_accuracy_of_a_calibrated_network() -> None:
    bins = [one for seed in range(20) for one in calibration(*drawn(300, seed=seed))["bins"] if one["count"]]
    held = [one["band"][0] <= one["accuracy"] <= one["band"][1] for one in bins]
    assert np.mean(held) > 0.92


def test_more_pictures_make_the_band_narrower() -> None:
    few, many = calibration(*drawn(50)), calibration(*drawn(5000))
    assert many["ece_band"][1] < few["ece_band"][1] / 4


def test_scaling_is_shown_before_and_after() -> None:
    sharp, labels = drawn(2000, sharpness=3.0)
    found = before_and_after(sharp, labels, 3.0, scaled=False)
    assert found["ece"] == found["before"]["ece"] > found["after"]["ece"]
    assert found["before"]["loss"] > found["after"]["loss"]
    assert found["before"]["calibrated"] is False
    assert found["after"]["calibrated"] is True


def test_answers_that_are_scaled_already_give_the_same_before_and_after() -> None:
    sharp, labels = drawn(2000, sharpness=3.0)
    one = before_and_after(sharp, labels, 3.0, scaled=False)
    other = before_and_after(with_temperature(sharp, 3.0), labels, 3.0, scaled=True)
    assert other["ece"] == other["after"]["ece"]
    for side in ("before", "after"):
        assert other[side]["ece"] == pytest.approx(one[side]["ece"])
        assert other[side]["loss"] == pytest.approx(one[side]["loss"])


def test_without_a_temperature_there_is_no_after() -> None:
    found = before_and_after(*drawn(40), None, scaled=False)
    assert found["after"] is None
    assert found["temperature"] is None


def test_a_higher_threshold_answers_less_and_is_right_more_often() -> None:
    rows = thresholds(*drawn(3000))
    assert rows[0]["coverage"] == 1.0
    assert rows[0]["threshold"] == 0.0
    answered = [row["answered"] for row in rows]
    assert answered == sorted(answered, reverse=True)
    assert rows[9]["precision"] > rows[0]["precision"] + 0.1
    low, high = rows[9]["precision_interval"]
    assert low < rows[9]["precision"] < high


def test_a_threshold_that_nothing_reaches_has_no_precision() -> None:
    rows = thresholds(np.full((4, 2), 0.5), np.zeros(4, int))
    assert rows[-1]["answered"] == 0
    assert rows[-1]["precision"] is None
