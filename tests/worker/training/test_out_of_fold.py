"""Out-of-fold probabilities: nobody is judged by a head that has seen him, and planted errors come first."""

import numpy as np
import pytest

from worker.training.out_of_fold import out_of_fold, ranked


def blobs(n: int, classes: int, *, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian features around one centre per class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = random.normal(size=(classes, 32)) * apart
    return (centres[labels] + random.normal(size=(n, 32))).astype(np.float32), labels.astype(np.int64)


def test_planted_errors_come_first_and_are_likely() -> None:
    features, labels = blobs(300, 4, apart=2.0)
    planted = np.random.default_rng(1).choice(300, 30, replace=False)
    given = labels.copy()
    given[planted] = (given[planted] + 1) % 4
    probabilities = out_of_fold(features, given, np.arange(300), 4, threads=2)
    assert probabilities.shape == (300, 4)
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    ranking = ranked(given, probabilities)
    assert np.isin(ranking.order[:30], planted).mean() >= 0.9
    assert (ranking.suggested[planted] == labels[planted]).mean() >= 0.9
    assert ranking.likely[planted].mean() >= 0.8
    assert ranking.likely[np.setdiff1d(np.arange(300), planted)].mean() <= 0.05


def test_a_picture_is_never_judged_by_a_head_that_has_seen_its_group() -> None:
    """Labels that mean nothing, each picture there twice: whoever looks at the other half of a pair knows its label by heart."""
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(60, 200)).astype(np.float32), 2, axis=0)
    labels = np.repeat(random.integers(0, 2, 60), 2)
    pairs = np.repeat(np.arange(60), 2)

    def right(groups: np.ndarray) -> float:
        return float((out_of_fold(features, labels, groups, 2, threads=1).argmax(axis=1) == labels).mean())

    assert right(np.arange(120)) > 0.85, "the twin gives it away"
    assert right(pairs) < 0.65, "chance"


def test_the_answer_does_not_depend_on_threads() -> None:
    features, labels = blobs(80, 3, apart=1.0)
    one, two = (out_of_fold(features, labels, np.arange(80), 3, threads=threads) for threads in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("groups", [np.zeros(9, np.int64), np.arange(9)], ids=["one group", "tiny"])
def test_too_little_to_fold_is_no_error(groups: np.ndarray) -> None:
    features, labels = blobs(9, 3, apart=1.0)
    probabilities = out_of_fold(features, labels, groups, 3, threads=1)
    assert np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert len(ranked(labels, probabilities).order) == 9


def test_it_stops_when_told_to() -> None:
    features, labels = blobs(60, 3, apart=1.0)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        out_of_fold(features, labels, np.arange(60), 3, threads=2, check=stop)
