"""How fast this machine is at what a run will do: a few timed batches of decoding, extraction and training, on random pixels."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

from core.training_config import FineTunePhase, FrozenPhase, TrainingConfig
from worker.training.features import make_extractor
from worker.training.layers import PictureResizer, picture_seeds
from worker.training.learner import Batches, Learner, Logits, logits_of
from worker.training.machine import device
from worker.training.materials import augmenting, frozen_part, live_form, through
from worker.training.network import Network, build_network, set_trainable
from worker.training.pictures import PictureLimits, PictureRefused, decode
from worker.training.precision import in_bfloat16, may_use_bfloat16

_TIMED = 3  # calls after the first one, which traces
_BATCH = 32  # of extraction, as in `worker.training.features`
_HEAD_STEPS = 16  # a head's steps in one call: few cost next to nothing, as in `worker.training.phases`

Phase = FrozenPhase | FineTunePhase
Timed = tuple[Learner, Batches]


def measure(config: TrainingConfig, n_classes: int, pictures: Sequence[bytes], limits: PictureLimits) -> dict[str, Any]:
    """Time what a run with this config does.

    Args:
        config: of the run; its weights count as untrained, which is as fast.
        n_classes: of the head.
        pictures: some encoded pictures of the dataset.
        limits: of decoding.

    Returns:
        `device` that was timed, `bfloat16` (whether what is frozen was timed in it), and seconds: `build` (the network), `decode` (one
        picture, one thread), and for each phase `trace` (once), `extract` (one plain picture), `extract_view` (one augmented view; 0 where
        there is none), `step` (one picture in one epoch; 0 where nothing learns by steps).
    """
    started = time.perf_counter()
    network = build_network(config.model_copy(update={"weights": "none"}), n_classes)
    build = time.perf_counter() - started
    phases = [_phase(config, network, phase, n_classes) for phase in config.phases]
    decoding = _decoding(config, pictures, limits)
    fast = may_use_bfloat16(config.precision)
    return {"device": device(), "bfloat16": fast, "build": build, "decode": decoding, "phases": phases}


def _decoding(config: TrainingConfig, pictures: Sequence[bytes], limits: PictureLimits) -> float:
    resize = PictureResizer(config.image_size, config.resize)
    resize(np.zeros((64, 64, 3), np.uint8))
    seconds = []
    for encoded in pictures:
        started = time.perf_counter()
        try:
            resize(decode(encoded, limits=limits))
        except PictureRefused:
            continue
        seconds.append(time.perf_counter() - started)
    return float(np.mean(seconds)) if seconds else 0.0


def _phase(config: TrainingConfig, network: Network, phase: Phase, n_classes: int) -> dict[str, float]:
    set_trainable(network, phase)
    frozen, upper = frozen_part(network, phase) if phase.features == "cached" else (None, network.backbone)
    found = {"trace": 0.0, "extract": 0.0, "extract_view": 0.0, "step": 0.0}
    fast = may_use_bfloat16(config.precision)
    if frozen is not None:
        found |= _extraction(config, phase, frozen, fast=fast)
    if phase.optimizer.name == "lbfgs":
        return found
    if frozen is None:
        # live as wished stays float32, as in `worker.training.materials`
        learner, batches = _whole(config, network, phase, n_classes, fast=fast and phase.features == "cached")
    elif upper is None:
        learner, batches = _head(config, network, phase, n_classes)
    else:
        learner, batches = _upper(config, network, phase, upper, n_classes, fast=fast)
    first, later = _timed(lambda: learner.train(batches))
    found["trace"] += first - later
    found["step"] = later / batches.pictures
    return found


def _extraction(config: TrainingConfig, phase: Phase, frozen: keras.Model, *, fast: bool) -> dict[str, float]:
    answer = in_bfloat16(frozen) if fast else None
    pixels = np.random.default_rng(0).integers(0, 256, (_BATCH, *config.image_size, 3), np.uint8)
    seeds = picture_seeds(0, 0, np.arange(_BATCH))
    plain = make_extractor(frozen, "timing", None, np.dtype(np.float32), answer=answer)
    first, later = _timed(lambda: plain.run(pixels, seeds).numpy())
    found = {"trace": first - later, "extract": later / _BATCH}
    if phase.views > 1:
        varied = make_extractor(frozen, "timing", config.augmentation, np.dtype(np.float32), answer=answer)
        first, later = _timed(lambda: varied.run(pixels, seeds).numpy())
        found |= {"trace": found["trace"] + first - later, "extract_view": later / _BATCH}
    return found


def _whole(config: TrainingConfig, network: Network, phase: Phase, n_classes: int, *, fast: bool) -> Timed:
    """Steps through the whole network, on pictures that are changed in the loop."""
    head, backbone = network.head, network.backbone
    learner = _learner(
        config,
        phase,
        n_classes,
        live_form(network, logits_of(head, head.input), bfloat16=fast),
        [*backbone.trainable_variables, *head.trainable_variables],
        augment=augmenting(phase, config.augmentation),
    )
    return learner, _batches(config, n_classes, (*config.image_size, 3), np.dtype(np.uint8))


def _upper(
    config: TrainingConfig, network: Network, phase: Phase, upper: keras.Model, n_classes: int, *, fast: bool
) -> Timed:
    """Steps of what learns of the backbone, on stored features."""
    head = network.head
    learner = _learner(
        config,
        phase,
        n_classes,
        through(upper, logits_of(head, head.input), "mixed_bfloat16" if fast else "float32"),
        [*upper.trainable_variables, *head.trainable_variables],
    )
    dtype = np.dtype(ml_dtypes.bfloat16) if fast else np.dtype(np.float32)
    return learner, _batches(config, n_classes, tuple(upper.input.shape[1:]), dtype)


def _head(config: TrainingConfig, network: Network, phase: Phase, n_classes: int) -> Timed:
    """Steps of the head alone, on stored features."""
    vector = network.head.get_layer("head_pooling").output
    learner = _learner(
        config, phase, n_classes, logits_of(network.head, vector), list(network.head.trainable_variables), many=True
    )
    return learner, _batches(config, n_classes, tuple(vector.shape[1:]), np.dtype(np.float32), steps=_HEAD_STEPS)


def _learner(
    config: TrainingConfig,
    phase: Phase,
    n_classes: int,
    logits: Logits,
    variables: list[Any],
    *,
    augment: Callable[[Any, Any], Any] | None = None,
    many: bool = False,
) -> Learner:
    return Learner(
        logits,
        augment,
        variables,
        phase,
        steps_per_epoch=10,
        n_classes=n_classes,
        smoothing=config.label_smoothing,
        many=many,
    )


def _batches(
    config: TrainingConfig, n_classes: int, shape: tuple[int, ...], dtype: np.dtype, *, steps: int = 1
) -> Batches:
    """Random inputs [steps, batch, *shape] with random labels."""
    places = (steps, config.batch_size)
    random = np.random.default_rng(0)
    return Batches(
        random.uniform(0, 200 if dtype == np.uint8 else 1, (*places, *shape)).astype(dtype),
        random.integers(0, n_classes, places).astype(np.int32),
        np.ones(places, np.float32),
        np.broadcast_to(picture_seeds(0, 0, np.arange(config.batch_size)), (*places, 2)),
    )


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """(first call, median of the later ones) in seconds."""
    seconds = []
    for _ in range(1 + _TIMED):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds[0], float(np.median(seconds[1:]))
