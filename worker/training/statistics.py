"""How sure a score is, and whether two networks differ on the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

_Z95 = 1.959963984540054
_MOST_POINTS = 20.0  # a wider interval than this says that there are too few test pictures to compare anything
_RESAMPLES = 1000
_DRAWN_AT_ONCE = 50
_PRIOR_GROUPS = 0.75  # worth of so many groups: that the pictures of a group are right or wrong together


def wilson_interval(right: float, total: float, z: float = _Z95) -> tuple[float, float]:
    """95 % interval of a share: E. B. Wilson, JASA 22 (1927). (0, 1) when `total` is 0."""
    if total == 0:
        return (0.0, 1.0)
    share = right / total
    z2 = z**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return (max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and how it was made: `wilson` or `cluster_bootstrap`."""

    low: float
    high: float
    method: str


def group_numbers(names: Sequence[str | None]) -> np.ndarray:
    """Group of each picture as a number from 0, int64 [n]; a picture without a group is a group of its own."""
    own = [f"g{name}" if name is not None else f"p{place}" for place, name in enumerate(names)]
    numbers: np.ndarray = np.unique(own, return_inverse=True)[1]
    return numbers


def accuracy_interval(right: np.ndarray, groups: np.ndarray) -> Interval:
    """How sure an accuracy is.

    Wilson's interval where every group has one picture. Else whole groups are drawn anew (cluster bootstrap); the spread of the
    drawn accuracies says how many independent pictures these are worth, and Wilson's interval is taken for so many, with Student's
    quantile for the number of groups. The percentiles of the drawn accuracies themselves cover too little: at n = 50 in 82 of 100
    cases (docs/figures.md). Few groups say little about their own likeness, so a prior worth three quarters of a group is mixed in,
    by which a group is right or wrong as one; it decides alone where everything is right.

    Args:
        right: bool [n].
        groups: int [n], from `group_numbers`.
    """
    n, share = len(right), float(right.mean())
    sizes = np.unique(groups, return_counts=True)[1]
    count = len(sizes)
    if count == n:
        return Interval(*wilson_interval(int(right.sum()), n), "wilson")
    if count == 1:  # as good as one picture
        return Interval(*wilson_interval(share, 1), "cluster_bootstrap")
    drawn = drawn_means(right.astype(np.float64), groups)
    worst = float((sizes**2).sum()) / n  # a group counts as one picture (Kish, 1965)
    variance = float(drawn.var()) * count / (count - 1)
    single = share * (1 - share) / n
    effect = float(np.clip(variance / single, 1.0, worst)) if single and variance else worst
    effect = (count * effect + _PRIOR_GROUPS * worst) / (count + _PRIOR_GROUPS)
    worth = n / effect
    z = float(student.ppf(0.975, count - 1))
    return Interval(*wilson_interval(share * worth, worth, z), "cluster_bootstrap")


def drawn_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Means of `values` float [n] over whole groups drawn with replacement, float64 [1000]; the same draws every time."""
    numbers = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(numbers, weights=values), np.bincount(numbers).astype(np.float64)
    count, random = len(sizes), np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES // _DRAWN_AT_ONCE):  # all at once would be a gigabyte for a hundred thousand groups
        times = random.multinomial(count, np.full(count, 1 / count), _DRAWN_AT_ONCE).astype(np.float64)
        drawn.append((times @ sums) / (times @ sizes))
    return np.concatenate(drawn)


def difference_interval(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the second accuracy minus the first, both on the same pictures: percentiles of a paired bootstrap over groups.

    Two made-up pictures, one gained and one lost, are drawn with the others, as D. G. Bonett and R. M. Price (2012) add them to their
    table: without them two networks that never differ on a few pictures would be called equal for certain.

    Args:
        first, second: bool [n], which pictures each has right.
        groups: int [n].
    """
    values = np.concatenate([second.astype(np.float64) - first, [1.0, -1.0]])
    drawn = drawn_means(values, np.concatenate([groups, groups.max() + np.array([1, 2])]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Fine-tuned against frozen on the same test pictures.

    Attributes:
        p_value: see `mcnemar`.
        gained: pictures that only the fine-tuned network has right.
        lost: pictures that only the frozen one has right.
        sentence: what that means.
        difference: accuracy of the fine-tuned one minus that of the frozen one.
        difference_interval: 95 %, by a paired bootstrap over groups.
    """

    p_value: float
    gained: int
    lost: int
    sentence: str
    difference: float
    difference_interval: tuple[float, float]


def exact_mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test; 1 without a difference."""
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)


def votes(gains: np.ndarray, groups: np.ndarray) -> tuple[int, int]:
    """(groups with more gained than lost pictures, groups with more lost than gained): pictures of a group share one vote.

    Args:
        gains: int [n], 1 for a gained picture, -1 for a lost one, 0 for no difference.
        groups: int [n].
    """
    net = np.bincount(np.unique(groups, return_inverse=True)[1], weights=gains)
    return int(np.count_nonzero(net > 0)), int(np.count_nonzero(net < 0))


def mcnemar(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> float:
    """Two-sided p-value of McNemar's exact test, each group counted once, by what most of its differing pictures say.

    Copies of one picture, or films of one patient, go right and wrong together: counted one by one they would show a difference that
    is none. 1 where groups and pictures point opposite ways, which shows nothing.

    Args:
        first, second: bool [n], which pictures each has right.
        groups: int [n].
    """
    gains = second.astype(np.int64) - first
    gained, lost = votes(gains, groups)
    return exact_mcnemar(gained, lost) if (gained - lost) * gains.sum() > 0 else 1.0


def compare(
    frozen_right: np.ndarray, tuned_right: np.ndarray, chosen: str, groups: np.ndarray | None = None
) -> Comparison:
    """Compare two networks picture by picture.

    Args:
        frozen_right: bool [n], which test pictures the frozen phase's network has right.
        tuned_right: bool [n], the same for the fine-tuned one.
        chosen: `frozen` or `fine_tune`, the phase that became the model.
        groups: int [n]; None: every picture by itself.
    """
    groups = np.arange(len(frozen_right)) if groups is None else groups
    gained = int(np.count_nonzero(tuned_right & ~frozen_right))
    lost = int(np.count_nonzero(frozen_right & ~tuned_right))
    p_value = mcnemar(frozen_right, tuned_right, groups)
    sentence = _sentence(frozen_right, tuned_right, groups, gained, lost, p_value, chosen)
    difference = (gained - lost) / len(frozen_right)
    return Comparison(
        p_value, gained, lost, sentence, difference, difference_interval(frozen_right, tuned_right, groups)
    )


def _sentence(
    frozen_right: np.ndarray,
    tuned_right: np.ndarray,
    groups: np.ndarray,
    gained: int,
    lost: int,
    p_value: float,
    chosen: str,
) -> str:
    n = len(frozen_right)
    facts = (
        f"Frozen {percent(frozen_right.mean())} → fine-tuned {percent(tuned_right.mean())}: {_pictures(gained)} gained, "
        f"{lost} lost, p = {p_text(p_value)}."
    )
    kept = "frozen" if chosen == "frozen" else "fine-tuned"
    if p_value < 0.05:
        if gained > lost:
            tail = (
                ""
                if chosen == "fine_tune"
                else " Validation preferred the frozen one, which is the model you download."
            )
            return f"Fine-tuning helped. {facts}{tail}"
        return f"Fine-tuning hurt. {facts} The {kept} one is the model you download."
    sure = accuracy_interval(tuned_right, groups)
    points, count = 100 * (sure.high - sure.low), len(np.unique(groups))
    if points > _MOST_POINTS:
        many = str(n) if count == n else f"{n} in {count} groups"
        return f"Too few test pictures to tell. With {many} the interval spans {points:.0f} points. Add pictures, or use repeats."
    advice = " Keep the frozen one: it is simpler and trains in seconds." if chosen == "frozen" else ""
    return f"No difference shown. {facts}{advice}"


def percent(share: float) -> str:
    """A share as people read it: 93.2 %."""
    return f"{100 * share:.1f} %"


def p_text(p_value: float) -> str:
    """A p-value with the digits that matter: 0.65, 0.003, 0.0003, below 0.0001."""
    if p_value < 0.0001:
        return "below 0.0001"
    if p_value < 0.001:
        return f"{p_value:.4f}"
    return f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 [n, classes] of logits float [n, classes]."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def with_temperature(probabilities: np.ndarray, temperature: float | None) -> np.ndarray:
    """Probabilities as they are once their logarithms are divided by a temperature: p ** (1 / T), normalised.

    The way back is `with_temperature(scaled, 1 / T)`; a sigmoid head's two columns are scaled as its logit would be. Where the network
    is at hand, its logits are divided instead: a probability near 0 or 1 is too coarse for that.

    Args:
        probabilities: float [n, classes].
        temperature: above 0; None changes nothing.

    Returns:
        float64 [n, classes].
    """
    return softmax(logarithms(probabilities) / (temperature or 1.0))


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Logits float64 [n, classes] of probabilities float [n, classes]; those below 1e-12 count as that."""
    found: np.ndarray = np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0))
    return found
