"""Single pieces of the engine, timed on pixels and features that are in memory already. Images per second unless said otherwise."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks._guide import BATCH, SIZE, fix_statistics, make_model
from benchmarks._sets import read_set, write_run_folder
from benchmarks._thaw import open_run
from core.presets import PRESETS
from core.training_config import FineTunePhase, FrozenPhase, TrainingConfig, parse_config
from worker.training.affine import moved
from worker.training.features import Extractor, FeatureStore, make_extractor
from worker.training.layers import picture_seeds
from worker.training.learner import Batches, Learner, logits_of
from worker.training.machine import prepare_tensorflow
from worker.training.materials import augmenting, frozen_part, live_form, make_setup, through
from worker.training.network import build_network, set_trainable
from worker.training.phases import PhaseRun
from worker.training.precision import computes_in_bfloat16, in_bfloat16

CLASSES = 33


def _rate(call: Callable[[], Any], images: int, seconds: float) -> float:
    """Images per second of `call` over at least `seconds`, after one call that traces and one that warms up."""
    call()
    call()
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        call()
        count += 1
    return round(count * images / (time.monotonic() - began), 2)


def guide_steps(threads: int, seconds: float) -> dict[str, Any]:
    """Train steps of the guide on a resident batch: frozen, all layers as Keras 3 runs them, all layers with statistics fixed.

    Its augmentation is part of its model, and so of every step. The batch is a tensor already, as its dataset gives it.
    """
    import keras  # noqa: PLC0415 - beside its use
    import tensorflow as tf  # noqa: PLC0415

    prepare_tensorflow(threads)
    keras.utils.set_random_seed(0)
    model, base = make_model(CLASSES)
    x = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, *SIZE, 3)).astype(np.float32))
    y = tf.constant(np.random.default_rng(1).integers(0, CLASSES, BATCH))
    found = {}
    for name, trainable, fixed in (("frozen", False, False), ("all layers", True, False), ("all, fixed", True, True)):
        base.trainable = trainable
        if fixed:
            fix_statistics(base)
        model.compile(keras.optimizers.Adam(1e-5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found[name] = _rate(lambda: model.train_on_batch(x, y), BATCH, seconds)
    return found


def thaw_steps(threads: int, seconds: float) -> dict[str, Any]:
    """Train steps of Thaw on a resident batch, as the preset standard takes them: all layers, and from activations cached at two cuts.

    All layers: augmentation is part of the step, as it is of the guide's. Cached activations are those of augmented pictures.
    """
    prepare_tensorflow(threads)
    standard = PRESETS["standard"].config
    found = {}
    for name, first in (("all layers", None), ("cut at b10_add", "b10_add"), ("cut at b14_add", "b14_add")):
        tuned = standard.phases[-1].model_copy(update={"unfreeze_from": first})
        assert isinstance(tuned, FineTunePhase)
        found[name] = _rate(_step(standard, tuned, first), BATCH, seconds)
    return {**found, "precision": "bfloat16" if computes_in_bfloat16() else "float32"}


def augmentation(threads: int, seconds: float) -> dict[str, Any]:
    """A turn of every picture of a batch, as the preset standard turns them: TensorFlow's own operation, and Thaw's."""
    import tensorflow as tf  # noqa: PLC0415 - beside its use

    prepare_tensorflow(threads)
    random = np.random.default_rng(0)
    pictures = tf.constant(random.integers(0, 256, (BATCH, *SIZE, 3), dtype=np.uint8))
    angles = np.radians(random.uniform(-36, 36, BATCH))
    zeros, half = np.zeros(BATCH), (SIZE[0] - 1) / 2
    a, b = np.cos(angles), np.sin(angles)
    turns = np.stack([a, -b, half * (1 - a + b), b, a, half * (1 - a - b), zeros, zeros], axis=1).astype(np.float32)

    @tf.function
    def stock() -> Any:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(pictures, tf.float32),
            transforms=turns,
            output_shape=SIZE,
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",
        )

    ours = tf.function(lambda: moved(pictures, turns[:, :6], "reflect"))
    return {"tensorflow": _rate(stock, BATCH, seconds), "thaw": _rate(ours, BATCH, seconds)}


def _step(config: TrainingConfig, phase: FineTunePhase, first: str | None) -> Callable[[], Any]:
    network, fast = build_network(config, CLASSES), computes_in_bfloat16()
    set_trainable(network, phase)
    head, (_, upper) = network.head, frozen_part(network, phase)
    assert upper is not None
    logits, augment = logits_of(head, head.input), None
    if first is None:
        augment = augmenting(phase, config.augmentation)
        assert augment is not None
        form = live_form(network, logits, bfloat16=fast)
        x = np.random.default_rng(0).integers(0, 256, (1, BATCH, *SIZE, 3), np.uint8)
    else:
        form = through(upper, logits, "mixed_bfloat16" if fast else "float32")
        x = np.random.default_rng(0).uniform(0, 1, (1, BATCH, *upper.input.shape[1:]))
        x = x.astype(ml_dtypes.bfloat16 if fast else np.float32)
    variables = [*upper.trainable_variables, *head.trainable_variables]
    learner = Learner(
        form,
        augment,
        variables,
        phase,
        steps_per_epoch=100,
        n_classes=CLASSES,
        smoothing=config.label_smoothing,
        many=False,
    )
    labels = np.random.default_rng(1).integers(0, CLASSES, (1, BATCH)).astype(np.int32)
    batches = Batches(x, labels, np.ones((1, BATCH), np.float32), picture_seeds(0, 0, np.arange(BATCH))[None])
    return lambda: learner.train(batches)


def pipeline(folders: Sequence[str], most: int, threads: int, steps: int, rounds: int) -> dict[str, Any]:
    """Steps per second of the live loop, pictures from the decoded cache, against the same steps on batches in memory; in turns."""
    phases = [
        {"kind": "frozen", "features": "live", "epochs": 100, "steps_per_epoch": steps, "optimizer": {"name": "adam"}}
    ]
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        pictures = read_set([Path(one) for one in folders], 0, most=most)
        config = parse_config({"phases": phases}).model_dump(mode="json")
        path = write_run_folder(Path(folder) / "run", pictures, config, cache=Path(folder) / "cache", threads=threads)
        work, ledger = open_run(path)
        setup = make_setup(work, work.config.phases[0], 0)
        run = PhaseRun(work, 0, setup, ledger.state, lambda *_: None)
        plan = run._plan(0)
        resident = [run._gathered(places, 0) for places in plan.calls(1)]
        run.learner.train(resident[0])
        live, memory = [], []
        for _ in range(rounds):
            began = time.monotonic()
            for batches in resident:
                run.learner.train(batches)
            memory.append(len(resident) / (time.monotonic() - began))
            began = time.monotonic()
            run._train(run._progress())
            live.append(len(resident) / (time.monotonic() - began))
        work.pictures.finish()
    return {"live": [round(one, 3) for one in live], "in memory": [round(one, 3) for one in memory]}


def extraction(folders: Sequence[str], most: int | None, threads: int, rounds: int) -> dict[str, Any]:
    """Features of a set from the decoded cache into the store, against as many forward passes on a resident batch; in turns."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        pictures = read_set([Path(one) for one in folders], 0, most=most)
        config = TrainingConfig(phases=(FrozenPhase(),)).model_dump(mode="json")
        path = write_run_folder(Path(folder) / "run", pictures, config, cache=Path(folder) / "cache", threads=threads)
        work, _ = open_run(path)
        phase = work.config.phases[0]
        set_trainable(work.network, phase)
        frozen, _ = frozen_part(work.network, phase)
        assert frozen is not None
        answer = in_bfloat16(frozen) if work.wants_bfloat16 else None
        positions = work.positions("train")
        resident = work.pictures.batch(positions[:32])
        seeds = picture_seeds(0, 0, np.arange(32))
        extractor = make_extractor(frozen, "benchmark", None, np.dtype(np.float32), answer=answer)
        extractor.run(resident, seeds)
        from_cache, forward = [], []
        for number in range(rounds):
            began = time.monotonic()
            for _ in range(-(-len(positions) // 32)):
                extractor.run(resident, seeds).numpy()
            forward.append(-(-len(positions) // 32) * 32 / (time.monotonic() - began))
            store = FeatureStore(work.folder, work.pictures)
            unknown = _renamed(extractor, f"round {number}")
            began = time.monotonic()
            store.features(unknown, positions, 1, lambda *_: None)
            from_cache.append(len(positions) / (time.monotonic() - began))
            store.finish()
        work.pictures.finish()
    return {
        "from cache": [round(one, 1) for one in from_cache],
        "resident": [round(one, 1) for one in forward],
        "precision": "bfloat16" if work.wants_bfloat16 else "float32",
    }


def _renamed(extractor: Extractor, name: str) -> Extractor:
    """The same extractor under another name: nothing of it is found in the store, nothing is traced again."""
    meaning: Mapping[str, object] = {**extractor.meaning, "name": name}
    return Extractor(extractor.run, dict(meaning), extractor.shape, extractor.dtype)
