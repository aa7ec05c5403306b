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
_FIRST_STRENGTH = 1  # the search begins here; the strongest is tried only where weaker ones lose
_SEARCHED_ROWS = 10_000  # enough to choose a strength; all rows are fitted
# The search needs to tell strengths apart, not the last digit. EfficientNet-Lite0 features of 1,000 pictures of 33 classes: the same
# strength as by 40 iterations on all axes, losses within .005, in a tenth of the time.
_SEARCH_ITERATIONS = 40
_SEARCH_TOLERANCE = 1e-4
_SEARCH_MEMORY = 5
_KEPT_VARIANCE = 0.99


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


def smoothed(labels: np.ndarray, n_classes: int, smoothing: float) -> np.ndarray:
    """Targets float32 [n, classes]: `1 - smoothing` on the label, int [n], and `smoothing` spread over all classes."""
    targets = np.full((len(labels), n_classes), smoothing / n_classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1.0 - smoothing
    return targets


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


def log_probabilities(parameters: np.ndarray, features: np.ndarray, n_classes: int) -> np.ndarray:
    """Of every class, float32 [n, classes], as the head with these `parameters` answers to float32 [n, d]."""
    kernel, bias = unpack(parameters, n_classes)
    logits: np.ndarray = features @ kernel
    logits += bias
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def objective(parameters: np.ndarray, problem: Problem, strength: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Weighted mean cross entropy plus `strength / 2 * |kernel|^2`, and its gradient.

    scikit-learn's LogisticRegression minimises the same with `C = 1 / (strength * sum of weights)`; the bias is not penalised.

    Args:
        parameters: float64 [(d + 1) * classes], kernel rows first, then the bias.

    Returns:
        the value, its gradient (float64, as `parameters`), and the `log_probabilities` on the way to them.
    """
    n_classes = problem.targets.shape[1]
    answered = log_probabilities(parameters, problem.features, n_classes)
    share = (problem.weights / problem.weights.sum(dtype=np.float64)).astype(np.float32)
    loss = -float(np.einsum("n,nc,nc->", share, problem.targets, answered, dtype=np.float64))
    error = (np.exp(answered) - problem.targets) * share[:, np.newaxis]
    kernel = parameters[:-n_classes].reshape(-1, n_classes)
    gradient = np.empty_like(parameters)
    slope = gradient[:-n_classes].reshape(-1, n_classes)
    np.multiply(kernel, strength, out=slope)
    slope += problem.features.T @ error
    gradient[-n_classes:] = error.sum(axis=0)
    return loss + 0.5 * strength * float(np.vdot(kernel, kernel)), gradient, answered


def fit(
    problem: Problem,
    strength: float,
    *,
    iterations: int,
    start: np.ndarray | None = None,
    each: Callable[[np.ndarray, np.ndarray], None] | None = None,
    tolerance: float = 1e-9,
    memory: int = 10,
) -> np.ndarray:
    """Minimise `objective` by L-BFGS.

    Args:
        each: hears the parameters and their log-probabilities after every iteration, and may stop it by StopIteration.
        tolerance: relative fall of the objective at which it is solved.
        memory: steps that L-BFGS remembers.

    Returns:
        parameters, float64 [(d + 1) * classes].
    """
    n_classes = problem.targets.shape[1]
    size = (problem.features.shape[1] + 1) * n_classes
    latest = np.zeros(size) if start is None else start
    seen: tuple[np.ndarray, np.ndarray] | None = None  # where L-BFGS last looked, which most often is where it goes

    def looked(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal seen
        value, gradient, answered = objective(parameters, problem, strength)
        seen = parameters.copy(), answered
        return value, gradient

    def heard(parameters: np.ndarray) -> None:
        nonlocal latest
        latest = parameters.copy()
        if each is None:
            return
        if seen is not None and np.array_equal(seen[0], latest):
            each(latest, seen[1])
        else:
            each(latest, log_probabilities(latest, problem.features, n_classes))

    with contextlib.suppress(StopIteration):
        minimize(
            looked,
            latest,
            jac=True,
            method="L-BFGS-B",
            callback=heard,
            options={"maxiter": iterations, "ftol": tolerance, "gtol": 1e-6, "maxcor": memory},
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

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        search = _Search(on_main_axes(problem), list(GroupKFold(folds).split(problem.features, groups=groups)), check)
        losses = search.run(pool)
    return min(losses, key=lambda strength: losses[strength]), losses


class _Search:
    """Held-out loss by strength, all folds side by side. Each solution is the start for the next, weaker strength."""

    def __init__(self, problem: Problem, sides: list[tuple[np.ndarray, np.ndarray]], check: Callable[[], None]) -> None:
        self._sides = [(problem.rows(learnt), problem.rows(held)) for learnt, held in sides]
        self._weight = float(problem.weights.sum())
        self._check = check

    def run(self, pool: ThreadPoolExecutor) -> dict[float, float]:
        """Try weaker and weaker strengths until the loss rises; where already the second is worse, the strongest too."""
        starts: list[np.ndarray | None] = [None] * len(self._sides)
        losses: dict[float, float] = {}
        for strength in STRENGTHS[_FIRST_STRENGTH:]:
            losses[strength] = self._loss(pool, strength, starts)
            if losses[strength] > min(losses.values()):
                break
        if min(losses, key=lambda strength: losses[strength]) == STRENGTHS[_FIRST_STRENGTH]:
            for strength in STRENGTHS[:_FIRST_STRENGTH]:
                losses[strength] = self._loss(pool, strength, [None] * len(self._sides))
        return losses

    def _loss(self, pool: ThreadPoolExecutor, strength: float, starts: list[np.ndarray | None]) -> float:
        def one_fold(number: int) -> float:
            self._check()
            learnt, held = self._sides[number]
            found = fit(
                learnt,
                strength,
                iterations=_SEARCH_ITERATIONS,
                start=starts[number],
                tolerance=_SEARCH_TOLERANCE,
                memory=_SEARCH_MEMORY,
            )
            starts[number] = found
            return objective(found, held, 0.0)[0] * float(held.weights.sum())

        return sum(pool.map(one_fold, range(len(self._sides)))) / self._weight


def on_main_axes(problem: Problem) -> Problem:
    """The problem on the main axes of its features that hold 99 % of their variance: nearly the same, with fewer numbers.

    The penalty does not notice the rotation. Axes come from the features alone, never from labels.
    """
    features = problem.features
    wide = features.shape[1] > features.shape[0]
    product = features @ features.T if wide else features.T @ features
    values, vectors = np.linalg.eigh(product.astype(np.float64))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    total = values.sum()
    if total <= 0.0:
        return problem
    kept = int(np.searchsorted(np.cumsum(values) / total, _KEPT_VARIANCE)) + 1
    rotated = vectors[:, :kept] * np.sqrt(values[:kept]) if wide else features @ vectors[:, :kept]
    return Problem(np.ascontiguousarray(rotated, np.float32), problem.targets, problem.weights)


def one_blas_thread() -> AbstractContextManager[object]:
    """One thread per matrix product: NumPy's, SciPy's and TensorFlow's pools spin and starve each other on few cores."""
    return threadpool_limits(1, user_api="blas")
