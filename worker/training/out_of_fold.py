"""Probabilities for every picture from a head that has not seen it, and which labels they make doubtful. No TensorFlow here.

Method: confident learning (Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021)
as cleanlab does it. Labels are ranked by self-confidence, the out-of-fold probability of the given label: on the sample sets with planted
errors it beat the normalized margin and both adjusted forms (docs/figures.md).
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from worker.training.heads import Problem, fit, fit_scaler, one_blas_thread, unpack

FOLDS = 10
REPEATS = 2  # with other folds each time: the mean is steadier
STRENGTH = 1.0  # strong: a head that can learn single wrong labels by heart does not doubt them
_ITERATIONS = 100
_LEARNT_ROWS = 20_000  # of a fold's other side; more change a linear head little


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    n_classes: int,
    *,
    threads: int,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Class probabilities float32 [n, classes], each row from heads that have seen nothing of its group.

    Args:
        features: float32 [n, d].
        labels: int [n], as given.
        groups: int [n]; pictures of one group are always on the same side.
        n_classes: columns of the answer.
        threads: fits at once.
        check: called before every fit; what it raises ends the work.
    """
    # a class of m pictures can be in m folds at most; the largest decides, as scikit-learn wants it
    folds = min(FOLDS, len(np.unique(groups)), int(np.bincount(labels).max()))
    if folds < 2:
        return np.full((len(labels), n_classes), 1.0 / n_classes, np.float32)
    sides = [
        (repeat, learnt, held)
        for repeat in range(REPEATS)
        for learnt, held in _folds(features, labels, groups, folds, repeat)
    ]

    def answer(side: tuple[int, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        check()
        repeat, learnt, held = side
        if len(learnt) > _LEARNT_ROWS:
            learnt = np.sort(np.random.default_rng(repeat).choice(learnt, _LEARNT_ROWS, replace=False))
        return held, _probabilities(features, labels, learnt, held, n_classes)

    found = np.zeros((len(labels), n_classes), np.float64)
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for held, probabilities in pool.map(answer, sides):
            found[held] += probabilities
    return (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def _folds(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The least populated class"
        )  # then it is missing in some folds, no more
        found = list(splitter.split(features, labels, groups))
    return [(learnt, held) for learnt, held in found if len(learnt) and len(held)]


def _probabilities(
    features: np.ndarray, labels: np.ndarray, learnt: np.ndarray, held: np.ndarray, n_classes: int
) -> np.ndarray:
    scaler = fit_scaler(features[learnt])
    targets = np.zeros((len(learnt), n_classes), np.float32)
    targets[np.arange(len(learnt)), labels[learnt]] = 1.0
    problem = Problem(scaler(features[learnt]), targets, np.ones(len(learnt), np.float32))
    kernel, bias = unpack(fit(problem, STRENGTH, iterations=_ITERATIONS), n_classes)
    logits = scaler(features[held]) @ kernel + bias
    logits -= logits.max(axis=1, keepdims=True)
    answers: np.ndarray = np.exp(logits)
    return answers / answers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Ranking:
    """Labels by how little they are believed.

    Attributes:
        order: positions, the least believable label first, int64 [n].
        suggested: the most probable other class of every picture, int64 [n].
        likely: True for what confident learning takes for an error, bool [n].
    """

    order: np.ndarray
    suggested: np.ndarray
    likely: np.ndarray


def ranked(labels: np.ndarray, probabilities: np.ndarray) -> Ranking:
    """Rank labels by self-confidence.

    Args:
        labels: int [n], as given.
        probabilities: float32 [n, classes], out of fold.
    """
    from cleanlab.filter import find_label_issues  # noqa: PLC0415 - takes a second, and pandas with it
    from cleanlab.rank import get_label_quality_scores  # noqa: PLC0415

    own = get_label_quality_scores(labels, probabilities, method="self_confidence")
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    suggested = others.argmax(axis=1)
    likely = np.zeros(len(labels), bool)
    if len(np.unique(labels)) > 1:
        likely = np.asarray(find_label_issues(labels, probabilities, n_jobs=1), bool)
    return Ranking(np.argsort(own, kind="stable"), suggested, likely)
