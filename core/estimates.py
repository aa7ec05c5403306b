"""How long a run will take: timed steps of this machine times what the run has to do, mended by earlier runs of the same shape.

Nothing here measures: speeds come from the prediction worker (`worker.training.timing`), durations from finished runs.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import ThawError
from core.tables import DatasetVersion, Run, RunStatus
from core.training_config import FineTunePhase, FrozenPhase, TrainingConfig, parse_config

SPEEDS_LAST = 7 * 24 * 3600  # seconds: then they are measured again
EARLIER = 20  # runs looked at
# What no timed step tells, fitted to the runs of docs/benchmarks.md (Estimates); an earlier run of the same shape replaces it.
EXPORT_BUILDS = 2.0  # writing the SavedModel, in times of building the network
EXPORT_LEAST = 3.0  # seconds: the pictures that go with it and their answers
CHECK_BUILDS = 4.0  # checking the SavedModel in a clean process, beside the judgement, in times of building the network
CHECK_LEAST = 6.0  # seconds: that process imports TensorFlow
EXPORT_KNOWN = 1_000  # training pictures at most of which the model learns what it knows
MADE_WORSE = 7  # ways in which the robustness card makes a test picture worse
MADE_WORSE_MOST = 300  # test pictures at most that it looks at
MADE_WORSE_SECONDS = 1.5e-3  # making one of them worse in one way, at 224 x 224 pixels
FLOAT32 = 2.0  # what the exported graph, which is float32, takes for a picture that bfloat16 takes 1 for
PREPARE_LEAST = 0.5  # seconds: the trainer process begins, TensorFlow is loaded already in a spare
PREPARE_BUILDS = 0.5  # the network, built while pictures are decoded; what is timed is the first one of its process, and takes longer
LOGISTIC_LEAST = 1.0  # seconds: cross-validation of the strength
LOGISTIC_PICTURE = 0.002  # seconds a training picture, for all strengths and folds
HEAD_STEP = (
    2e-5  # seconds a picture at least: fetching the stored features of a head that is too small to cost anything itself
)
JUDGE_SHARE = 0.35  # judging a picture, in steps of training it


@dataclass(frozen=True)
class Counts:
    """Pictures per split, and classes."""

    train: int
    validation: int
    test: int
    classes: int

    @property
    def all(self) -> int:
        """All pictures."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Estimate:
    """Seconds in all and by part (`prepare`, `phase_0`, ..., `export`, `evaluate`), and what they are founded on."""

    seconds: float
    by_phase: dict[str, float]
    basis: str


def counts_of(version: DatasetVersion) -> Counts:
    """Pictures per split of a version."""
    totals = {split: sum(one[split] for one in version.counts.values()) for split in ("train", "validation", "test")}
    return Counts(**totals, classes=len(version.class_names))


def shape_key(config: TrainingConfig, classes: int) -> str:
    """Equal for runs whose steps cost the same: network, size, batch, what is cached and thawed; not epochs, rates or seeds."""
    phases = [
        (
            phase.kind,
            phase.features,
            phase.views > 1,
            phase.optimizer.name,
            str(getattr(phase, "unfreeze_from", "")),
            phase.ema_decay > 0,
        )
        for phase in config.phases
    ]
    augmentation = config.augmentation.model_dump(mode="json")
    parts = (config.backbone, config.image_size, config.resize, config.cut_layer, config.head.model_dump(mode="json"))
    text = json.dumps([*parts, config.batch_size, config.precision, phases, augmentation, classes])
    return hashlib.sha256(text.encode()).hexdigest()


def timed_key(shape: str, sizes: Sequence[int]) -> str:
    """What timed steps hold for: a shape of run, and pictures whose files are about as large, to a factor of two.

    Args:
        sizes: bytes of the files whose decoding is timed.
    """
    return f"{shape}:{round(math.log2(max(1.0, statistics.mean(sizes))))}"


def speeds_name(key: str) -> str:
    """Under what the speeds of `timed_key` are noted with the broker. The number is that of what `measure` gives, and rises with it."""
    return f"speeds:4:{key}"


def left_behind(config: TrainingConfig) -> frozenset[str]:
    """What a run leaves in the caches for its dataset version, by names that are equal where another run would find it."""
    found = {_decoded(config)}
    for phase in config.phases:
        if phase.features == "cached":
            found |= {_features(config, phase, 1), _features(config, phase, phase.views)}
    return frozenset(found)


def _decoded(config: TrainingConfig) -> str:
    return json.dumps(["decoded", config.image_size, config.resize])


def _features(config: TrainingConfig, phase: FrozenPhase | FineTunePhase, views: int) -> str:
    """Features of a phase's cut: of plain pictures when there is one view, else as the run's seed changes them."""
    data = config.model_dump(mode="json")
    parts = [data[name] for name in ("backbone", "weights", "image_size", "resize", "cut_layer", "precision")]
    parts += [config.head.pooling, all(one.features == "cached" for one in config.phases)]
    parts.append(phase.model_dump(mode="json")["unfreeze_from"] if isinstance(phase, FineTunePhase) else phase.kind)
    if views > 1:
        parts += [data["augmentation"], views]
    if views > 1 or config.weights == "none":
        parts.append(config.seed)
    return json.dumps(parts)


def modelled(
    config: TrainingConfig, counts: Counts, speeds: Mapping[str, Any], *, threads: int, known: frozenset[str]
) -> dict[str, float]:
    """Seconds by part from timed steps alone.

    Args:
        config: of the run.
        counts: of its pictures.
        speeds: as `worker.training.timing.measure` gives them.
        threads: of the trainer.
        known: what earlier runs left in the caches for these pictures (`left_behind`).
    """
    reading = 0.0 if _decoded(config) in known else counts.all * speeds["decode"] / threads
    parts = {"prepare": PREPARE_LEAST + max(PREPARE_BUILDS * speeds["build"], reading)}
    for index, phase in enumerate(config.phases):
        speed = speeds["phases"][index]
        train, judged = counts.train, counts.validation
        if phase.steps_per_epoch is not None:
            train = phase.steps_per_epoch * config.batch_size
        views = phase.views if phase.features == "cached" else 0
        each = speed["extract_view"] if views > 1 else speed["extract"]
        extracting = 0.0 if _features(config, phase, phase.views) in known else counts.train * views * each
        extracting += 0.0 if _features(config, phase, 1) in known else judged * speed["extract"]
        if phase.optimizer.name == "lbfgs":
            learning = LOGISTIC_LEAST + LOGISTIC_PICTURE * counts.train * phase.views
        else:
            step = max(HEAD_STEP, speed["step"])
            learning = phase.epochs * (train + JUDGE_SHARE * judged) * step
        parts[f"phase_{index}"] = speed["trace"] + extracting + learning
    slower = FLOAT32 if speeds["bfloat16"] else 1.0
    frozen = max((one["extract"] or JUDGE_SHARE * one["step"]) for one in speeds["phases"])
    answered = max((slower * one["extract"] or JUDGE_SHARE * one["step"]) for one in speeds["phases"])
    kinds = len({phase.kind for phase in config.phases})
    # a frozen phase has stored what the model's own network would have to be asked about once more
    asked = 0 if config.phases[-1].kind == "frozen" else min(counts.train, EXPORT_KNOWN) + counts.validation
    parts["export"] = EXPORT_LEAST + EXPORT_BUILDS * speeds["build"] + frozen * asked
    worse = min(counts.test, MADE_WORSE_MOST)
    area = config.image_size[0] * config.image_size[1] / 224**2
    judging = kinds * answered * (counts.test + counts.validation)
    judging += worse * (answered * (1 + MADE_WORSE) + MADE_WORSE * MADE_WORSE_SECONDS * area)
    judging += frozen * counts.test  # its features, for near duplicates and neighbours
    check = CHECK_LEAST + CHECK_BUILDS * speeds["build"]
    parts["evaluate"] = max(check, judging + check / threads)  # the check keeps one of the processors busy
    return parts


def estimate(
    session: Session, version: DatasetVersion, config: TrainingConfig, speeds: Mapping[str, Any], *, threads: int
) -> Estimate:
    """Seconds that a run will take once it has begun; each part is mended by what it really took in runs of the same shape."""
    counts = counts_of(version)
    key = shape_key(config, counts.classes)
    finished = _finished(session, version.owner_id)
    known = _known(session, version)
    parts = modelled(config, counts, speeds, threads=threads, known=known)
    ratios = _ratios(finished, key, version.id, speeds, threads)
    by_phase = {name: seconds * ratios.get(name, 1.0) for name, seconds in parts.items()}
    device = speeds.get("device", "CPU")
    basis = "timed steps on this machine" + ("" if device == "CPU" else f" ({device})")
    earlier = sum(_key_of(one) == key for one in finished)
    if earlier:
        basis += f", and {earlier} earlier {'run' if earlier == 1 else 'runs'} of the same shape"
    return Estimate(sum(by_phase.values()), by_phase, basis)


@dataclass(frozen=True)
class _Finished:
    """A run that has succeeded, with settings that this version of Thaw still knows."""

    run: Run
    version: DatasetVersion
    config: TrainingConfig


def _finished(session: Session, owner_id: str) -> list[_Finished]:
    """This person's newest runs that have succeeded, of any shape, oldest first."""
    wanted = (
        select(Run, DatasetVersion)
        .join(DatasetVersion, DatasetVersion.id == Run.dataset_version_id)
        .where(Run.owner_id == owner_id, Run.status == RunStatus.SUCCEEDED)
        .order_by(Run.id.desc())
        .limit(EARLIER)
    )
    found = [(run, version, _config_of(run.config)) for run, version in reversed(session.execute(wanted).all())]
    return [
        _Finished(run, version, config)
        for run, version, config in found
        if config is not None and "seconds" in run.summary
    ]


def _known(session: Session, version: DatasetVersion) -> frozenset[str]:
    """What every run on this version that has succeeded left behind, of whatever shape."""
    wanted = select(Run.config).where(Run.dataset_version_id == version.id, Run.status == RunStatus.SUCCEEDED)
    configs = (_config_of(config) for config in session.scalars(wanted.order_by(Run.id.desc()).limit(EARLIER)))
    return frozenset().union(*(left_behind(config) for config in configs if config is not None))


def _config_of(config: Mapping[str, Any]) -> TrainingConfig | None:
    try:
        return parse_config(config)
    except ThawError:  # settings of an earlier version that this one does not know
        return None


def _key_of(one: _Finished) -> str:
    return shape_key(one.config, len(one.version.class_names))


def _ratios(
    finished: Sequence[_Finished], key: str, version_id: str, speeds: Mapping[str, Any], threads: int
) -> dict[str, float]:
    """By part, the median over earlier runs of the shape `key` of real seconds to modelled ones.

    How long pictures take to decode is known of this version's alone, so other versions do not count in `prepare`.
    """
    left: dict[str, frozenset[str]] = {}  # by version
    ratios: dict[str, list[float]] = {}
    for one in finished:
        known = left.get(one.version.id, frozenset())
        left[one.version.id] = known | left_behind(one.config)
        if _key_of(one) != key:
            continue
        parts = modelled(one.config, counts_of(one.version), speeds, threads=threads, known=known)
        for name, seconds in parts.items():
            real = one.run.summary["seconds"].get(name)
            alike = name != "prepare" or one.version.id == version_id
            if real is not None and seconds > 0 and alike:
                ratios.setdefault(name, []).append(min(5.0, max(0.2, float(real) / seconds)))
    return {name: statistics.median(values) for name, values in ratios.items()}
