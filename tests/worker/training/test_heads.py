import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from worker.training.heads import STRENGTHS, Problem, choose_strength, fit, fit_scaler, objective, unpack


def _blobs(n: int = 120, d: int = 6, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, n)
    centres = random.normal(size=(3, d)) * 2
    return (centres[labels] + noise * random.normal(size=(n, d))).astype(np.float32), labels


def _problem(features: np.ndarray, labels: np.ndarray) -> Problem:
    return Problem(features, np.eye(3, dtype=np.float32)[labels], np.ones(len(labels), np.float32))


def test_every_iteration_is_told_with_its_log_probabilities() -> None:
    features, labels = _blobs()
    told: list[tuple[np.ndarray, np.ndarray]] = []
    fit(_problem(features, labels), 0.05, iterations=20, each=lambda *heard: told.append(heard))
    assert len(told) > 3
    for parameters, answered in told:
        kernel, bias = unpack(parameters, 3)
        expected = np.exp(features @ kernel + bias)
        np.testing.assert_allclose(np.exp(answered), expected / expected.sum(axis=1, keepdims=True), atol=1e-6)
    assert not np.array_equal(told[0][1], told[-1][1])


def test_the_gradient_is_that_of_the_objective() -> None:
    problem = _problem(*_blobs())
    parameters = np.random.default_rng(0).normal(size=7 * 3)
    gradient = objective(parameters, problem, 0.1)[1]
    for index in (0, 7, 20):
        step = np.zeros_like(parameters)
        step[index] = 1e-2
        slope = (objective(parameters + step, problem, 0.1)[0] - objective(parameters - step, problem, 0.1)[0]) / 2e-2
        assert gradient[index] == pytest.approx(slope, abs=1e-3)


def test_the_solution_is_scikit_learns() -> None:
    features, labels = _blobs()
    kernel, bias = unpack(fit(_problem(features, labels), 0.05, iterations=500), 3)
    reference = LogisticRegression(C=1 / (0.05 * len(labels)), max_iter=2000, tol=1e-8).fit(features, labels)
    np.testing.assert_allclose(kernel, reference.coef_.T, atol=1e-3)
    np.testing.assert_allclose(bias - bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=1e-3)


def test_the_scaler_merges_into_the_dense_layer() -> None:
    features, _ = _blobs()
    features[:, 0] = 5.0  # a feature that never changes
    scaler = fit_scaler(features)
    kernel, bias = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.arange(3, dtype=np.float32)
    merged_kernel, merged_bias = scaler.merged(kernel, bias)
    np.testing.assert_allclose(features @ merged_kernel + merged_bias, scaler(features) @ kernel + bias, atol=1e-4)


def test_noisy_features_get_a_stronger_penalty_than_clean_ones() -> None:
    def chosen(noise: float) -> float:
        features, labels = _blobs(noise=noise)
        return choose_strength(_problem(features, labels), np.arange(len(labels)), threads=2, check=lambda: None)[0]

    assert chosen(20.0) > chosen(0.5)


def test_views_of_one_picture_stay_on_one_side() -> None:
    features, labels = _blobs(n=60, d=60, noise=6.0)
    doubled = _problem(np.repeat(features, 4, axis=0), np.repeat(labels, 4))
    together, _ = choose_strength(doubled, np.repeat(np.arange(len(labels)), 4), threads=2, check=lambda: None)
    leaking, _ = choose_strength(doubled, np.arange(4 * len(labels)), threads=2, check=lambda: None)
    assert together > leaking


def test_one_group_only_takes_the_middle_strength() -> None:
    features, labels = _blobs()
    strength, losses = choose_strength(
        _problem(features, labels), np.zeros(len(labels), int), threads=1, check=lambda: None
    )
    assert strength in STRENGTHS
    assert losses == {}
