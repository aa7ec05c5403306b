import numpy as np
import pytest

from worker.training.statistics import calibration, compare, fit_temperature, p_text, wilson_interval, with_temperature


def _right(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """(frozen, tuned) with counts of: both right, gained, lost, both wrong."""
    both, gained, lost, neither = counts
    frozen = np.repeat([True, False, True, False], (both, gained, lost, neither))
    tuned = np.repeat([True, True, False, False], (both, gained, lost, neither))
    return frozen, tuned


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_fine_tuning_helped() -> None:
    found = compare(*_right(471, 24, 7, 11), "fine_tune")
    assert found.p_value == pytest.approx(0.00332, abs=1e-4)
    assert (found.gained, found.lost) == (24, 7)
    assert found.sentence == (
        "Fine-tuning helped. Frozen 93.2 % → fine-tuned 96.5 %: 24 pictures gained, 7 lost, p = 0.003."
    )


def test_fine_tuning_hurt_and_the_frozen_one_is_kept() -> None:
    found = compare(*_right(451, 6, 27, 29), "frozen")
    assert found.sentence.startswith(
        "Fine-tuning hurt. Frozen 93.2 % → fine-tuned 89.1 %: 6 pictures gained, 27 lost, p = 0.0003."
    )
    assert found.sentence.endswith("The frozen one is the model you download.")


def test_no_difference_shown() -> None:
    found = compare(*_right(470, 11, 8, 24), "frozen")
    assert found.sentence.startswith("No difference shown. ")
    assert "p = 0.65" in found.sentence


def test_too_few_pictures_to_tell() -> None:
    found = compare(*_right(8, 1, 1, 2), "frozen")
    assert found.sentence.startswith("Too few test pictures to tell. With 12 the interval spans ")


def test_equal_answers_give_p_one() -> None:
    assert compare(*_right(400, 0, 0, 10), "frozen").p_value == 1.0


@pytest.mark.parametrize(("p", "text"), [(0.65, "0.65"), (0.0033, "0.003"), (0.0003, "0.0003"), (1e-9, "below 0.0001")])
def test_p_values_have_the_digits_that_matter(p: float, text: str) -> None:
    assert p_text(p) == text


def test_calibration_of_an_always_sure_and_half_right_network() -> None:
    found = calibration(np.tile([1.0, 0.0], (10, 1)), np.array([0, 1] * 5))
    assert found["ece"] == pytest.approx(0.5)
    bins = found["bins"]
    assert isinstance(bins, list)
    assert [one["count"] for one in bins] == [0] * 9 + [10]


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3)) * 2
    truth = np.array([random.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    sharp = np.exp(logits * 3)
    assert fit_temperature(sharp / sharp.sum(axis=1, keepdims=True), truth) == pytest.approx(3.0, rel=0.1)


def test_fewer_than_fifty_pictures_give_no_temperature() -> None:
    assert fit_temperature(np.full((49, 2), 0.5), np.zeros(49, int)) is None


def test_a_temperature_divides_the_logits_and_can_be_taken_back() -> None:
    logits = np.array([[2.0, 0.0, -1.0], [0.1, 0.0, 0.2]])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scaled = with_temperature(probabilities, 2.5)
    assert scaled == pytest.approx(np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True))
    assert with_temperature(scaled, 1 / 2.5) == pytest.approx(probabilities)
    assert with_temperature(probabilities, None) == pytest.approx(probabilities)


def test_a_temperature_of_a_sigmoid_is_that_of_its_logit() -> None:
    first = 1 / (1 + np.exp(-3.0))
    scaled = with_temperature(np.array([[1 - first, first]]), 2.0)
    assert scaled[0, 1] == pytest.approx(1 / (1 + np.exp(-1.5)))
