"""Named starting points for a run. A run's config is merged over its preset (`core.training_config.merged`)."""

from dataclasses import dataclass

from core.training_config import (
    FineTunePhase,
    FrozenPhase,
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
    """

    id: str
    title: str
    description: str
    config: TrainingConfig


# Measured with EfficientNet-Lite0 against Adam (0.001, 20 and 40 epochs) on the five sample sets, mean test accuracy of 4 splits:
# flowers .900 (.878, .883), groceries .972 (.977, .977), trash .710 (.677, .702), chest X-rays .950 (.944, .944); on all five joined
# (33 classes, 1,000 train) .912 (.896, .902), in less time. Cross-validation sets the strength, so the last iteration is kept.
_HEAD_ON_FEATURES = FrozenPhase(epochs=100, keep="last", optimizer=Optimizer(name="lbfgs"))

_TOP_OF_THE_BACKBONE = FineTunePhase(
    epochs=8,
    unfreeze_from="b10_add",
    views=4,
    ema_decay=0.98,
    optimizer=Optimizer(name="adamw", learning_rate=0.0003),
    schedule=Schedule(name="cosine", warmup_epochs=1),
)

# Evidence, flattering or not: docs/decisions/0006-presets.md
_MORE_OF_THE_BACKBONE = FineTunePhase(
    epochs=14,
    unfreeze_from="b7_add",
    views=8,
    ema_decay=0.99,
    optimizer=Optimizer(name="adamw", learning_rate=0.0003),
    schedule=Schedule(name="cosine", warmup_epochs=1),
)

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
        config=TrainingConfig(phases=(_HEAD_ON_FEATURES, _TOP_OF_THE_BACKBONE)),
    ),
    Preset(
        id="best",
        title="Best",
        description="Larger pictures, more of the backbone thawed, more views and epochs. For the last per cent, when time matters less.",
        config=TrainingConfig(image_size=(256, 256), phases=(_HEAD_ON_FEATURES, _MORE_OF_THE_BACKBONE)),
    ),
)

PRESETS: dict[str, Preset] = {preset.id: preset for preset in _ALL}
