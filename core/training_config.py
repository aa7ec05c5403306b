"""TrainingConfig: everything that decides how a run trains. Ranges and help live here, once, for the API, the forms, the docs.

Checked without TensorFlow: names of layers and sizes come from the catalogue (`core.backbones`).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from core.backbones import BACKBONES, Backbone, variables_of
from core.errors import ConfigInvalid, FieldProblem

LearningRate = Annotated[float, Field(ge=1e-7, le=10.0)]
Size = Annotated[int, Field(ge=16, le=1024)]
MOST_SEED = 2**31 - 1


class PhaseKind(StrEnum):
    """Whether the backbone learns."""

    FROZEN = "frozen"
    FINE_TUNE = "fine_tune"


class Part(BaseModel):
    """Base of every part: frozen, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Head(Part):
    """What is put on the backbone."""

    pooling: Literal["avg", "max", "flatten"] = Field("avg", description="How the feature map becomes one vector.")
    hidden_units: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (),
        max_length=4,
        description="Units of dense layers between pooling and the answer, at most four of them; none: the answer alone.",
    )
    activation: Literal["relu", "gelu", "tanh", "selu", "swish"] = Field(
        "relu", description="Activation of the hidden layers."
    )
    dropout: float = Field(
        0.2, ge=0.0, le=0.9, description="Share of features dropped while training (unused by lbfgs)."
    )
    binary: bool = Field(False, description="One sigmoid unit instead of two softmax units (two classes only).")


class Augmentation(Part):
    """Random changes of training pictures. Validation and test pictures are never augmented."""

    horizontal_flip: bool = Field(True, description="Mirror left and right.")
    vertical_flip: bool = Field(False, description="Mirror up and down.")
    rotation_degrees: float = Field(36.0, ge=0.0, le=180.0, description="Turn by up to this much either way.")
    shift: tuple[Annotated[float, Field(ge=0.0, le=0.9)], Annotated[float, Field(ge=0.0, le=0.9)]] = Field(
        (0.0, 0.0), description="Shift by up to this share of height and width."
    )
    shear_degrees: float = Field(0.0, ge=0.0, le=60.0, description="Shear by up to this much either way.")
    zoom: float = Field(0.0, ge=0.0, le=0.9, description="Scale by up to this share in or out.")
    brightness: float = Field(0.0, ge=0.0, le=1.0, description="Brighten or darken by up to this share.")
    contrast: float = Field(0.0, ge=0.0, le=1.0, description="Raise or lower contrast by up to this share.")
    fill_mode: Literal["reflect", "nearest", "constant", "wrap"] = Field(
        "reflect", description="What fills the corners that a turn or shift uncovers."
    )

    @property
    def changes_nothing(self) -> bool:
        """True when every random change is switched off."""
        neutral = Augmentation(horizontal_flip=False, rotation_degrees=0.0, fill_mode=self.fill_mode)
        return self == neutral


class Optimizer(Part):
    """What turns gradients into steps."""

    name: Literal["adam", "adamw", "sgd", "rmsprop", "lbfgs"] = Field(
        "adam",
        description="What turns gradients into steps; lbfgs: L2 logistic regression on cached features, linear head only.",
    )
    learning_rate: LearningRate = Field(0.001, description="Step size (unused by lbfgs).")
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="Momentum of sgd and rmsprop (unused by lbfgs).")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="Decoupled weight decay of adamw (unused by lbfgs).")


class Schedule(Part):
    """How the learning rate changes."""

    name: Literal["constant", "cosine", "inverse_time"] = Field(
        "constant", description="Shape of the learning rate (unused by lbfgs)."
    )
    decay_rate: float = Field(0.0, ge=0.0, le=10.0, description="Decay per step of inverse_time (unused by lbfgs).")
    warmup_epochs: float = Field(
        0.0, ge=0.0, le=50.0, description="Epochs over which the rate rises from zero (unused by lbfgs)."
    )


class EarlyStopping(Part):
    """Stop a phase when validation loss no longer falls."""

    patience: int = Field(
        5, ge=1, le=1000, description="Epochs without a better validation loss before it stops; null: never."
    )


def _kind_is_needed(schema: dict[str, Any]) -> None:
    """It has a default in Python only: what comes as JSON is told apart by it."""
    schema["required"] = ["kind"]
    del schema["properties"]["kind"]["default"]


class PhaseBase(Part):
    """What both kinds of phase have."""

    model_config = ConfigDict(json_schema_extra=_kind_is_needed)

    epochs: int = Field(20, ge=1, le=1000, description="Passes over the training pictures, at most.")
    steps_per_epoch: int | None = Field(
        None, ge=1, le=1_000_000, description="Steps per epoch; null: all pictures (unused by lbfgs)."
    )
    features: Literal["cached", "live"] = Field(
        "cached", description="cached: the frozen part runs once per picture and view. live: in the loop."
    )
    views: int = Field(1, ge=1, le=64, description="Augmented variants of each picture when cached; 1: the plain one.")
    ema_decay: float = Field(
        0.0, ge=0.0, lt=1.0, description="Moving average of the weights; 0: off (unused by lbfgs)."
    )
    keep: Literal["best", "last"] = Field("best", description="Weights of the best validation epoch, or of the last.")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    early_stopping: EarlyStopping | None = None

    @property
    def augments(self) -> bool:
        """True when this phase sees augmented pictures: live, or cached with more than the plain view."""
        return self.features == "live" or self.views > 1


class FrozenPhase(PhaseBase):
    """The backbone is not trained; the head is."""

    kind: Literal["frozen"] = "frozen"


class Fraction(Part):
    """The top share of the backbone's layers."""

    fraction: float = Field(gt=0.0, le=1.0, description="Share of the backbone's layers, from the top, that learn.")


class FineTunePhase(PhaseBase):
    """Some or all of the backbone is trained, at a low rate."""

    kind: Literal["fine_tune"] = "fine_tune"
    unfreeze_from: str | Fraction | None = Field(
        None, description="First layer that learns; a share such as 0.3 for the top; null: the whole backbone."
    )


Phase = Annotated[FrozenPhase | FineTunePhase, Field(discriminator="kind")]


class ModelWeights(Part):
    """Start from the backbone of one's own earlier model."""

    model_id: str


class UploadedWeights(Part):
    """Start from uploaded weights."""

    weights_id: str


class TrainingConfig(Part):
    """One run's settings; any of them may be left out. What they are for: docs/training_config.md."""

    backbone: str = Field("efficientnet_lite0", description="The pretrained network without its top.")
    weights: Literal["imagenet", "none"] | ModelWeights | UploadedWeights = Field(
        "imagenet", description="What the backbone starts from."
    )
    image_size: tuple[Size, Size] = Field((224, 224), description="Height and width in pixels that the network sees.")
    resize: Literal["crop", "pad", "squash"] = Field(
        "crop", description="How a picture becomes that size: aspect kept and cropped, padded, or squashed."
    )
    cut_layer: str | None = Field(None, description="Backbone layer whose output feeds the head; null: the last.")
    head: Head = Head()
    augmentation: Augmentation = Augmentation()
    batch_size: int = Field(32, ge=1, le=1024, description="Pictures per step (unused by lbfgs).")
    phases: tuple[Phase, ...] = Field(
        (FrozenPhase(),), min_length=1, max_length=8, description="Phases, in the order in which they run."
    )
    select: Literal["validation", "validation_loss", "last"] = Field(
        "validation",
        description=(
            "Which phase becomes the model. validation: the one of higher validation accuracy. validation_loss: of lower "
            "validation loss, which tells phases apart with fewer pictures. last: the last one."
        ),
    )
    class_weights: Literal["balanced", "none"] = Field(
        "balanced", description="balanced: rare classes weigh more, n / (classes * n_class)."
    )
    label_smoothing: float = Field(0.1, ge=0.0, le=0.5, description="Share of each label spread over all classes.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Seed of everything random in the run.")
    precision: Literal["auto", "float32", "mixed"] = Field(
        "auto",
        description=(
            "auto: the backbone computes in bfloat16 where this machine is quick in it. mixed: even where it is slow. "
            "float32: never. Both only where 16 training pictures get nearly the same features; features: live is "
            "always float32."
        ),
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = list(_phase_problems(self)) + list(_catalogue_problems(self))
        if problems:
            raise ConfigInvalid(problems[0].message, problems=tuple(problems))
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the canonical JSON form."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def epochs_total(self) -> int:
        """Epochs of all phases together, when nothing stops early."""
        return sum(phase.epochs for phase in self.phases)


def _phase_problems(config: TrainingConfig) -> list[FieldProblem]:
    found: list[FieldProblem] = []
    first = config.phases[0]
    if first.kind != "frozen" and config.weights != "none":
        found.append(
            FieldProblem(
                "phases.0.kind",
                "The first phase must be frozen when the backbone starts from trained weights: an untrained head would "
                'spoil them. Received: "fine_tune"; allowed: "frozen", or weights "none".',
                first.kind,
            )
        )
    for index, phase in enumerate(config.phases):
        where = f"phases.{index}"
        if phase.optimizer.name == "lbfgs":
            linear = not config.head.hidden_units and config.head.pooling != "flatten"
            if phase.kind != "frozen" or phase.features != "cached" or not linear or config.head.binary:
                found.append(
                    FieldProblem(
                        f"{where}.optimizer.name",
                        "lbfgs trains a linear softmax head on cached features of a frozen phase only. "
                        'Received: "lbfgs" elsewhere; allowed here: adam, adamw, sgd, rmsprop.',
                        "lbfgs",
                    )
                )
        if phase.features == "live" and phase.views != 1:
            found.append(
                FieldProblem(
                    f"{where}.views",
                    f"views counts cached variants; with live features every epoch is augmented anew. "
                    f"Received: {phase.views}; allowed: 1.",
                    phase.views,
                )
            )
    return found


def _catalogue_problems(config: TrainingConfig) -> list[FieldProblem]:
    backbone = BACKBONES.get(config.backbone)
    if backbone is None:
        allowed = ", ".join(sorted(BACKBONES))
        message = f'There is no backbone "{config.backbone}". Allowed: {allowed}.'
        return [FieldProblem("backbone", message, config.backbone)]
    found: list[FieldProblem] = []
    smallest = backbone.minimum_image_size
    if config.image_size[0] < smallest[0] or config.image_size[1] < smallest[1]:
        message = (
            f"{backbone.title} needs pictures of at least {smallest[0]} x {smallest[1]} pixels. "
            f"Received: {config.image_size[0]} x {config.image_size[1]}."
        )
        found.append(FieldProblem("image_size", message, list(config.image_size)))
    if config.cut_layer is not None and config.cut_layer not in backbone.cut_layers:
        message = f'{backbone.title} cannot be cut at "{config.cut_layer}". Allowed: {", ".join(backbone.cut_layers)}, or null.'
        found.append(FieldProblem("cut_layer", message, config.cut_layer))
    for index, phase in enumerate(config.phases):
        message = _thaw_problem(config, backbone, phase) if isinstance(phase, FineTunePhase) else ""
        if message:
            received = phase.model_dump(mode="json")["unfreeze_from"]
            found.append(FieldProblem(f"phases.{index}.unfreeze_from", message, received))
    return found


def _thaw_problem(config: TrainingConfig, backbone: Backbone, phase: FineTunePhase) -> str:
    """What is wrong with where a phase thaws; empty where something of the backbone learns."""
    wanted = phase.unfreeze_from
    if wanted is None:
        return ""
    if isinstance(wanted, str) and wanted not in backbone.layers:
        return (
            f'{backbone.title} has no layer "{wanted}". Allowed: null, {{"fraction": 0.3}}, or a '
            f"layer name such as {', '.join(backbone.cut_layers[-3:])} (GET /runs/{{id}}/layers lists them all)."
        )
    cut = config.cut_layer if config.cut_layer in backbone.cut_layers else None  # a wrong one is told by itself
    layers = _up_to_cut(backbone, cut)
    if isinstance(wanted, str) and wanted not in layers:
        return f'"{wanted}" lies above the cut layer "{layers[-1]}": nothing of the backbone would learn.'
    first = layers.index(str(first_trainable_layer(backbone.id, phase, cut)))
    plain = {one.layer for one in variables_of(backbone.id, "plain")}
    # on cached features BatchNorm is folded; one that is named stands for the layer that took it up
    cached = all(one.features == "cached" for one in config.phases)
    folded = {one.layer for one in variables_of(backbone.id, "folded")} if cached else set()
    if layers[first] in plain or not (folded or plain).isdisjoint(layers[first:]):
        return ""
    highest = max(index for index, name in enumerate(layers) if name in plain)
    share = math.ceil(1000 * (len(layers) - highest) / len(layers)) / 1000
    received = wanted if isinstance(wanted, str) else wanted.model_dump()
    return (
        f'From "{layers[first]}" on no layer has weights of its own: nothing of the backbone would learn. '
        f"Received: {json.dumps(received)}; allowed: null, a layer with weights such as "
        f'"{layers[highest]}", or a share such as {{"fraction": {share}}}.'
    )


def _up_to_cut(backbone: Backbone, cut_layer: str | None) -> tuple[str, ...]:
    return backbone.layers[: backbone.layers.index(cut_layer or backbone.default_cut_layer) + 1]


def first_trainable_layer(backbone_id: str, phase: FineTunePhase, cut_layer: str | None = None) -> str | None:
    """Name of the first backbone layer that learns in a fine-tune phase; None: the whole backbone.

    A fraction counts the layers of the catalogue up to the cut, rounded, at least one. The name is of the plain form.
    """
    if phase.unfreeze_from is None or isinstance(phase.unfreeze_from, str):
        return phase.unfreeze_from
    layers = _up_to_cut(BACKBONES[backbone_id], cut_layer)
    return layers[-max(1, round(phase.unfreeze_from.fraction * len(layers)))]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `changes` over `base`: objects are merged key by key, everything else (lists too) is replaced.

    `weights`, `unfreeze_from` and a phase list are values, not objects to merge into: they are replaced whole.
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and key not in {"weights", "unfreeze_from"}:
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def parse_config(data: Mapping[str, Any]) -> TrainingConfig:
    """Read a config from JSON data.

    Raises:
        ConfigInvalid: with one FieldProblem per wrong field.
    """
    try:
        return TrainingConfig.model_validate(data)
    except ValidationError as error:
        problems = field_problems(error)
        raise ConfigInvalid(problems[0].message, problems=problems) from error


# Pydantic names the arm of a union in an error's path; the person wrote no such level
_ARMS = {"str", "Fraction", "ModelWeights", "UploadedWeights", "frozen", "fine_tune"}
_UNIONS = {
    "weights": '"imagenet", "none", {"model_id": "..."} or {"weights_id": "..."}',
    "unfreeze_from": 'null, a layer name, or {"fraction": 0.3}',
}


def field_problems(error: ValidationError) -> tuple[FieldProblem, ...]:
    """Pydantic's errors as sentences, one per field, with what was received and what is allowed."""
    errors = error.errors()
    found: dict[str, FieldProblem] = {}
    for one in errors:
        inside = [
            other for other in errors if len(other["loc"]) > len(one["loc"]) and _within(other["loc"], one["loc"])
        ]
        if one["type"] == "too_short" and inside:
            continue  # a list is only "too short" because an item of it is wrong
        problem = _field_problem(one)
        found.setdefault(problem.field, problem)
    return tuple(found.values())


def _within(loc: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return loc[: len(outer)] == outer


def _field_problem(error: ErrorDetails) -> FieldProblem:
    parts = [str(part) for part in error["loc"] if part not in _ARMS and "[" not in str(part)]
    for index, part in enumerate(parts):
        if part in _UNIONS:
            path = ".".join(parts[: index + 1])
            received = error["input"]
            return FieldProblem(
                path, f"{path}: allowed are {_UNIONS[part]}. Received: {_shown(received)}.", _short(received)
            )
    path = ".".join(parts)
    if error["type"] == "extra_forbidden":
        return FieldProblem(path, f'There is no field "{path}".', _short(error["input"]))
    if error["type"] == "missing":
        return FieldProblem(path, f'"{path}" is missing.', None)
    return FieldProblem(path, f"{path}: {error['msg']}. Received: {_shown(error['input'])}.", _short(error["input"]))


def _shown(value: object) -> str:
    return json.dumps(_short(value), default=str)


def _short(value: object) -> object:
    text = json.dumps(value, default=str)
    return value if len(text) <= 200 else text[:200] + "..."
