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
from worker.training.learner import Batches, Learner, logits_of
from worker.training.materials import augmenting, frozen_part, through
from worker.training.network import Network, build_network, set_trainable
from worker.training.pictures import PictureLimits, PictureRefused, decode
from worker.training.precision import computes_in_bfloat16, in_bfloat16

_TIMED = 3  # calls after the first one, which traces
_BATCH = 32  # of extraction, as in `worker.training.features`


def measure(config: TrainingConfig, n_classes: int, pictures: Sequence[bytes], limits: PictureLimits) -> dict[str, Any]:
    """Time what a run with this config does.

    Args:
        config: of the run; its weights count as untrained, which is as fast.
        n_classes: of the head.
        pictures: some encoded pictures of the dataset.
        limits: of decoding.

    Returns:
        Seconds: `build` (the network), `decode` (one picture, one thread), and for each phase `trace` (once), `extract` (one plain
        picture), `extract_view` (one augmented view; 0 where there is none), `step` (one picture in one epoch).
    """
    started = time.perf_counter()
    network = build_network(config.model_copy(update={"weights": "none"}), n_classes)
    build = time.perf_counter() - started
    phases = [_phase(config, network, phase, n_classes) for phase in config.phases]
    return {"build": build, "decode": _decoding(config, pictures, limits), "phases": phases}


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


def _phase(
    config: TrainingConfig, network: Network, phase: FrozenPhase | FineTunePhase, n_classes: int
) -> dict[str, float]:
    set_trainable(network, phase)
    frozen, upper = frozen_part(network, phase) if phase.features == "cached" else (None, network.backbone)
    found = {"trace": 0.0, "extract": 0.0, "extract_view": 0.0, "step": 0.0}
    fast = config.precision == "mixed" or (config.precision == "auto" and computes_in_bfloat16())
    if frozen is not None:
        found |= _extraction(config, phase, frozen, fast=fast)
    if upper is not None:
        first, later = _stepping(config, network, phase, upper, n_classes, fast=fast and frozen is not None)
        found["trace"] += first
        found["step"] = later / config.batch_size
    return found


def _extraction(
    config: TrainingConfig, phase: FrozenPhase | FineTunePhase, frozen: keras.Model, *, fast: bool
) -> dict[str, float]:
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


def _stepping(
    config: TrainingConfig,
    network: Network,
    phase: FrozenPhase | FineTunePhase,
    upper: keras.Model,
    n_classes: int,
    *,
    fast: bool,
) -> tuple[float, float]:
    """(tracing, one step) in seconds."""
    size, head = config.batch_size, network.head
    live = phase.features == "live"
    learner = Learner(
        through(upper, logits_of(head, head.input), "mixed_bfloat16" if fast else "float32"),
        augmenting(phase, config.augmentation) if live else None,
        [*upper.trainable_variables, *head.trainable_variables],
        phase,
        steps_per_epoch=10,
        n_classes=n_classes,
        smoothing=config.label_smoothing,
        many=False,
    )
    shape = (1, size, *upper.input.shape[1:])
    dtype = np.uint8 if live else ml_dtypes.bfloat16 if fast else np.float32
    random = np.random.default_rng(0)
    batches = Batches(
        random.uniform(0, 200 if live else 1, shape).astype(dtype),
        random.integers(0, n_classes, (1, size)).astype(np.int32),
        np.ones((1, size), np.float32),
        picture_seeds(0, 0, np.arange(size))[None],
    )
    first, later = _timed(lambda: learner.train(batches))
    return first - later, later


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """(first call, median of the later ones) in seconds."""
    seconds = []
    for _ in range(1 + _TIMED):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds[0], float(np.median(seconds[1:]))
