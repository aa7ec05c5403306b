"""Temperatures: right where pictures are many, careful where they are few."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from worker.training.statistics import softmax
from worker.training.temperature import fit_temperature


def _drawn(count: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [count, 4] of a network that is calibrated once they are divided by `temperature`, and labels."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(count, 4))
    labels = (softmax(logits).cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    return temperature * logits, labels


def _loss(logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> float:
    return float(-log_softmax(logits / (temperature or 1.0), axis=1)[np.arange(len(labels)), labels].mean())


def _likeliest(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the highest likelihood."""
    found = minimize_scalar(lambda one: _loss(logits, labels, float(np.exp(one))), bounds=(-3, 7), method="bounded")
    return float(np.exp(found.x))


@pytest.mark.parametrize("wanted", [0.4, 1.0, 3.0])
def test_many_pictures_give_the_temperature_that_calibrates(wanted: float) -> None:
    assert fit_temperature(*_drawn(20_000, wanted, 1), np.arange(20_000)) == pytest.approx(wanted, rel=0.06)


def test_few_pictures_that_are_all_right_do_not_make_a_network_sure_of_everything() -> None:
    logits = np.where(np.arange(60)[:, None] % 4 == np.arange(4), 3.0 + np.arange(60)[:, None] / 60, 0.0)
    bold = _likeliest(logits, np.arange(60) % 4)
    careful = fit_temperature(logits, np.arange(60) % 4, np.arange(60))
    assert careful is not None
    assert bold < 0.1
    assert softmax(logits / careful).max() < 0.995


def test_few_pictures_of_a_calibrated_network_hardly_move_it() -> None:
    logits, labels = _drawn(20_000, 1.0, 0)
    harm: dict[str, list[float]] = {"bold": [], "careful": []}
    for seed in range(1, 101):
        few = _drawn(60, 1.0, seed)
        for name, found in (
            ("bold", _likeliest(*few)),
            ("careful", fit_temperature(*few, np.arange(60))),
        ):
            harm[name].append(_loss(logits, labels, found) - _loss(logits, labels, 1.0))
    assert np.mean(harm["careful"]) < 0.4 * np.mean(harm["bold"])
    assert np.max(harm["careful"]) < 0.5 * np.max(harm["bold"])


def test_copies_of_pictures_in_their_groups_do_not_make_a_temperature_bolder() -> None:
    logits, labels = _drawn(80, 2.0, 5)
    once = fit_temperature(logits, labels, np.arange(80))
    copies = (np.repeat(logits, 20, axis=0), np.repeat(labels, 20))
    assert fit_temperature(*copies, np.repeat(np.arange(80), 20)) == pytest.approx(once, rel=1e-3)
    assert fit_temperature(*copies, np.arange(1600)) != pytest.approx(once, rel=0.05)


def test_fewer_than_fifty_pictures_give_no_temperature() -> None:
    assert fit_temperature(np.zeros((49, 2)), np.zeros(49, int), np.arange(49)) is None


def test_very_sure_logits_are_no_obstacle() -> None:
    labels = np.arange(4000) % 2
    said = np.where(np.arange(4000) < 320, 1 - labels, labels)  # 8 % wrong, all as sure as the others
    logits = np.where(np.arange(2) == said[:, None], 600.0, 0.0)
    assert fit_temperature(logits, labels, np.arange(4000)) == pytest.approx(600 / np.log(0.92 / 0.08), rel=0.05)
