"""Phases are data: one function runs any of them, frozen or fine-tune, on stored features or live."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import ConfigInvalid
from core.training_config import FineTunePhase, FrozenPhase
from worker.training.checkpoints import Arrays, State
from worker.training.events import Place, Progress
from worker.training.layers import picture_seeds
from worker.training.learner import Batches, Learner, Sums, assign, in_order, numbered, reseed
from worker.training.materials import Material, PixelMaterial, Setup, Workplace
from worker.training.prefetch import prefetched
from worker.training.telling import batch_larger_than_train

Phase = FrozenPhase | FineTunePhase
Save = Callable[[dict[str, Arrays], tuple[str, ...]], None]

_SMALL_RECORD = 64 * 1024  # bytes: below it, one call of the graph takes many steps
_SMALL_NETWORK = 1_000_000  # parameters: above it, a step through the whole network is no trifle
_CALL_BYTES = 16 * 2**20  # gathered for one such call
_CALL_STEPS = 64
_JUDGED = 64  # pictures of 224 x 224 pixels judged at once, more of them where stored features are small


def better(metrics: dict[str, float], than: dict[str, Any]) -> bool:
    """True when validation metrics beat others: higher accuracy, at a tie lower loss. Anything beats nothing."""
    if not than:
        return True
    return (metrics["accuracy"], -metrics["loss"]) > (than["accuracy"], -than["loss"])


@dataclass(frozen=True)
class Places:
    """What one call of the graph takes.

    Attributes:
        which: int64 [k, b], index into train, by step.
        rounds: int64 [k, b], how often the epoch has gone through all pictures before.
    """

    which: np.ndarray
    rounds: np.ndarray


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's order: which pictures in which step.

    Attributes:
        n_train: pictures that there are.
        pictures: that the epoch takes; more than there are go through them again, shuffled anew.
        batch_size: of every step but perhaps the last.
        key: decides the order.
    """

    n_train: int
    pictures: int
    batch_size: int
    key: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Steps of the epoch."""
        return math.ceil(self.pictures / self.batch_size)

    def calls(self, steps_per_call: int) -> Iterator[Places]:
        """The epoch in calls of so many steps, the last smaller batch by itself; drawn as they are asked for."""
        random = np.random.default_rng(self.key)
        order = rounds = np.empty(0, np.int64)
        begun, left = 0, self.pictures
        while left:
            taken = min(left, steps_per_call * self.batch_size)
            while len(order) < taken:
                order = np.concatenate([order, random.permutation(self.n_train)])
                rounds = np.concatenate([rounds, np.full(self.n_train, begun)])
                begun += 1
            whole = taken // self.batch_size * self.batch_size
            for part in (slice(0, whole), slice(whole, taken)):
                if part.start < part.stop:
                    width = min(self.batch_size, part.stop - part.start)
                    yield Places(order[part].reshape(-1, width), rounds[part].reshape(-1, width))
            order, rounds, left = order[taken:], rounds[taken:], left - taken


def plan_epoch(n_train: int, batch_size: int, steps: int | None, key: list[int]) -> EpochPlan:
    """Shuffle as `key` (seed, phase, epoch) decides: the same after a resume.

    Args:
        steps: of the config; None takes every picture once.
    """
    return EpochPlan(n_train, n_train if steps is None else steps * batch_size, batch_size, tuple(key))


def class_weights(labels: np.ndarray, n_classes: int, kind: str) -> np.ndarray:
    """Weight of each class, float32: n / (classes * n_class) when balanced, else 1. A class without pictures weighs 0."""
    if kind == "none":
        return np.ones(n_classes, np.float32)
    counts = np.bincount(labels, minlength=n_classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0.0).astype(np.float32)


class PhaseRun:
    """One phase, epoch by epoch, from wherever `state` stands.

    Args:
        work: the run's workplace.
        index: of the phase.
        setup: the phase made ready.
        state: moved on with every epoch.
        save: writes a checkpoint of some groups of arrays; called before the epoch is said.
    """

    def __init__(self, work: Workplace, index: int, setup: Setup, state: State, save: Save) -> None:
        self._work, self._index, self._setup, self._state, self._save = work, index, setup, state, save
        self._phase: Phase = work.config.phases[index]
        self._labels = work.labels("train")
        self._weights = class_weights(self._labels, work.n_classes, work.config.class_weights)
        self._batch_size = work.folder.batch_size
        # many steps in one call, between which nobody asks whether to stop: only where each of them is a trifle
        quick = setup.train_features is not None or work.network.backbone.count_params() <= _SMALL_NETWORK
        self._small = setup.train.record_bytes <= _SMALL_RECORD and setup.augment is None and quick
        self.learner = Learner(
            setup.logits,
            setup.augment,
            setup.variables,
            self._phase,
            steps_per_epoch=self._plan(0).steps,
            n_classes=work.n_classes,
            smoothing=work.config.label_smoothing,
            many=self._small,
        )
        self._best: list[np.ndarray] = []
        self._first_epoch = state.phase_epoch

    def run(self, groups: dict[str, Arrays]) -> None:
        """Run the epochs that are left, then put the kept weights into the network.

        Args:
            groups: of the checkpoint to go on from; empty at the phase's start.
        """
        state, phase = self._state, self._phase
        if phase.steps_per_epoch is None and self._batch_size > len(self._labels):
            self._work.speaker.log(batch_larger_than_train(self._batch_size, len(self._labels)))
        if state.phase_epoch:
            self.learner.restore(groups, state.phase_epoch)
            self._best = in_order(groups["best"])
        self._trace_judging()
        progress = self._progress()
        while state.phase_epoch < phase.epochs and not stopped_early(state, phase):
            self._epoch(progress)
        kept = self._best if phase.keep == "best" else self.learner.kept()
        assign(self.learner.variables, kept)

    def _trace_judging(self) -> None:
        """Judge one picture for nothing: else the first validation had tracing in it, and the time left would count it every epoch."""
        started = time.monotonic()
        first = np.arange(min(1, len(self._work.labels("validation"))))
        if len(first):
            self.learner.judge(self._setup.validation.fetch(first, 0), self._work.labels("validation")[first])
        self._state.seconds += time.monotonic() - started

    def _epoch(self, progress: Progress) -> None:
        state = self._state
        started = time.monotonic()
        reseed(self._work.network.head, self._work.config.seed, self._index, state.phase_epoch)
        train = self._train(progress)
        trained = time.monotonic()
        validation = self.learner.with_average(lambda: judge(self.learner, self._work, self._setup.validation))
        self._refuse_what_is_no_number(validation, "validation")
        seconds = time.monotonic() - started
        improved = account(state, self._phase, self._index, train.metrics, validation.metrics, seconds)
        if improved:
            self._best = self.learner.kept()
        groups = {**self.learner.arrays(), "best": numbered(self._best)}
        self._save(groups, () if improved else ("best",))
        progress.rest(time.monotonic() - trained)
        self._work.speaker.say("epoch", **state.history[-1])

    def _plan(self, phase_epoch: int) -> EpochPlan:
        key = [self._work.config.seed, self._index, phase_epoch]
        return plan_epoch(len(self._labels), self._batch_size, self._phase.steps_per_epoch, key)

    def _train(self, progress: Progress) -> Sums:
        turn = self._state.phase_epoch
        plan = self._plan(turn)
        done = (turn - self._first_epoch) * plan.pictures
        sums, step = Sums(), 0
        size = self._batch_size * self._setup.train.record_bytes
        per_call = max(1, min(_CALL_STEPS, _CALL_BYTES // size)) if self._small else 1
        for batches in prefetched(plan.calls(per_call), lambda places: self._gathered(places, turn)):
            self._work.orders.check()
            sums += self.learner.train(batches)
            step += len(batches.labels)
            if done + sums.pictures == batches.pictures:  # the first call of the phase traced its graph
                progress.begin_here(batches.pictures)
            progress.at(step, done + sums.pictures, self._state.epoch + 1, self._phase.epochs - turn)
        self._refuse_what_is_no_number(sums, "training")
        return sums

    def _refuse_what_is_no_number(self, sums: Sums, of: str) -> None:
        """Before it is booked or saved: from such weights nothing can be gone on, and JSON has no word for it."""
        if not math.isfinite(sums.loss):
            raise ConfigInvalid(
                f"The {of} loss is no longer a number in epoch {self._state.epoch + 1}: the steps are too large. "
                f"Received: learning rate {self._phase.optimizer.learning_rate}; try a tenth of it."
            )

    def _gathered(self, places: Places, turn: int) -> Batches:
        which = places.which
        flat = which.reshape(-1)
        x = self._setup.train.fetch(flat, turn)
        labels = self._labels[which]
        return Batches(
            x.reshape(*which.shape, *x.shape[1:]),
            labels,
            self._weights[labels],
            self._seeds(flat, places.rounds.reshape(-1), turn).reshape(*which.shape, 2),
        )

    def _seeds(self, places: np.ndarray, rounds: np.ndarray, turn: int) -> np.ndarray:
        """Augmentation seeds: anew every epoch, and every time in it, when live; `views` that come round again when cached."""
        phase = self._phase
        turns = turn + rounds * phase.epochs if phase.features == "live" else np.full(len(places), turn % phase.views)
        return picture_seeds(self._work.config.seed, self._index * 100_003 + turns, places)

    def _progress(self) -> Progress:
        state, phase = self._state, self._phase
        plan = self._plan(0)
        place = Place(phase.kind, self._index, None, self._work.config.epochs_total)
        left = phase.epochs - state.phase_epoch
        return Progress(self._work.speaker, place, plan.steps, left * plan.pictures)


def judge(learner: Learner, work: Workplace, material: Material) -> Sums:
    """Loss and accuracy on the plain validation pictures, without smoothing, class weights or dropout."""
    labels = work.labels("validation")
    # decoded pictures are small, what the network makes of them is not
    small = material.record_bytes <= _SMALL_RECORD and not isinstance(material, PixelMaterial)
    size = work.folder.at_once(16 * _JUDGED if small else _JUDGED)
    parts = [np.arange(first, min(first + size, len(labels))) for first in range(0, len(labels), size)]
    sums = Sums()
    for places, x in zip(parts, prefetched(parts, lambda part: material.fetch(part, 0)), strict=True):
        work.orders.check()
        sums += learner.judge(x, labels[places])
    return sums


def account(
    state: State, phase: Phase, index: int, train: dict[str, float], validation: dict[str, float], seconds: float
) -> bool:
    """Book a finished epoch into `state`; true when it is the phase's best so far."""
    state.phase_epoch += 1
    state.epoch += 1
    state.seconds += seconds
    improved = better(validation, state.best)
    if improved:
        state.best = {**validation, "phase_epoch": state.phase_epoch}
    if state.lowest_loss is None or validation["loss"] < state.lowest_loss:
        state.lowest_loss, state.epochs_without_better = validation["loss"], 0
    else:
        state.epochs_without_better += 1
    state.history.append(
        {
            "phase": phase.kind,
            "phase_index": index,
            "epoch": state.epoch,
            "metrics": {"train": train, "validation": validation},
            "seconds": round(seconds, 3),
        }
    )
    return improved


def stopped_early(state: State, phase: Phase) -> bool:
    """True when validation loss has not fallen for as many epochs as the phase is patient."""
    return phase.early_stopping is not None and state.epochs_without_better >= phase.early_stopping.patience
