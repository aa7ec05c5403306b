"""Named starting points for a run. A run's config is merged over its preset (`core.training_config.merged`).

Where every number of a textbook's recipe comes from, and where Thaw departs from it, stands in docs/recipes.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import FieldProblem, InputInvalid
from core.training_config import (
    Augmentation,
    FineTunePhase,
    FrozenPhase,
    Head,
    Optimizer,
    Schedule,
    TrainingConfig,
)


@dataclass(frozen=True)
class Preset:
    """A named TrainingConfig.

    Attributes:
        id: name in `POST /runs {preset}`.
        title: name for people.
        description: what it does and what it costs, one or two sentences.
        config: the settings it stands for.
        recipe: True for a textbook's recipe.
        needs_model: True when it starts from a model of one's own, which the person must choose.
    """

    id: str
    title: str
    description: str
    config: TrainingConfig
    recipe: bool = False
    needs_model: bool = False


# Measured with EfficientNet-Lite0 against Adam (0.001, 20 and 40 epochs) on the five sample sets, mean test accuracy of 4 splits:
# flowers .900 (.878, .883), groceries .972 (.977, .977), trash .710 (.677, .702), chest X-rays .950 (.944, .944); on all five joined
# (33 classes, 1,000 train) .912 (.896, .902), in less time. Cross-validation sets the strength, so the last iteration is kept.
_HEAD_ON_FEATURES = FrozenPhase(epochs=100, keep="last", optimizer=Optimizer(name="lbfgs"))

# Measured: docs/decisions/0006-presets.md
_TOP_OF_THE_BACKBONE = FineTunePhase(
    epochs=6,
    unfreeze_from="b10_add",
    views=3,
    ema_decay=0.98,
    optimizer=Optimizer(name="adamw", learning_rate=0.0003),
    schedule=Schedule(name="cosine", warmup_epochs=1),
)

# Evidence, flattering or not: docs/decisions/0006-presets.md
_MORE_OF_THE_BACKBONE = _TOP_OF_THE_BACKBONE.model_copy(update={"unfreeze_from": "b7_add", "epochs": 8, "views": 4})

_ALL = (
    Preset(
        id="quick",
        title="Quick",
        description="The frozen phase only: every picture passes the backbone once, then the head learns in seconds.",
        config=TrainingConfig(phases=(_HEAD_ON_FEATURES,)),
    ),
    Preset(
        id="standard",
        title="Standard",
        description="The frozen phase, then fine-tuning of the top of the backbone; the better one on validation wins.",
        config=TrainingConfig(phases=(_HEAD_ON_FEATURES, _TOP_OF_THE_BACKBONE), select="validation_loss"),
    ),
    Preset(
        id="best",
        title="Best",
        description=(
            "More of the backbone thawed, more views and epochs: fine-tuning takes twice as long, for the last bit, if "
            "there is one."
        ),
        config=TrainingConfig(phases=(_HEAD_ON_FEATURES, _MORE_OF_THE_BACKBONE), select="validation_loss"),
    ),
)


def _textbook(*phases: FrozenPhase | FineTunePhase, head: Head, **settings: Any) -> TrainingConfig:
    """What every recipe has in common: nothing of ours that the books do not know."""
    common: dict[str, Any] = {
        "resize": "squash",
        "select": "last",
        "class_weights": "none",
        "label_smoothing": 0.0,
        "precision": "float32",
        "augmentation": _NO_AUGMENTATION,
    }
    return TrainingConfig(**{**common, **settings}, head=head, phases=phases)


_NO_AUGMENTATION = Augmentation(horizontal_flip=False, rotation_degrees=0.0)
# ImageDataGenerator's shear_range=0.2 is an angle in degrees
_AS_CHOLLET_AUGMENTS = Augmentation(
    rotation_degrees=40.0, shift=(0.2, 0.2), shear_degrees=0.2, zoom=0.2, fill_mode="nearest"
)
_LIVE: dict[str, Any] = {"features": "live", "keep": "last"}

# https://keras.io/guides/transfer_learning/ (the end-to-end example: cats and dogs), as it was with its 20 and 10 epochs and batches
# of 32; today's page runs 2 and 1 epochs of 64 pictures and still speaks of ten.
_KERAS_GUIDE = _textbook(
    FrozenPhase(epochs=20, optimizer=Optimizer(learning_rate=0.001), **_LIVE),
    FineTunePhase(epochs=10, optimizer=Optimizer(learning_rate=1e-5), **_LIVE),
    head=Head(dropout=0.2, binary=True),
    backbone="xception",
    image_size=(150, 150),
    augmentation=Augmentation(rotation_degrees=36.0),
)

# Aurelien Geron, Hands-On Machine Learning, 2nd edition, chapter 14; the 40 epochs are its notebook's. Without augmentation a frozen
# phase on stored features is the same mathematics as in the loop, so they are stored.
_FLOWERS = _textbook(
    FrozenPhase(
        epochs=5,
        keep="last",
        optimizer=Optimizer(name="sgd", learning_rate=0.2, momentum=0.9),
        schedule=Schedule(name="inverse_time", decay_rate=0.01),
    ),
    FineTunePhase(
        epochs=40,
        optimizer=Optimizer(name="sgd", learning_rate=0.01, momentum=0.9),
        schedule=Schedule(name="inverse_time", decay_rate=0.001),
        **_LIVE,
    ),
    head=Head(dropout=0.0),
    backbone="xception",
)

# The same book, chapter 11: "Transfer Learning with Keras", with a small convolutional network for the book's dense one. The frozen
# epochs are compiled with "sgd", whose rate is 0.01.
_REUSE = _textbook(
    FrozenPhase(epochs=4, keep="last", optimizer=Optimizer(name="sgd", learning_rate=0.01)),
    FineTunePhase(epochs=16, optimizer=Optimizer(name="sgd", learning_rate=1e-4), **_LIVE),
    head=Head(dropout=0.0, binary=True),
    backbone="tiny_cnn",
    weights="none",
    image_size=(28, 28),
)

# Laurence Moroney, Convolutional Neural Networks in TensorFlow, transfer learning; "nearest" is ImageDataGenerator's own fill
_MIXED7 = _textbook(
    FrozenPhase(epochs=20, steps_per_epoch=100, optimizer=Optimizer(name="rmsprop", learning_rate=0.0001), **_LIVE),
    head=Head(pooling="flatten", hidden_units=(1024,), dropout=0.2, binary=True),
    backbone="inception_v3",
    cut_layer="mixed7",
    image_size=(150, 150),
    batch_size=20,
    augmentation=_AS_CHOLLET_AUGMENTS,
)

# After Francois Chollet, Deep Learning with Python, 1st edition, section 5.3, in the form that is taught with 1e-4 and twice 30 epochs,
# whose loop freezes block5_conv1 before it breaks, so that block5_conv2 is the first to learn (docs/recipes.md).
_BLOCK5 = _textbook(
    FrozenPhase(epochs=30, steps_per_epoch=100, optimizer=Optimizer(name="rmsprop", learning_rate=1e-4), **_LIVE),
    FineTunePhase(
        epochs=30,
        steps_per_epoch=100,
        unfreeze_from="block5_conv2",
        optimizer=Optimizer(name="rmsprop", learning_rate=1e-5),
        **_LIVE,
    ),
    head=Head(pooling="flatten", hidden_units=(256,), dropout=0.0, binary=True),
    backbone="vgg16",
    image_size=(150, 150),
    batch_size=20,
    augmentation=_AS_CHOLLET_AUGMENTS,
)

_RECIPES = (
    Preset(
        id="keras-guide",
        title="Keras guide",
        description=(
            "Xception as in Keras' transfer-learning guide: 20 epochs of the head, 10 of everything at 1e-5. Two "
            "classes. BatchNorm statistics really stay fixed, as the guide means it."
        ),
        config=_KERAS_GUIDE,
        recipe=True,
    ),
    Preset(
        id="hands-on-ml-flowers",
        title="Hands-On ML: flowers",
        description=(
            "Xception, average pooling and softmax: 5 epochs of the head by SGD at 0.2, then 40 of everything at "
            "0.01, both with a rate that decays per step."
        ),
        config=_FLOWERS,
        recipe=True,
    ),
    Preset(
        id="hands-on-ml-reuse",
        title="Hands-On ML: reuse a model",
        description=(
            "A model of your own lends its layers to a new task: the head for 4 epochs, then everything for 16 by "
            "SGD at 1e-4. Your model stays as it is. Two classes."
        ),
        config=_REUSE,
        recipe=True,
        needs_model=True,
    ),
    Preset(
        id="inception-mixed7",
        title="InceptionV3 cut at mixed7",
        description=(
            "InceptionV3 up to mixed7, flattened, 1,024 units, dropout, one sigmoid unit, by RMSprop with strong "
            "augmentation. Two classes. Pixels come as the weights want them, not divided by 255."
        ),
        config=_MIXED7,
        recipe=True,
    ),
    Preset(
        id="vgg16-block5",
        title="VGG16, block 5",
        description=(
            "VGG16, flattened, 256 units: 30 epochs of the head, then 30 from block5_conv2 at 1e-5, by RMSprop "
            "with strong augmentation of training pictures only. Two classes. Pixels come as the weights want "
            "them, not divided by 255."
        ),
        config=_BLOCK5,
        recipe=True,
    ),
)

PRESETS: dict[str, Preset] = {preset.id: preset for preset in (*_ALL, *_RECIPES)}


def is_just(preset_id: str | None, config: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> bool:
    """Whether a run's config is that of the preset, as it is in this version of Thaw, leaving out the fields `but`."""
    preset = PRESETS.get(preset_id or "")
    if preset is None:
        return False
    wanted = preset.config.model_dump(mode="json")
    return all(wanted.get(name) == config.get(name) for name in {*wanted, *config} - set(but))


def check_start(preset: Preset, config: TrainingConfig, *, chosen: bool) -> None:
    """Check that a recipe which starts from one's own model was given one.

    Args:
        chosen: the person said themselves what to start from, perhaps nothing.

    Raises:
        InputInvalid: nothing was said.
    """
    if preset.needs_model and not chosen and isinstance(config.weights, str):
        message = (
            f'"{preset.title}" starts from a model of your own: say which. Received: none; allowed for weights: '
            '{"model_id": "..."}, or "none" to train the second task alone.'
        )
        raise InputInvalid(message, problems=(FieldProblem("config.weights", message, config.weights),))
