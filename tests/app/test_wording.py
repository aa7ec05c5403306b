from datetime import UTC, datetime, timedelta

import pytest

from app import wording


def test_a_share_of_few_pictures_has_no_decimal() -> None:
    assert wording.percent(0.8571, 49) == "86"
    assert wording.percent(0.8571, 50) == "85.7"


def test_a_column_of_percentages_keeps_its_decimals_aligned() -> None:
    assert str(wording.percent_cell(0.9, 10)) == '90<span class="pad" aria-hidden="true">.0</span>'
    assert str(wording.percent_cell(0.9, 100)) == "90.0"
    assert str(wording.percent_cell(None, 0)) == wording.NONE


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20 and 1 of 29
    assert wording.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wording.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wording.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert wording.wilson(0, 0) == (0.0, 1.0)


def test_a_scale_holds_every_interval_and_ends_at_one() -> None:
    assert wording.scale_from([(0.93, 0.97), (0.81, 0.9)]) == 0.8
    assert wording.scale_from([(0.99, 1.0)]) == 0.9
    assert wording.scale_from([]) == 0.0
    assert wording.along(0.9, 0.8) == "50.0%"
    assert wording.along(0.1, 0.8) == "0.0%"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (3675, "1:01:15"), (None, wording.NONE), (-3, "0:00")]
)
def test_durations_read_like_a_clock(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (13_900_000, "13.9 MB"),
        (999_900, "1 MB"),
        (10**10, "10 GB"),
        (2e12, "2000 GB"),
    ],
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert wording.size(count) == text


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(seconds=42), "42 s ago"),
        (timedelta(minutes=61), "1 h ago"),
        (timedelta(hours=30), "yesterday"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=40), "13 Oct"),
        (timedelta(days=400), "18 Oct 2025"),
    ],
)
def test_times_are_relative_until_a_date_says_more(past: timedelta, text: str) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert f">{text}</time>" in wording.ago(now - past, now)


def test_small_p_values_are_not_zero() -> None:
    assert wording.p_value(1e-9).replace("\N{NO-BREAK SPACE}", " ") == "p < 0.0001"
    assert wording.p_value(0.00314).replace("\N{NO-BREAK SPACE}", " ") == "p = 0.0031"


def test_one_thing_is_not_many() -> None:
    assert wording.plural(1, "picture") == "1 picture"
    assert wording.plural(3412, "picture") == "3,412 pictures"
    assert wording.plural(2, "class", "classes") == "2 classes"
