import numpy as np
import pytest

from worker.training.class_curves import MOST_CLASSES, areas, curves


def test_areas_of_a_class_are_those_of_counted_pairs() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    labels = np.array([0, 0, 1, 1])
    (roc, average), _ = areas(probabilities, labels)
    assert roc == pytest.approx(3 / 4)  # of four pairs, one stands the wrong way round
    assert average == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_a_class_without_pictures_has_no_area_and_no_curve() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    found = areas(probabilities, np.array([0, 1]))
    assert found[2] == (None, None)
    rows = curves(probabilities, np.array([0, 1]), ["a", "b", "c"], [one[0] for one in found])
    assert [row["class_name"] for row in rows] == ["a", "b"]


def test_curves_are_thinned_and_keep_their_ends() -> None:
    random = np.random.default_rng(0)
    first = random.random(5000)
    labels = (random.random(5000) > first).astype(int)
    probabilities = np.stack([first, 1 - first], axis=1)
    (row, _) = curves(probabilities, labels, ["a", "b"], [0.8, 0.8])
    false, true = row["roc"]["false_positive_rate"], row["roc"]["true_positive_rate"]
    assert len(false) <= 41
    assert (false[0], true[0], false[-1], true[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert row["precision_recall"]["recall"][0] == 0.0
    assert row["precision_recall"]["recall"][-1] == 1.0


def test_of_many_classes_those_told_apart_worst_have_curves() -> None:
    count = MOST_CLASSES + 5
    probabilities = np.full((count, count), 1 / count)
    roc = [0.9 - label / 1000 for label in range(count)]
    rows = curves(probabilities, np.arange(count), [str(label) for label in range(count)], roc)
    assert [row["class_name"] for row in rows] == [str(label) for label in range(5, count)]
