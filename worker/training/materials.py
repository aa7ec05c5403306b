"""A phase made ready: what flows in (stored features or pixels), what answers, what learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from core.training_config import Augmentation, FineTunePhase, FrozenPhase, TrainingConfig
from worker.training.data import DecodedPictures, preprocessing
from worker.training.events import Place, Progress, Speaker
from worker.training.features import Extractor, Features, FeatureStore, make_extractor
from worker.training.layers import AugmentationLayer
from worker.training.learner import Logits, logits_of
from worker.training.network import Network, computing_in, resolve_first, set_trainable, split_backbone
from worker.training.orders import Orders
from worker.training.precision import (
    ENOUGH,
    LOOKED_AT,
    bfloat16_cosine,
    drawn_across_classes,
    exact_layers,
    in_bfloat16,
)
from worker.training.run_folder import RunFolder


class Material(Protocol):
    """Where a split's inputs come from."""

    @property
    def record_bytes(self) -> int:
        """Bytes of one picture's input."""
        ...

    def fetch(self, places: np.ndarray, turn: int) -> np.ndarray:
        """Inputs of the pictures at `places` (index into the split) in epoch `turn` of the phase."""
        ...


class StoredMaterial:
    """Stored features. With several views, each picture goes through them epoch by epoch, from a view of its own."""

    def __init__(self, features: Features, first_views: np.ndarray) -> None:
        self.features, self._first_views = features, first_views
        self.record_bytes = int(np.prod(features.shape, dtype=np.int64)) * features.dtype.itemsize

    def fetch(self, places: np.ndarray, turn: int) -> np.ndarray:
        """See Material."""
        return self.features.gather(places, (self._first_views[places] + turn) % self.features.views)


class PixelMaterial:
    """Decoded pictures, for phases that run the whole network in the loop (and augment there)."""

    def __init__(self, pictures: DecodedPictures, positions: np.ndarray) -> None:
        self._pictures, self._positions = pictures, positions
        self.record_bytes = int(np.prod(pictures.shape, dtype=np.int64))

    def fetch(self, places: np.ndarray, turn: int) -> np.ndarray:  # noqa: ARG002
        """See Material."""
        return self._pictures.batch(self._positions[places])


@dataclass
class Workplace:
    """What every phase of a run needs.

    Attributes:
        wants_bfloat16: frozen parts may run in bfloat16 where that is checked to agree.
        precision: "bfloat16" once a phase has computed in it, else "float32".
    """

    folder: RunFolder
    network: Network
    pictures: DecodedPictures
    store: FeatureStore
    speaker: Speaker
    orders: Orders
    wants_bfloat16: bool
    precision: str = "float32"

    @property
    def config(self) -> TrainingConfig:
        """The run's settings."""
        return self.folder.config

    @property
    def n_classes(self) -> int:
        """Classes of the answer."""
        return len(self.folder.class_names)

    def positions(self, split: str) -> np.ndarray:
        """Positions of a split's pictures in the run's list."""
        return self.folder.pictures.of_split(split)

    def labels(self, split: str) -> np.ndarray:
        """Labels int32 of a split's pictures."""
        return self.folder.pictures.labels[self.positions(split)]


@dataclass(frozen=True)
class Setup:
    """A phase made ready.

    Attributes:
        logits: (inputs as `train` gives them, training) -> logits.
        augment: (inputs, seeds) -> inputs, in the loop; None where there is nothing to do there.
        variables: what learns.
        train_features: the stored features of train; None when the phase is live.
        precision: what the phase computes in below its head: "bfloat16" or "float32".
    """

    train: Material
    validation: Material
    logits: Logits
    augment: Callable[[Any, Any], Any] | None
    variables: list[Any]
    train_features: Features | None
    precision: str


def make_setup(work: Workplace, phase: FrozenPhase | FineTunePhase, index: int) -> Setup:
    """Thaw what the phase says, and compute or find the features of what stays frozen."""
    setup = _made(work, phase, index)
    if setup.precision == "bfloat16":
        work.precision = setup.precision
    return setup


def _made(work: Workplace, phase: FrozenPhase | FineTunePhase, index: int) -> Setup:
    set_trainable(work.network, phase)
    if phase.features == "live":
        return _live(work, phase)
    frozen, upper = frozen_part(work.network, phase)
    if frozen is None:
        return _live(work, phase)
    setup = _stored(work, phase, index, frozen, upper)
    if setup is None:
        work.speaker.log("The cache limit cannot hold this phase's features: it runs live, which takes longer.")
        return _live(work, phase)
    return setup


def frozen_part(network: Network, phase: FrozenPhase | FineTunePhase) -> tuple[keras.Model | None, keras.Model | None]:
    """(what runs once per picture, what is left of the backbone): all of it with the pooling when nothing of it learns."""
    lower: keras.Model | None = network.backbone
    upper: keras.Model | None = None
    if isinstance(phase, FineTunePhase):
        lower, upper = split_backbone(network.backbone, resolve_first(network, phase))
    if lower is not None and upper is None:
        return pooled(network, lower), None
    return lower, upper


def pooled(network: Network, part: keras.Model | None = None) -> keras.Model:
    """The backbone, or a part that ends where it ends, with the head's pooling on it."""
    part = part or network.backbone
    vector = network.head.get_layer("head_pooling")(part.output)
    return keras.Model(part.input, vector, name=f"{part.name}_pooled")


def plain_pooled(work: Workplace) -> Extractor:
    """The pooled features of the whole backbone on plain pictures, by the network as it stands: what a frozen phase stores."""
    return _plain(work, pooled(work.network))[0]


def _stored(
    work: Workplace,
    phase: FrozenPhase | FineTunePhase,
    index: int,
    frozen: keras.Model,
    upper: keras.Model | None,
) -> Setup | None:
    """The setup on stored features; None when the store's limit is too small for them."""
    config, head = work.config, work.network.head
    plain, fast = _plain(work, frozen)
    varied = plain if phase.views == 1 else _extractor(work, frozen, fast, views=phase.views)
    positions = work.positions("train")
    if not work.store.fits(varied, len(positions) * phase.views + len(work.positions("validation"))):
        return None
    say = _speak_of_features(work, phase, index)
    train = work.store.features(varied, positions, phase.views, say)
    validation = work.store.features(plain, work.positions("validation"), 1, say)
    first_views = np.random.default_rng([config.seed, index]).integers(0, phase.views, len(positions))
    if upper is None:
        logits: Logits = logits_of(head, head.get_layer("head_pooling").output)
        variables = list(head.trainable_variables)
    else:
        logits = through(upper, logits_of(head, head.input), "float32" if fast is None else "mixed_bfloat16")
        variables = [*upper.trainable_variables, *head.trainable_variables]
    only_view = np.zeros(len(work.positions("validation")), np.int64)
    return Setup(
        StoredMaterial(train, first_views),
        StoredMaterial(validation, only_view),
        logits,
        None,
        variables,
        train,
        "float32" if fast is None else "bfloat16",
    )


def _extractor(work: Workplace, frozen: keras.Model, fast: Callable[[Any], Any] | None, views: int) -> Extractor:
    augmentation = None if views == 1 else work.config.augmentation
    vector = len(frozen.output.shape) == 2
    storage = np.dtype(np.float32) if fast is None or vector else np.dtype(ml_dtypes.bfloat16)
    compute = "float32" if fast is None else "bfloat16"
    return make_extractor(frozen, work.network.name, augmentation, storage, compute=compute, answer=fast)


def _plain(work: Workplace, frozen: keras.Model) -> tuple[Extractor, Callable[[Any], Any] | None]:
    """The extractor of plain pictures, and the frozen part as it answers in bfloat16; None where that changes its features too much."""
    if work.wants_bfloat16:
        fast = in_bfloat16(frozen)
        extractor = _extractor(work, frozen, fast, views=1)
        if _agrees(work, frozen, extractor):
            return extractor, fast
    return _extractor(work, frozen, None, views=1), None


def _agrees(work: Workplace, frozen: keras.Model, fast: Extractor) -> bool:
    train = work.positions("train")
    digests = work.folder.pictures.digests[train]
    drawn = drawn_across_classes(digests, work.labels("train"), LOOKED_AT)
    looked_at = {**preprocessing(work.folder), "pictures": [digest.tobytes().hex() for digest in digests[drawn]]}

    def pictures() -> np.ndarray:
        return work.pictures.batch(train[drawn])

    memory, at_once = work.folder.feature_store, work.folder.at_once(LOOKED_AT)
    cosine = bfloat16_cosine(frozen, work.network.name, fast, pictures, looked_at, memory, at_once)
    if cosine > ENOUGH:
        return True
    work.speaker.log(f"bfloat16 differs too much from float32 here (cosine {cosine:.5f}): float32 is used.")
    return False


def _speak_of_features(work: Workplace, phase: FrozenPhase | FineTunePhase, index: int) -> Callable[[int, int], None]:
    """A listener that turns (done, all) into progress events, and orders into an end."""
    progress: Progress | None = None
    total = -1

    def say(done: int, to_do: int) -> None:
        nonlocal progress, total
        work.orders.check()
        if progress is None or to_do != total:
            total = to_do
            place = Place(phase.kind, index, None, work.config.epochs_total, "Computing features")
            progress = Progress(work.speaker, place, to_do, to_do)
        progress.at(done, done)

    return say


def _live(work: Workplace, phase: FrozenPhase | FineTunePhase) -> Setup:
    """The setup that runs the whole network in every step."""
    network = work.network
    fast = _quick_steps(work, phase)
    return Setup(
        PixelMaterial(work.pictures, work.positions("train")),
        PixelMaterial(work.pictures, work.positions("validation")),
        live_form(network, logits_of(network.head, network.head.input), bfloat16=fast),
        augmenting(phase, work.config.augmentation),
        [*network.backbone.trainable_variables, *network.head.trainable_variables],
        None,
        "bfloat16" if fast else "float32",
    )


def _quick_steps(work: Workplace, phase: FrozenPhase | FineTunePhase) -> bool:
    """Whether steps through the whole network compute in bfloat16; where the settings insist on it in vain, the log says why not."""
    if not work.wants_bfloat16:
        return False
    # live as wished is a textbook's way and stays float32; live because everything learns may be quick
    if phase.features == "live":
        reason = "a phase with live features computes in float32"
    elif has_batch_norms(work.network.backbone):
        reason = "steps through BatchNorms that are not folded compute in float32"
    else:
        return _plain(work, pooled(work.network))[1] is not None
    if work.config.precision == "mixed":
        work.speaker.log(f'precision "mixed" cannot be honoured in this phase: {reason}.')
    return False


def has_batch_norms(backbone: keras.Model) -> bool:
    """True where a BatchNorm is left that no convolution has taken up: it would be slow in bfloat16."""
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in backbone.layers)


def augmenting(phase: FrozenPhase | FineTunePhase, augmentation: Augmentation) -> Callable[[Any, Any], Any] | None:
    """What a live step does to its pictures: (uint8 [n, H, W, 3], seeds) -> float32; None where they stay as they are."""
    if not phase.augments or augmentation.changes_nothing:
        return None
    return AugmentationLayer(augmentation).changed


def live_form(network: Network, logits: Logits, *, bfloat16: bool) -> Logits:
    """`logits` after the whole backbone, for steps that run all of it.

    Args:
        bfloat16: compute in bfloat16 from the fourth convolution on, where no BatchNorm is left that would be slow in it.
    """
    backbone = network.backbone
    if not bfloat16 or has_batch_norms(backbone):
        return through(backbone, logits)
    return through(backbone, logits, "mixed_bfloat16", exact=exact_layers(backbone))


def through(model: keras.Model, logits: Logits, policy: str = "float32", exact: frozenset[str] = frozenset()) -> Logits:
    """`logits` after `model`, whose BatchNorm statistics never move: it is called as in inference, always.

    Args:
        policy: dtype policy that it computes by; its weights are float32.
        exact: layers that compute in float32 whatever the policy says.
    """

    def run(x: Any, training: bool) -> Any:
        if policy == "float32":
            return logits(model(tf.cast(x, tf.float32), training=False), training)
        with computing_in(model, policy, exact):
            features = model(tf.cast(x, tf.float32) if exact else x, training=False)
        return logits(tf.cast(features, tf.float32), training)

    return run
