"""What a model must know to say "I don't know": a temperature, thresholds for being confident, and what its own pictures look like.

Fitted on train and validation alone, after the last phase; carried inside every export (worker/training/answering.py).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student
from sklearn.model_selection import GroupKFold

from worker.training.events import Place, Progress
from worker.training.heads import Problem, choose_strength, fit, fit_scaler, one_blas_thread, smoothed, unpack
from worker.training.learner import logits_of
from worker.training.ledger import Ledger
from worker.training.materials import Workplace, plain_pooled
from worker.training.network import Network
from worker.training.phases import class_weights
from worker.training.statistics import softmax
from worker.training.temperature import fit_temperature

WISHED_PRECISION = 0.95
KNOWN = 0.5  # a `known_score` below it is unknown
LOWEST_THRESHOLD = 0.5  # less than half of the probability is never confident
NEVER = 2.0  # a threshold that no probability reaches
VERDICTS = ("confident", "unsure", "unknown")  # by the number that a graph gives; worker.prediction.models has them too
MOST_TRAIN = 1000  # pictures that the statistics are made of
_ENOUGH_VALIDATION = 500  # pictures from which on validation alone decides the temperature
_FEWEST_OF_A_CLASS = 30
_DIRECTIONS = 32
_KNOWN_SHARE = 0.977  # of one's own pictures: two standard deviations on one side
_LEAST_WIDTH = 1e-3  # a thousand times what float32 rounds squared lengths by: every runtime gives the same score
_FOLDS = 5
_ITERATIONS = 100
_BATCH = 1024
_BATCH_BYTES = 2**26  # of features at once: unpooled ones (`flatten`) are large


@dataclass(frozen=True)
class Doubt:
    """What the exported graph knows of its own limits.

    Attributes:
        temperature: by which logits are divided; None: too few pictures to say, nothing is scaled.
        fitted_on: how many pictures decided the temperature.
        cross_validated: how many of those are training pictures, as heads answered them that had not learnt from them.
        thresholds: float32 [classes]; an answer with at least this probability is confident, NEVER: none is.
        own_thresholds: labels with a threshold of their own; the others share one.
        mean: float32 [d], of the training pictures' features, each of length one.
        directions: float32 [d, k], orthonormal: in which training pictures differ from that mean.
        limit: how much of a picture's features may lie outside these directions (squared length).
        width: change of that by which `known_score` moves from 0.5 to 0.73.
    """

    temperature: float | None
    fitted_on: int
    cross_validated: int
    thresholds: np.ndarray
    own_thresholds: tuple[int, ...]
    mean: np.ndarray
    directions: np.ndarray
    limit: float
    width: float

    def as_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What people are told of it; a class that is never confident has null for its threshold."""
        thresholds = [None if value >= NEVER else float(value) for value in self.thresholds]
        return {
            "temperature": self.temperature,
            "temperature_fitted_on": self.fitted_on,
            "temperature_cross_validated": self.cross_validated,
            "precision": WISHED_PRECISION,
            "thresholds": dict(zip(class_names, thresholds, strict=True)),
            "own_thresholds": [class_names[label] for label in self.own_thresholds],
            "known_below": KNOWN,
        }

    def calibration_text(self) -> str:
        """How the probabilities are calibrated and by which pictures, for the model card."""
        if self.temperature is None:
            return f"as trained ({self.fitted_on} held-out pictures are too few for a temperature)"
        text = f"calibrated (temperature {self.temperature:.3g}, from {self.fitted_on - self.cross_validated} validation pictures"
        if self.cross_validated:
            text += f" and {self.cross_validated} training pictures in cross-validation of the frozen phase's head"
        return text + ")"


@dataclass(frozen=True)
class _Seen:
    """What was kept of the features, logits float64 [n, classes] and labels of some pictures."""

    kept: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


def make_doubt(work: Workplace, ledger: Ledger, chosen_index: int, frozen_index: int | None) -> Doubt:
    """Fit it for the network of the chosen phase, which the network has when this returns.

    Args:
        chosen_index: phase of the model.
        frozen_index: the last frozen phase, whose head is cross-validated; None: there was none.
    """
    ledger.put_back(work.network, chosen_index)
    train = _spread(work.positions("train"), MOST_TRAIN)
    known = _look(work, train, _features)
    mean, directions = fit_directions(known.kept)
    held = _look(work, work.positions("validation"), lambda features: outside(features, mean, directions))
    logits, labels, groups = held.logits, held.labels, _groups(work, work.positions("validation"))
    if len(labels) < _ENOUGH_VALIDATION and frozen_index is not None and _has_one_layer(work):
        if frozen_index != chosen_index:
            ledger.put_back(work.network, frozen_index)
        seen = known if frozen_index == chosen_index else _look(work, train, _features)
        guessed = cross_validated(work, train, seen.kept, ledger.state.strength)
        if frozen_index != chosen_index:
            ledger.put_back(work.network, chosen_index)
        if guessed is not None:
            logits, labels = np.concatenate([logits, guessed]), np.concatenate([labels, known.labels])
            groups = _groups(work, np.concatenate([work.positions("validation"), train]))
    temperature = fit_temperature(logits, labels, groups)
    scaled = softmax(logits / (temperature or 1.0))
    thresholds, own = fit_thresholds(scaled, labels, np.bincount(held.labels, minlength=work.n_classes))
    others = len(labels) - len(held.labels)
    return Doubt(temperature, len(labels), others, thresholds, own, mean, directions, *fit_limit(held.kept))


def _has_one_layer(work: Workplace) -> bool:
    """Whether the head is what cross-validation can fit again: one layer on pooled features."""
    head = work.config.head
    return not head.hidden_units and head.pooling != "flatten"


def _groups(work: Workplace, positions: np.ndarray) -> np.ndarray:
    """Numbers from 0 of the groups of these pictures, int [n]; a picture without one is its own."""
    names = [work.folder.pictures.groups[position] or f"/{position}" for position in positions]
    numbers: np.ndarray = np.unique(names, return_inverse=True)[1]
    return numbers


def _features(features: np.ndarray) -> np.ndarray:
    return features


def _spread(positions: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of them, evenly spread over the list."""
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).astype(np.int64)]


def _look(work: Workplace, positions: np.ndarray, keep: Callable[[np.ndarray], np.ndarray]) -> _Seen:
    """Plain pictures through the network as it stands; stored features are found again.

    Args:
        keep: (averaged features float32 [n, d]) -> what is kept of them [n, ...]; memory holds one batch of the features beside that.
    """
    extractor = plain_pooled(work)
    total = len(positions)
    progress = Progress(work.speaker, Place("evaluate", message="Learning what the model does not know"), total, total)

    def say(done: int, _: int) -> None:
        work.orders.check()
        progress.at(done, done)

    stored = work.store.features(extractor, positions, 1, say)
    head = work.network.head
    answer = logits_of(head, head.get_layer("head_pooling").output)
    size = max(1, min(_BATCH, _BATCH_BYTES // (4 * int(np.prod(stored.shape)))))
    kept, logits = [], []
    for first in range(0, total, size):
        work.orders.check()
        batch = stored.gather(np.arange(first, min(first + size, total))).astype(np.float32)
        kept.append(keep(averaged(work.network, batch)))
        logits.append(np.asarray(answer(batch, False)))
    wide = columns(np.concatenate(logits).astype(np.float64))
    return _Seen(np.concatenate(kept), wide, work.folder.pictures.labels[positions])


def averaged(network: Network, pooled: np.ndarray) -> np.ndarray:
    """Features of distance: the pooled ones, where `flatten` pools its average over the places, float32 [n, d]."""
    channels = network.backbone.output.shape[-1]
    return pooled if pooled.shape[1] == channels else pooled.reshape(len(pooled), -1, channels).mean(axis=1)


def columns(logits: np.ndarray) -> np.ndarray:
    """Logits float [n, units] with a column for each class: a sigmoid unit's is that of label 1 against 0 for label 0."""
    if logits.shape[1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def cross_validated(
    work: Workplace, positions: np.ndarray, features: np.ndarray, strength: float | None
) -> np.ndarray | None:
    """Logits of training pictures by logistic heads that did not learn from them: five folds, groups whole, the run's class weights.

    Args:
        positions: of the pictures.
        features: pooled, float32 [n, d].
        strength: L2 strength that the run's own logistic head has; None: it is chosen here.

    Returns:
        float64 [n, classes]; None where all pictures are of one group.
    """
    n_classes = work.n_classes
    labels = work.folder.pictures.labels[positions]
    groups = _groups(work, positions)
    weights = class_weights(work.labels("train"), n_classes, work.config.class_weights)[labels]
    problem = Problem(fit_scaler(features)(features), smoothed(labels, n_classes, work.config.label_smoothing), weights)
    folds = min(_FOLDS, int(groups.max()) + 1)
    if folds < 2:
        return None
    if strength is None:
        strength, _ = choose_strength(problem, groups, threads=work.folder.threads, check=work.orders.check)
    found = np.empty((len(positions), n_classes))

    def one_fold(sides: tuple[np.ndarray, np.ndarray]) -> None:
        work.orders.check()
        learnt, left = sides
        kernel, bias = unpack(fit(problem.rows(learnt), strength, iterations=_ITERATIONS), n_classes)
        found[left] = problem.features[left] @ kernel + bias

    with one_blas_thread(), ThreadPoolExecutor(work.folder.threads) as pool:
        list(pool.map(one_fold, GroupKFold(folds).split(problem.features, groups=groups)))
    return found


def fit_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, validation_counts: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The lowest probability from which on answers were right as often as wished.

    Args:
        probabilities: float [n, classes], scaled by the temperature.
        labels: int [n].
        validation_counts: validation pictures by label; a class with fewer than 30 shares one threshold with the others.

    Returns:
        float32 [classes], and the labels that have their own. Where nothing is right as often as wished: NEVER.
    """
    # as the graph has them: two answers that float32 cannot tell apart are on one side of every threshold
    said, sure = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float32)
    shared = _lowest(sure, said == labels)
    thresholds = np.full(probabilities.shape[1], shared, np.float32)
    own = tuple(int(label) for label in np.flatnonzero(validation_counts >= _FEWEST_OF_A_CLASS))
    for label in own:
        here = said == label
        thresholds[label] = _lowest(sure[here], labels[here] == label)
    return thresholds, own


def _lowest(sure: np.ndarray, right: np.ndarray) -> float:
    likely = sure >= LOWEST_THRESHOLD
    order = np.argsort(-sure[likely], kind="stable")
    levels, hits = sure[likely][order], right[likely][order]
    share = np.cumsum(hits) / np.arange(1, len(levels) + 1)
    last = np.ones(len(levels), bool)  # of equal ones: only there all of them are counted
    last[:-1] = levels[1:] < levels[:-1]
    good = np.flatnonzero(last & (share >= WISHED_PRECISION))
    return float(levels[good[-1]]) if len(good) else NEVER


def fit_directions(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What pictures of this kind look like to the network: the directions in which the features of training pictures vary.

    A picture of something else has more of its features outside of them; so ViM (Wang et al., CVPR 2022) has it, here on features of
    length one.

    Args:
        train: float32 [n, d], pooled features.

    Returns:
        mean [d], directions [d, k]: see Doubt.
    """
    unit = unit_length(train)
    mean = unit.mean(axis=0)
    centred = (unit - mean).astype(np.float64)
    count = max(1, min(_DIRECTIONS, len(train) // 4, train.shape[1] - 1))
    # the small Gram matrix: as many rows as pictures, or as features
    if len(centred) < centred.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        directions = centred.T @ vectors[:, -count:] / np.sqrt(np.maximum(values[-count:], 1e-12))
    else:
        directions = np.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return mean, directions.astype(np.float32)


def fit_limit(left: np.ndarray) -> tuple[float, float]:
    """The limit of a prediction interval for one more picture of the held-out kind (logarithms taken as normal).

    Args:
        left: `outside` of pictures that nothing was fitted on, float [n].

    Returns:
        limit, width: see Doubt.
    """
    logs = np.log(np.maximum(left, 1e-6))
    n = len(logs)
    spread = max(float(logs.std(ddof=1)) if n > 1 else 0.5, 0.05)
    reach = float(student.ppf(_KNOWN_SHARE, max(n - 1, 2))) * np.sqrt(1 + 1 / n)
    limit = float(np.exp(logs.mean() + reach * spread))
    return limit, max(limit * spread / 2, _LEAST_WIDTH)


def unit_length(features: np.ndarray) -> np.ndarray:
    """Rows float32 [n, d] of length one; a row of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: np.ndarray = features / np.maximum(lengths, 1e-12)
    return scaled


def outside(features: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Squared length of what of each picture's features lies outside the directions, float [n]."""
    away = unit_length(features) - mean
    left: np.ndarray = (away**2).sum(axis=1) - ((away @ directions) ** 2).sum(axis=1)
    return np.maximum(left, 0.0)
