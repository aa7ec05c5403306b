"""Whether a network's confidence can be believed: reliability bins, what chance alone would show, coverage against precision."""

from typing import Any

import numpy as np

from worker.training.statistics import wilson_interval, with_temperature

_BINS = 10
_FINE = 100  # bins of the simulation: within one, all pictures are taken to be equally sure
_SIMULATED = 1000
THRESHOLDS = (0.0, *(round(0.5 + 0.05 * step, 2) for step in range(10)), 0.98, 0.99, 0.995, 0.999)


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Expected calibration error of the top answer, in ten equal-width bins (Guo et al., 2017), and its place among chance.

    Args:
        probabilities: float [n, classes].
        labels: int [n].

    Returns:
        `ece`; `ece_band`: [2.5 %, 97.5 %] of the error that a calibrated network this sure on these pictures would show; `calibrated`:
        `ece` is not above that band; `bins`: a list of `{lower, upper, count, confidence, accuracy, band}`, where `band` is the same
        for the bin's accuracy (null where the bin is empty).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    fine = np.minimum((confidence * _FINE).astype(int), _FINE - 1)
    which = fine // (_FINE // _BINS)
    chance = _chance(confidence, fine)
    sizes = np.bincount(which, minlength=_BINS)
    bins: list[dict[str, Any]] = []
    ece, errors = 0.0, np.zeros(_SIMULATED)
    for number, count in enumerate(map(int, sizes)):
        row: dict[str, Any] = {"lower": number / _BINS, "upper": (number + 1) / _BINS, "count": count}
        if count == 0:
            bins.append({**row, "confidence": None, "accuracy": None, "band": None})
            continue
        here = which == number
        mean, share = float(confidence[here].mean()), float(right[here].mean())
        ece += count / len(labels) * abs(mean - share)
        errors += count / len(labels) * np.abs(mean - chance[:, number] / count)
        bins.append({**row, "confidence": mean, "accuracy": share, "band": _band(chance[:, number] / count)})
    band = _band(errors)
    return {"ece": ece, "ece_band": band, "calibrated": ece <= band[1], "bins": bins}


def _chance(confidence: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Right answers per bin if every answer were right as often as it is sure, in 1000 draws: float64 [1000, bins]."""
    sizes = np.bincount(fine, minlength=_FINE)
    means = np.bincount(fine, weights=confidence, minlength=_FINE) / np.maximum(sizes, 1)
    drawn = np.random.default_rng(0).binomial(sizes, np.clip(means, 0.0, 1.0), (_SIMULATED, _FINE))
    found: np.ndarray = drawn.reshape(_SIMULATED, _BINS, -1).sum(axis=2)
    return found


def _band(values: np.ndarray) -> list[float]:
    return [float(one) for one in np.quantile(values, [0.025, 0.975])]


def before_and_after(
    probabilities: np.ndarray, labels: np.ndarray, temperature: float | None, *, scaled: bool
) -> dict[str, Any]:
    """Calibration of the answers as given, and of the same with and without the temperature.

    Args:
        probabilities: float [n, classes], as the network answers.
        labels: int [n].
        temperature: fitted on validation; None where there were too few pictures to fit one.
        scaled: the probabilities are divided by it already.

    Returns:
        `calibration` of the answers as given, with `temperature` and `scaled`; `before` and `after` scaling: `{ece, ece_band, calibrated,
        loss, bins}`, `after` null without a temperature.
    """
    plain, divided = probabilities, None
    if temperature is not None:
        plain = with_temperature(probabilities, 1 / temperature) if scaled else probabilities
        divided = probabilities if scaled else with_temperature(probabilities, temperature)
    before = {**calibration(plain, labels), "loss": log_loss(plain, labels)}
    after = None if divided is None else {**calibration(divided, labels), "loss": log_loss(divided, labels)}
    given = after if scaled and after is not None else before
    shown = {name: given[name] for name in ("ece", "ece_band", "calibrated", "bins")}
    return {**shown, "temperature": temperature, "scaled": scaled, "before": before, "after": after}


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy; a probability below 1e-7 counts as that."""
    answered = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(answered, 1e-7)).mean())


def thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """What happens when only answers at least this sure are given.

    Returns:
        Rows `{threshold, answered, right, coverage, precision, precision_interval}`; precision null where nothing is answered.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    rows = []
    for threshold in THRESHOLDS:
        given = confidence >= threshold
        answered, good = int(given.sum()), int(right[given].sum())
        rows.append(
            {
                "threshold": threshold,
                "answered": answered,
                "right": good,
                "coverage": answered / len(labels),
                "precision": good / answered if answered else None,
                "precision_interval": list(wilson_interval(good, answered)),
            }
        )
    return rows
