"""The sentences of a run's log: what was done, how long it took, what came out."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.backbones import BACKBONES
from core.training_config import FineTunePhase, FrozenPhase, TrainingConfig

_NAMES = {"frozen": "Frozen phase", "fine_tune": "Fine-tune phase"}
_WHY = {
    "validation": "validation chose it",
    "validation_loss": "validation chose it, by the lower loss",
    "last": "the settings take the last phase",
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def checkpoint_damaged(name: str, resumed_from: str | None) -> str:
    """A checkpoint that cannot be gone on from, and what is done instead."""
    instead = "begins again" if resumed_from is None else f"goes on from {resumed_from}"
    return f"The checkpoint {name} is damaged on the disk: the training {instead}."


def pictures_ready(count: int, decoded: int, seconds: float) -> str:
    """Decoded pictures: how many, and how many of them were decoded now."""
    if decoded == 0:
        return f"The decoded pictures of this dataset version were there already: {count:,}."
    return f"Decoded {decoded:,} of {count:,} pictures in {seconds:.1f} s; the others were there already."


def network_built(config: TrainingConfig, form: str, parameters: int) -> str:
    """Backbone, weights, size, form."""
    weights = {"imagenet": "ImageNet weights", "none": "random weights"}.get(str(config.weights), "own weights")
    height, width = config.image_size
    backbone = BACKBONES[config.backbone]
    how = {
        "folded": "BatchNorm folded into the convolutions",
        "partly folded": (
            f"BatchNorm folded into the convolutions where the graph allows it (in the whole backbone {backbone.folded_batch_norms} "
            f"of {backbone.batch_norms}), statistics of the others fixed"
        ),
    }.get(form, "plain form, BatchNorm statistics fixed" if backbone.batch_norms else "plain form, no BatchNorm in it")
    return f"{backbone.title} with {weights}, {height} x {width} px, {parameters:,} parameters; {how}."


def phase_begins(phase: FrozenPhase | FineTunePhase, summary: Mapping[str, Any]) -> str:
    """What learns, and by what."""
    learn, fixed = summary["trainable_parameters"], summary["non_trainable_parameters"]
    by = (
        "logistic regression"
        if phase.optimizer.name == "lbfgs"
        else f"{phase.optimizer.name}, rate {phase.optimizer.learning_rate:g}"
    )
    thawed = ""
    if isinstance(phase, FineTunePhase):
        place = phase.unfreeze_from
        where = (
            "the whole backbone"
            if place is None
            else f"from {place}"
            if isinstance(place, str)
            else f"the top {_percent(place.fraction)}"
        )
        thawed = f", thawed: {where}"
    return f"{_NAMES[phase.kind]}: {learn:,} of {learn + fixed:,} parameters learn{thawed}; {by}."


def features_ready(computed: int, seconds: float, precision: str) -> str:
    """How many features were computed now, and in which arithmetic."""
    if computed == 0:
        return f"The features of the frozen part were in the store already ({precision})."
    speed = f"{computed / max(seconds, 1e-3):,.0f} images/s"
    return f"Computed {computed:,} features of the frozen part in {seconds:.1f} s ({speed}, {precision})."


def quick_steps() -> str:
    """That steps through the whole network are not in float32."""
    return "Steps go through the whole network, in bfloat16 from its fourth convolution on."


def batch_larger_than_train(batch_size: int, pictures: int) -> str:
    """That a step has fewer pictures than the settings say."""
    return (
        f"batch_size {batch_size:,} is more than the {pictures:,} training pictures: one step of {pictures:,} an epoch."
    )


def not_used_by_logistic_regression(names: Sequence[str]) -> str:
    """Settings that were changed for nothing."""
    return f"Logistic regression has no use for these settings: {', '.join(names)}."


def phase_ended(result: Mapping[str, Any]) -> str:
    """What the phase came to on validation."""
    found = result["validation"]
    return (
        f"{_NAMES[result['phase']]} ended after {result['seconds']:.1f} s: validation accuracy "
        f"{_percent(found['accuracy'])}, loss {found['loss']:.3f}."
    )


def model_chosen(kind: str, select: str) -> str:
    """Which phase became the model, and why."""
    return f"The network of the {_NAMES[kind].lower()} becomes the model: {_WHY[select]}."


def export_checked(export: Mapping[str, Any]) -> str:
    """Size of the SavedModel and how it agreed."""
    agreement = export["agreement"]
    return (
        f"SavedModel written, {export['size_bytes'] / 1e6:.1f} MB. Loaded in a clean process it gives the same class for "
        f"{_percent(agreement['top1'])} of the checked pictures, largest difference {agreement['max_abs_diff']:.1g}."
    )


def judged(evaluation: Mapping[str, Any], chosen: str) -> str:
    """The test score with its interval."""
    best = evaluation["phases"][chosen]
    low, high = best["accuracy_interval"]
    return (
        f"Judged once on {best['pictures']:,} test pictures: accuracy {_percent(best['accuracy'])}, "
        f"95 % interval {_percent(low)} to {_percent(high)}."
    )
