"""The linear head by L-BFGS: L2 logistic regression on standardised features, strength by grouped cross-validation in train."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # strongest first
_FOLDS = 5
_SEARCH_ITERATIONS = 40
_SEARCHED_ROWS = 10_000  # enough to choose a strength; all rows are fitted


@dataclass(frozen=True)
class Problem:
    """What is fitted.

    Attributes:
        features: float32 [n, d], standardised.
        targets: float32 [n, classes], rows sum to one (smoothed labels).
        weights: float32 [n], weight of each row.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def rows(self, which: np.ndarray) -> "Problem":
        """The problem restricted to some rows."""
        return Problem(self.features[which], self.targets[which], self.weights[which])


@dataclass(frozen=True)
class Scaler:
    """Mean and scale of each feature over train; a constant feature keeps scale 1."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Standardise float32 [n, d]."""
        return (features - self.mean) / self.scale

    def merged(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same affine map for features that are not standardised: kernel [d, classes], bias [classes]."""
        merged = kernel / self.scale[:, np.newaxis]
        return merged.astype(np.float32), (bias - self.mean @ merged).astype(np.float32)


def fit_scaler(features: np.ndarray) -> Scaler:
    """Mean and standard deviation of float32 [n, d]."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = features.std(axis=0, dtype=np.float64).astype(np.float32)
    scale[scale < 1e-6] = 1.0
    return Scaler(mean, scale)


def objective(parameters: np.ndarray, problem: Problem, strength: float) -> tuple[float, np.ndarray]:
    """Weighted mean cross entropy plus `strength / 2 * |kernel|^2`, and its gradient.

    scikit-learn's LogisticRegression minimises the same with `C = 1 / (strength * sum of weights)`; the bias is not penalised.

    Args:
        parameters: float64 [(d + 1) * classes], kernel rows first, then the bias.
    """
    n_classes = problem.targets.shape[1]
    kernel = parameters[:-n_classes].reshape(-1, n_classes).astype(np.float32)
    logits = problem.features @ kernel + parameters[-n_classes:].astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    share = (problem.weights / problem.weights.sum(dtype=np.float64)).astype(np.float32)
    loss = -float(np.einsum("n,nc,nc->", share, problem.targets, log_probabilities, dtype=np.float64))
    error = (np.exp(log_probabilities) - problem.targets) * share[:, np.newaxis]
    gradient = np.concatenate([(problem.features.T @ error + strength * kernel).ravel(), error.sum(axis=0)])
    return loss + 0.5 * strength * float(np.square(kernel, dtype=np.float64).sum()), gradient.astype(np.float64)


def fit(
    problem: Problem,
    strength: float,
    *,
    iterations: int,
    start: np.ndarray | None = None,
    each: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Minimise `objective` by L-BFGS. `each` hears the parameters after every iteration and may stop it by StopIteration.

    Returns:
        parameters, float64 [(d + 1) * classes].
    """
    n_classes = problem.targets.shape[1]
    size = (problem.features.shape[1] + 1) * n_classes
    latest = np.zeros(size) if start is None else start

    def heard(parameters: np.ndarray) -> None:
        nonlocal latest
        latest = parameters.copy()
        if each is not None:
            each(latest)

    with contextlib.suppress(StopIteration):
        minimize(
            objective,
            latest,
            args=(problem, strength),
            jac=True,
            method="L-BFGS-B",
            callback=heard,
            options={"maxiter": iterations, "ftol": 1e-9, "gtol": 1e-6},
        )
    return latest


def unpack(parameters: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel float32 [d, classes] and bias float32 [classes]."""
    kernel = parameters[:-n_classes].reshape(-1, n_classes)
    return kernel.astype(np.float32), parameters[-n_classes:].astype(np.float32)


def choose_strength(
    problem: Problem, groups: np.ndarray, *, threads: int, check: Callable[[], None]
) -> tuple[float, dict[float, float]]:
    """The strength with the lowest held-out loss, by cross-validation that keeps each group on one side.

    Args:
        groups: int [n]; rows of one group (views of a picture, pictures of one group) are never on both sides.
        check: called before every fit; what it raises ends the search.

    Returns:
        the strength, and the held-out loss of every strength tried (empty with fewer than two groups).
    """
    if len(groups) > _SEARCHED_ROWS:
        some = np.sort(np.random.default_rng(0).choice(len(groups), _SEARCHED_ROWS, replace=False))
        problem, groups = problem.rows(some), groups[some]
    folds = min(_FOLDS, len(np.unique(groups)))
    if folds < 2:
        return STRENGTHS[2], {}

    def one_fold(sides: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return _held_out_losses(problem.rows(sides[0]), problem.rows(sides[1]), check)

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one_fold, GroupKFold(folds).split(problem.features, groups=groups)))
    losses = np.sum(found, axis=0) / float(problem.weights.sum())
    best = STRENGTHS[int(np.argmin(losses))]
    return best, {strength: float(loss) for strength, loss in zip(STRENGTHS, losses, strict=True)}


def _held_out_losses(learnt: Problem, held: Problem, check: Callable[[], None]) -> np.ndarray:
    """Summed loss on the held-out side for every one of STRENGTHS."""
    losses = []
    start = None
    for strength in STRENGTHS:  # strongest first: each solution is a good start for the next
        check()
        start = fit(learnt, strength, iterations=_SEARCH_ITERATIONS, start=start)
        losses.append(objective(start, held, 0.0)[0] * float(held.weights.sum()))
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break  # weaker only overfits more from here
    worst = losses[-1]
    return np.asarray(losses + [worst] * (len(STRENGTHS) - len(losses)))


def one_blas_thread() -> AbstractContextManager[object]:
    """One thread per matrix product: NumPy's, SciPy's and TensorFlow's pools spin and starve each other on few cores."""
    return threadpool_limits(1, user_api="blas")
