"""A frozen phase with `lbfgs`: L2 logistic regression on the stored features; one iteration is one epoch.

It takes seconds and cannot be gone on with in the middle (the memory of L-BFGS is not in a checkpoint): after a kill the phase is
done again from its start and gives the same numbers.
"""

import time

import numpy as np

from core.errors import ConfigInvalid
from core.training_config import FrozenPhase, Head
from worker.training.checkpoints import State
from worker.training.heads import (
    Problem,
    Scaler,
    choose_strength,
    fit,
    fit_scaler,
    log_probabilities,
    one_blas_thread,
    smoothed,
    unpack,
)
from worker.training.learner import Sums
from worker.training.materials import Setup, Workplace
from worker.training.phases import account, class_weights, stopped_early
from worker.training.telling import not_used_by_logistic_regression

_OF_STEPS = {
    "optimizer": ("learning_rate", "momentum", "weight_decay"),
    "schedule": ("name", "decay_rate", "warmup_epochs"),
    "head": ("dropout",),
}
_MOST_BYTES = 10**9  # of features in memory; standardising needs as much again


def run_logistic(work: Workplace, phase: FrozenPhase, index: int, setup: Setup, state: State) -> None:
    """Fit the head and put the kept weights into the network."""
    started = time.monotonic()
    n_classes, config = work.n_classes, work.config
    unused = unused_settings(phase, config.head)
    if unused:
        work.speaker.log(not_used_by_logistic_regression(unused))
    train, labels, groups = _all_views(work, setup)
    if not np.isfinite(train).all():
        raise ConfigInvalid(
            "The features that the backbone gives for some pictures are no numbers: its weights are damaged or not those of this network. "
            f"Received: weights {config.weights!r}; choose others."
        )
    scaler = fit_scaler(train)
    weights = class_weights(work.labels("train"), n_classes, config.class_weights)[labels]
    problem = Problem(scaler(train), smoothed(labels, n_classes, config.label_smoothing), weights)
    strength, _ = choose_strength(problem, groups, threads=work.folder.threads, check=work.orders.check)
    work.speaker.log(f"Logistic regression: L2 strength {strength:g}, chosen by cross-validation inside train.")
    state.seconds += time.monotonic() - started
    state.strength = strength
    follower = _Follower(work, phase, index, state, scaler, labels, setup)
    with one_blas_thread():
        last = fit(problem, strength, iterations=phase.epochs, each=follower)
    if follower.best is None:  # solved before the first iteration: there is one epoch all the same
        follower(last, log_probabilities(last, problem.features, n_classes))
    kept = follower.best if phase.keep == "best" and follower.best is not None else last
    dense = work.network.head.get_layer("head_dense")
    kernel, bias = scaler.merged(*unpack(kept, n_classes))
    dense.kernel.assign(kernel)
    dense.bias.assign(bias)


def unused_settings(phase: FrozenPhase, head: Head) -> list[str]:
    """Settings that steps would go by and this has no use for, where they are not as they are by default; named as in the config."""
    given, plain = (
        {**one.model_dump(), "head": two.model_dump()} for one, two in ((phase, head), (FrozenPhase(), Head()))
    )
    changed = [name for name in ("steps_per_epoch", "ema_decay") if given[name] != plain[name]]
    for part, names in _OF_STEPS.items():
        changed += [f"{part}.{name}" for name in names if given[part][name] != plain[part][name]]
    return changed


def _all_views(work: Workplace, setup: Setup) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features float32 [n * views, d], labels, groups): views of a picture, and pictures of a group, stay together."""
    features = setup.train_features
    if features is None:
        raise ConfigInvalid(
            "lbfgs needs its features stored, and the cache limit is too small for them. Raise it, or choose adam."
        )
    positions = work.positions("train")
    every = len(positions) * features.views
    rows = np.arange(every)
    most = _MOST_BYTES // (4 * int(np.prod(features.shape)))
    if every > most:
        work.speaker.log(f"Of {every} feature rows {most} are used, drawn at random: lbfgs keeps them in memory.")
        rows = np.sort(np.random.default_rng(work.config.seed).choice(every, most, replace=False))
    places, views = rows // features.views, rows % features.views
    names = [work.folder.pictures.groups[position] or f"/{position}" for position in positions]
    groups = np.unique(names, return_inverse=True)[1]
    return features.gather(places, views).astype(np.float32), work.labels("train")[places], groups[places]


class _Follower:
    """Hears every iteration: metrics, the epoch event, the best weights so far, early stopping."""

    def __init__(
        self,
        work: Workplace,
        phase: FrozenPhase,
        index: int,
        state: State,
        scaler: Scaler,
        labels: np.ndarray,
        setup: Setup,
    ) -> None:
        self._work, self._phase, self._index, self._state = work, phase, index, state
        self._labels = labels
        validation = work.labels("validation")
        self._validation = (scaler(setup.validation.fetch(np.arange(len(validation)), 0)), validation)
        self._started = time.monotonic()
        self.best: np.ndarray | None = None

    def __call__(self, parameters: np.ndarray, answered: np.ndarray) -> None:
        """Hear the parameters after an iteration, and the log-probabilities of train by them."""
        self._work.orders.check()
        train = _sums(answered, self._labels).metrics
        features, labels = self._validation
        validation = _sums(log_probabilities(parameters, features, self._work.n_classes), labels).metrics
        now = time.monotonic()
        if account(self._state, self._phase, self._index, train, validation, now - self._started):
            self.best = parameters
        self._started = now
        self._work.speaker.say("epoch", **self._state.history[-1])
        if stopped_early(self._state, self._phase):
            raise StopIteration


def _sums(answered: np.ndarray, labels: np.ndarray) -> Sums:
    losses = -answered[np.arange(len(labels)), labels]
    right = np.count_nonzero(answered.argmax(axis=1) == labels)
    return Sums(float(losses.sum(dtype=np.float64)), float(right), len(labels))
