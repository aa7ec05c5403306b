"""How sure a score is, and whether two networks differ on the same pictures."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

_Z95 = 1.959963984540054
_MOST_POINTS = 20.0  # a wider interval than this says that there are too few test pictures to compare anything
_FEWEST_FOR_TEMPERATURE = 50


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share: E. B. Wilson, JASA 22 (1927). (0, 1) when `total` is 0."""
    if total == 0:
        return (0.0, 1.0)
    share = right / total
    z2 = _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return (max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Comparison:
    """Fine-tuned against frozen on the same test pictures.

    Attributes:
        p_value: exact two-sided McNemar test (binomial test of gained against lost).
        gained: pictures that only the fine-tuned network has right.
        lost: pictures that only the frozen one has right.
        sentence: what that means.
    """

    p_value: float
    gained: int
    lost: int
    sentence: str


def compare(frozen_right: np.ndarray, tuned_right: np.ndarray, chosen: str) -> Comparison:
    """Compare two networks picture by picture.

    Args:
        frozen_right: bool [n], which test pictures the frozen phase's network has right.
        tuned_right: bool [n], the same for the fine-tuned one.
        chosen: `frozen` or `fine_tune`, the phase that became the model.
    """
    gained = int(np.count_nonzero(tuned_right & ~frozen_right))
    lost = int(np.count_nonzero(frozen_right & ~tuned_right))
    p_value = 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)
    sentence = _sentence(frozen_right, tuned_right, gained, lost, p_value, chosen)
    return Comparison(p_value, gained, lost, sentence)


def _sentence(
    frozen_right: np.ndarray, tuned_right: np.ndarray, gained: int, lost: int, p_value: float, chosen: str
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
    low, high = wilson_interval(int(tuned_right.sum()), n)
    points = 100 * (high - low)
    if points > _MOST_POINTS:
        return f"Too few test pictures to tell. With {n} the interval spans {points:.0f} points. Add pictures, or use repeats."
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


def calibration(probabilities: np.ndarray, labels: np.ndarray, n_bins: int = 10) -> dict[str, object]:
    """Expected calibration error of the top answer, in equal-width bins (Guo et al., 2017).

    Args:
        probabilities: float [n, classes].
        labels: int [n].

    Returns:
        `ece`, and `bins`: a list of `{lower, upper, count, confidence, accuracy}` (null where empty).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    bins: list[dict[str, object]] = []
    ece = 0.0
    for number in range(n_bins):
        here = which == number
        count = int(here.sum())
        mean, share = (float(confidence[here].mean()), float(right[here].mean())) if count else (None, None)
        if mean is not None and share is not None:
            ece += count / len(labels) * abs(mean - share)
        bins.append(
            {
                "lower": number / n_bins,
                "upper": (number + 1) / n_bins,
                "count": count,
                "confidence": mean,
                "accuracy": share,
            }
        )
    return {"ece": ece, "bins": bins}


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """The one number by which log-probabilities are divided to be best calibrated on validation (Guo et al., 2017).

    None with fewer than 50 validation pictures: too few to say.
    """
    if len(labels) < _FEWEST_FOR_TEMPERATURE:
        return None
    logits = np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0))
    found = minimize_scalar(
        lambda log_t: _mean_loss(logits / np.exp(log_t), labels), bounds=(-3.0, 3.0), method="bounded"
    )
    return float(np.exp(found.x))


def with_temperature(probabilities: np.ndarray, temperature: float | None) -> np.ndarray:
    """Probabilities as they are once their logarithms are divided by a temperature: p ** (1 / T), normalised.

    The way back is `with_temperature(scaled, 1 / T)`; a sigmoid head's two columns are scaled as its logit would be.

    Args:
        probabilities: float [n, classes].
        temperature: above 0; None changes nothing.

    Returns:
        float64 [n, classes].
    """
    logits = np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0)) / (temperature or 1.0)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def _mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sums - shifted[np.arange(len(labels)), labels]).mean())
