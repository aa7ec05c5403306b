import tracemalloc

import numpy as np
import pytest

from worker.training.statistics import (
    accuracy_interval,
    compare,
    difference_interval,
    drawn_means,
    exact_mcnemar,
    group_numbers,
    mcnemar,
    p_text,
    softmax,
    wilson_interval,
    with_temperature,
)


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


def test_a_temperature_divides_the_logits_and_can_be_taken_back() -> None:
    logits = np.array([[2.0, 0.0, -1.0], [0.1, 0.0, 0.2]])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scaled = with_temperature(probabilities, 2.5)
    assert scaled == pytest.approx(np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True))
    assert with_temperature(scaled, 1 / 2.5) == pytest.approx(probabilities)
    assert with_temperature(probabilities, None) == pytest.approx(probabilities)


def test_a_softmax_is_that_of_the_textbook_whatever_the_size_of_the_logits() -> None:
    assert softmax(np.array([[0.0, np.log(3.0)]])) == pytest.approx(np.array([[0.25, 0.75]]))
    assert softmax(np.array([[1000.0, 1000.0 + np.log(3.0)]], np.float64)) == pytest.approx(np.array([[0.25, 0.75]]))


def test_a_temperature_of_a_sigmoid_is_that_of_its_logit() -> None:
    first = 1 / (1 + np.exp(-3.0))
    scaled = with_temperature(np.array([[1 - first, first]]), 2.0)
    assert scaled[0, 1] == pytest.approx(1 / (1 + np.exp(-1.5)))


def test_pictures_without_a_group_are_groups_of_their_own() -> None:
    assert len(set(group_numbers([None, "a", None, "a"]))) == 3
    numbers = group_numbers(["p0", None, "p0"])
    assert numbers[0] == numbers[2] != numbers[1]


def test_without_groups_the_interval_is_wilsons() -> None:
    right = np.arange(50) < 40
    found = accuracy_interval(right, np.arange(50))
    assert found.method == "wilson"
    assert (found.low, found.high) == wilson_interval(40, 50)


def test_likeness_inside_groups_widens_the_interval() -> None:
    right = np.repeat([True, True, True, True, False] * 10, 4)
    alike, mixed = np.repeat(np.arange(50), 4), np.tile(np.arange(50), 4)
    one, other = accuracy_interval(right, alike), accuracy_interval(right, mixed)
    narrow = wilson_interval(160, 200)
    assert one.method == other.method == "cluster_bootstrap"
    assert one.high - one.low > 1.7 * (
        narrow[1] - narrow[0]
    )  # 50 groups of four equal pictures say what 50 pictures say
    assert other.high - other.low < one.high - one.low


def test_everything_right_in_few_groups_is_not_certain() -> None:
    found = accuracy_interval(np.ones(40, bool), np.repeat(np.arange(5), 8))
    assert found.high == 1.0
    assert found.low < 0.6


def test_one_single_group_says_as_much_as_one_picture() -> None:
    assert accuracy_interval(np.ones(40, bool), np.zeros(40, int)).low < 0.25


def test_the_interval_of_a_difference_holds_it_and_leaves_out_zero_where_it_is_clear() -> None:
    frozen, tuned = _right(471, 24, 7, 11)
    low, high = difference_interval(frozen, tuned, np.arange(513))
    assert 0 < low < 17 / 513 < high
    found = compare(frozen, tuned, "fine_tune")
    assert found.difference == pytest.approx(17 / 513)
    assert found.difference_interval == (low, high)


def test_no_difference_at_all_is_no_certainty() -> None:
    low, high = difference_interval(np.ones(20, bool), np.ones(20, bool), np.arange(20))
    assert low < -0.04
    assert high > 0.04


def test_mcnemars_exact_test_is_that_of_the_binomial_distribution() -> None:
    assert exact_mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert exact_mcnemar(0, 0) == 1.0


def test_copies_of_one_picture_are_one_vote() -> None:
    frozen, tuned = _right(100, 20, 2, 10)
    alone, groups = np.arange(132), np.arange(132)
    assert mcnemar(frozen, tuned, alone) == exact_mcnemar(20, 2)
    groups[100:120] = 100  # the twenty gained ones are copies of one picture
    found = compare(frozen, tuned, "fine_tune", groups)
    assert (found.gained, found.lost) == (20, 2)
    assert found.p_value == mcnemar(frozen, tuned, groups) == 1.0
    assert found.sentence.startswith("No difference shown. ")
    groups[100:120] = np.repeat(np.arange(100, 110), 2)  # of ten
    assert mcnemar(frozen, tuned, groups) == exact_mcnemar(10, 2)


def test_a_group_votes_as_most_of_its_differing_pictures_do_and_against_the_pictures_it_shows_nothing() -> None:
    frozen, tuned = _right(0, 11, 14, 0)
    mixed = np.array([0] * 3 + [1] * 8 + [0] * 2 + [1] * 8 + [2] * 4)  # 3 gained 2 lost; 8 and 8; 4 lost
    assert mcnemar(frozen, tuned, mixed) == exact_mcnemar(1, 1) == 1.0
    films = np.array([*range(11), *[11] * 14])  # eleven groups gained, one group lost, yet more pictures lost
    assert mcnemar(frozen, tuned, films) == 1.0


def test_few_groups_are_too_few_however_many_pictures_they_have() -> None:
    frozen, tuned = _right(160, 2, 2, 36)
    assert compare(frozen, tuned, "frozen").sentence.startswith("No difference shown. ")
    found = compare(frozen, tuned, "frozen", np.arange(200) // 20)
    assert found.sentence.startswith("Too few test pictures to tell. With 200 in 10 groups the interval spans ")


def test_resampling_draws_what_one_large_table_of_draws_would_hold() -> None:
    random = np.random.default_rng(5)
    groups, values = random.integers(0, 37, 400), random.normal(size=400)
    draws = np.random.default_rng(0)
    table = np.array([draws.multinomial(37, np.full(37, 1 / 37)) for _ in range(1000)])
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    assert drawn_means(values, groups) == pytest.approx((table @ sums) / (table @ sizes), rel=1e-12)


def test_resampling_many_groups_takes_no_memory_to_speak_of_and_keeps_none() -> None:
    count = 20_000
    tracemalloc.start()
    try:
        drawn_means(np.ones(count), np.arange(count))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 25_000_000  # the whole table: 160 MB
    assert kept < 1_000_000
