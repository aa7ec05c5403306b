"""The one number that makes probabilities mean what they say."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_FEWEST = 50
_BOUNDS = (-3.0, 7.0)  # of its logarithm: 0.05 to 1100
_STEPS = 101  # tried between 1 and the best


def fit_temperature(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float | None:
    """By what logits are divided (Guo et al., 2017), no further from 1 than these pictures speak for.

    The likelihood's own answer is too bold where pictures are few: when all are right it is 0, and one that is surely wrong moves it
    far. So, first, what is true gets a target of 1 - 1 / (n + 2) and not 1, n groups of pictures (Platt, 1999: as if one of two more
    answers were wrong). And second, of all temperatures between 1 and the best, that nearest to 1 is taken whose loss is within one
    standard error of the best one's (Breiman et al., 1984, there for the size of a tree), by the differences picture by picture.
    Both fade as pictures become many.

    Args:
        logits: float [n, classes], as the network has them before its softmax, of pictures that it has not learnt from.
        labels: int [n].
        groups: int [n] from 0; pictures of one group are right or wrong together.

    Returns:
        None with fewer than 50 pictures: too few to say.
    """
    if len(labels) < _FEWEST:
        return None
    missing = 1 / (int(groups.max()) + 3)
    targets = np.full(logits.shape, missing / (logits.shape[1] - 1))
    targets[np.arange(len(labels)), labels] = 1 - missing

    def losses(log_temperature: float) -> np.ndarray:
        found: np.ndarray = -(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1)
        return found

    best = float(minimize_scalar(lambda one: losses(one).mean(), bounds=_BOUNDS, method="bounded").x)
    lowest = losses(best)
    for one in np.linspace(0.0, best, _STEPS):
        more = losses(one) - lowest
        if more.mean() <= _standard_error(more, groups):
            return float(np.exp(one))
    return float(np.exp(best))


def _standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Of the mean of float [n], groups whole; infinite with one group."""
    sums = np.bincount(groups, values - values.mean())
    if len(sums) < 2:
        return float("inf")
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1))) / len(values)
