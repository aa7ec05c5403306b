import numpy as np
import pytest

from worker.training.robustness import BORDER, CHANGES, MOST_PICTURES, decided_by_border, robustness, sample

SIDE = 40


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 180, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_keeps_the_shape_changes_the_picture_and_is_the_same_again(name: str) -> None:
    pixels = pictures(1)[0]
    before = pixels.copy()
    one, other = CHANGES[name](pixels), CHANGES[name](pixels)
    assert one.shape == pixels.shape
    assert one.dtype == np.uint8
    assert not np.array_equal(one, pixels)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(pixels, before)


def test_centre_and_border_share_the_picture_between_them() -> None:
    pixels = pictures(1)[0]
    kept = [(CHANGES[name](pixels) == pixels).all(axis=2) for name in ("centre_only", "border_only")]
    assert (kept[0] | kept[1]).all()
    assert kept[0].mean() == pytest.approx((1 - 2 * BORDER) ** 2, abs=0.03)


@pytest.mark.parametrize("shape", [(40, 40), (33, 500), (500, 33), (9, 2)])
def test_no_part_of_a_rotated_picture_comes_from_nowhere(shape: tuple[int, int]) -> None:
    turned = CHANGES["rotated_15"](np.full((*shape, 3), 200, np.uint8))
    assert (turned == 200).all()


def test_a_large_test_is_sampled_with_every_class_in_its_share() -> None:
    labels = np.repeat([0, 1, 2], [6000, 3000, 1000])
    places = sample(labels)
    assert len(places) == len(set(places.tolist())) == MOST_PICTURES
    assert np.bincount(labels[places]) == pytest.approx([180, 90, 30], abs=1)
    np.testing.assert_array_equal(sample(labels[:50]), np.arange(50))


def by_corner(pixels: np.ndarray) -> np.ndarray:
    """A network that says class 1 where the upper left corner is white, else by the brightness of the middle."""
    corner = pixels[:, :4, :4].mean(axis=(1, 2, 3)) > 240
    middle = pixels[:, 15:25, 15:25].mean(axis=(1, 2, 3))
    said = np.where(corner, 1, np.where(middle > 150, 2, 0))
    return np.eye(3, dtype=np.float32)[said]


def planted(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = pictures(3 * count), np.repeat([0, 1, 2], count)
    pixels[labels == 1, :6, :6] = 255
    pixels[labels == 2, 10:30, 10:30] = 200
    return pixels, labels


def test_a_planted_corner_mark_is_reported_as_decided_by_the_border() -> None:
    pixels, labels = planted()
    card = robustness(pixels, labels, np.arange(len(labels)), ["dark", "marked", "bright"], by_corner)
    assert card["accuracy"] == 1.0
    assert [one["class_name"] for one in card["border"]] == ["marked"]
    (found,) = card["border"]
    assert (found["by_border"], found["by_centre"], found["false_by_border"]) == (1.0, 0.0, 0.0)
    assert found["p_value"] == pytest.approx(3 / 2**10)
    rows = {row["name"]: row for row in card["changes"]}
    assert list(rows) == list(CHANGES)
    assert rows["centre_only"]["accuracy"] == pytest.approx(2 / 3)
    assert rows["centre_only"]["lost"] == 10
    assert rows["centre_only"]["p_value"] == pytest.approx(2 / 2**10)
    assert rows["jpeg_30"]["accuracy"] == 1.0


def test_ten_copies_of_one_picture_call_nobody_out_and_lose_once() -> None:
    pixels, labels = planted()
    groups = np.where(labels == 1, 100, np.arange(len(labels)))
    card = robustness(pixels, labels, groups, ["dark", "marked", "bright"], by_corner)
    assert card["border"] == []
    (row,) = [row for row in card["changes"] if row["name"] == "centre_only"]
    assert (row["lost"], row["p_value"]) == (10, 1.0)


def test_few_pictures_call_nobody_out() -> None:
    pixels, labels = planted(3)
    assert robustness(pixels, labels, np.arange(9), ["a", "b", "c"], by_corner)["border"] == []


def test_a_network_that_says_one_class_of_every_border_is_not_called_out_for_it() -> None:
    labels = np.repeat([0, 1], 20)
    always_one, never_one = np.ones(40, int), np.zeros(40, int)
    assert decided_by_border(always_one, never_one, labels, np.arange(40), ["a", "b"]) == []


def test_chance_calls_out_less_than_one_run_in_a_hundred() -> None:
    random = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        labels = np.repeat(np.arange(4), 15)
        right = random.random((2, 60)) < 0.8
        said = [np.where(one, labels, random.integers(0, 4, 60)) for one in right]
        called += bool(decided_by_border(*said, labels, np.arange(60), list("abcd")))
    assert called <= 4
