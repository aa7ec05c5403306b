"""The form of a new run: every field of TrainingConfig (`core.config_fields`), so that ranges and help stand in one place.

A preset is taken as it is. "Own settings" start from a base (a preset, or an earlier run) and the fields below change it. Form names are
dotted paths; a phase is named by its kind (`frozen.epochs`), because switching one off shifts the indices of the others. There is one
section for each kind: phases that are not one of each at most, frozen first, are kept as the base has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.backbones import BACKBONES, weights_cached
from core.config_fields import ConfigField, fields_of_phase, fields_of_run, plain
from core.errors import FieldProblem
from core.presets import PRESETS

OWN = "own"
BASE_PRESET = "standard"
PHASES = ("frozen", "fine_tune")
OWN_WEIGHTS = ("model_id", "weights_id")
_PAIRS = ("image_size", "augmentation.shift")  # one number stands for both


@dataclass(frozen=True)
class FormField:
    """One field.

    Attributes:
        name: name in the form: a dotted path, phases by their kind.
        label: what stands above it.
        kind: number, text, select or check.
        help: one line below it.
        least, most: range of a number as text, empty without one.
        options: (value, words) of a select.
        rare: True when it stands under "More".
    """

    name: str
    label: str
    kind: str
    help: str
    least: str = ""
    most: str = ""
    options: Sequence[tuple[str, str]] = ()
    rare: bool = False

    @property
    def id(self) -> str:
        """Its id in the page."""
        return "f-" + self.name.replace(".", "-")


@dataclass(frozen=True)
class Section:
    """A group of fields under one head; `kind` is frozen, fine_tune or empty."""

    id: str
    title: str
    kind: str
    fields: Sequence[FormField]


_WORDS = {
    "avg": "average",
    "max": "maximum",
    "none": "none",
    "imagenet": "ImageNet",
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "lbfgs": "L-BFGS",
    "inverse_time": "inverse time",
    "validation": "higher validation accuracy",
    "validation_loss": "lower validation loss",
    "last": "last",
    "relu": "ReLU",
    "gelu": "GELU",
    "selu": "SELU",
}
# better names than the config's own; what is missing here is called by its own name
_LABELS = {
    "weights": "Start from",
    "select": "Which phase becomes the model",
    "precision": "Arithmetic",
    "head.binary": "one sigmoid unit",
    "augmentation.horizontal_flip": "left and right",
    "augmentation.vertical_flip": "up and down",
    "augmentation.rotation_degrees": "Rotation, degrees",
    "augmentation.shear_degrees": "Shear, degrees",
    "augmentation.fill_mode": "Edges",
    "ema_decay": "Weight average",
    "keep": "Weights to keep",
    "optimizer.name": "Optimizer",
    "schedule.name": "Schedule",
    "schedule.warmup_epochs": "Warm-up epochs",
    "early_stopping.patience": "Patience",
    "unfreeze_from": "Thaw from",
}
# seldom touched: these stand under "More"
_RARE = frozenset(
    {
        *("cut_layer", "head.activation", "head.binary", "precision", "class_weights", "label_smoothing", "select"),
        *("augmentation.shear_degrees", "steps_per_epoch", "ema_decay", "keep", "optimizer.momentum"),
        *("optimizer.weight_decay", "schedule.decay_rate", "schedule.warmup_epochs"),
    }
)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters / 1e3:.0f} k"


def _backbone_options() -> list[tuple[str, str]]:
    found = []
    for one in BACKBONES.values():
        here = "" if weights_cached(one) or one.weights == ("none",) else ", weights to be downloaded"
        found.append((one.id, f"{one.title} ({_count(one.parameters)}{here})"))
    return found


def _field(one: ConfigField) -> FormField:
    kind, _, rest = one.path.partition(".")
    short = rest if kind in PHASES else one.path
    options = [(value, _WORDS.get(value, value)) for value in one.choices]
    if one.path == "backbone":
        options = _backbone_options()
    elif one.path == "weights":
        options = [("imagenet", "ImageNet"), ("none", "nothing (from scratch)")]
    kinds = {"boolean": "check", "integer": "number", "number": "number"}
    text = one.help.replace("null:", "empty:")
    if one.kind == "list":
        text += " Numbers with commas."
    return FormField(
        name=one.path,
        label=_LABELS.get(short, one.title),
        kind="select" if options else kinds.get(one.kind, "text"),
        help=text,
        least="" if one.least is None else plain(one.least),
        most="" if one.most is None else plain(one.most),
        options=options,
        rare=short in _RARE,
    )


def fields_by_name() -> dict[str, FormField]:
    """Every field of the panel."""
    return {field.name: field for section in sections() for field in section.fields}


def sections() -> tuple[Section, ...]:
    """Every section of the panel, in order: between them, every field of the config."""
    run = [_field(one) for one in fields_of_run()]
    augmentation = [one for one in run if one.name.startswith("augmentation.")]
    network = [one for one in run if one not in augmentation]
    phases = {kind: [_field(one) for one in fields_of_phase(kind)] for kind in PHASES}
    return (
        Section("network", "Network", "", network),
        Section("frozen", "Frozen phase", "frozen", phases["frozen"]),
        Section("fine_tune", "Fine-tune phase", "fine_tune", phases["fine_tune"]),
        Section("augmentation", "Augmentation", "", augmentation),
    )


def form_values(config: Mapping[str, Any]) -> dict[str, str]:
    """What the fields hold for a config: texts by form name. A checkbox is "on" or empty."""
    values = {f"{kind}.on": "" for kind in PHASES}
    phases: dict[str, Mapping[str, Any]] = {}
    for phase in config["phases"]:
        phases.setdefault(phase["kind"], phase)
        values[f"{phase['kind']}.on"] = "on"
    fallback = {phase["kind"]: phase for phase in PRESETS[BASE_PRESET].config.model_dump(mode="json")["phases"]}
    for section in sections():
        for field in section.fields:
            kind, _, rest = field.name.partition(".")
            inside = phases.get(kind, fallback[kind]) if kind in PHASES else None
            values[field.name] = _text(_get(config, field.name) if inside is None else _get(inside, rest))
    return values


def _get(data: Mapping[str, Any], path: str) -> Any:
    here: Any = data
    for part in path.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here


def _text(value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "on"
    if isinstance(value, Mapping):
        own = next((f"{kind}:{value[kind]}" for kind in OWN_WEIGHTS if kind in value), None)
        return own or f"{value.get('fraction', '')}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    # every digit, so that a number which nobody touches comes back as it was
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def phases_fit(config: Mapping[str, Any]) -> bool:
    """Whether the sections can hold these phases: at most one of each kind, in the form's order."""
    kinds = [phase["kind"] for phase in config["phases"]]
    return kinds == [kind for kind in PHASES if kind in kinds]


@dataclass(frozen=True)
class FormConfig:
    """The config that a form asks for, not yet checked.

    Attributes:
        kinds: what the names of each phase's fields begin with: its kind; its place where the form has no fields for it.
    """

    config: dict[str, Any]
    kinds: tuple[str, ...]


def read_form(base: Mapping[str, Any], form: Mapping[str, str]) -> FormConfig:
    """The config of "own settings": the fields over the base, whose phases are kept where they do not fit the form."""
    config = {key: value for key, value in base.items() if key != "phases"}
    standard = PRESETS[BASE_PRESET].config.model_dump(mode="json")["phases"]
    phases = {phase["kind"]: phase for phase in [*standard, *base["phases"]]}
    chosen = tuple(kind for kind in PHASES if form.get(f"{kind}.on"))
    for section in sections():
        for field in section.fields:
            kind, _, rest = field.name.partition(".")
            value = _value(field, form.get(field.name, "").strip())
            if kind in PHASES:
                phases[kind] = _set(phases[kind], rest, value)
            else:
                config = _set(config, field.name, value)
    if not phases_fit(base):
        config["phases"] = base["phases"]
        return FormConfig(config, tuple(f"phases.{index}" for index in range(len(base["phases"]))))
    config["phases"] = [_tidy(phases[kind]) for kind in chosen]
    return FormConfig(config, chosen)


def _tidy(phase: dict[str, Any]) -> dict[str, Any]:
    stopping = phase.get("early_stopping")
    return {**phase, "early_stopping": None} if stopping and stopping.get("patience") is None else phase


def _set(data: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    if not rest:
        return {**data, first: value}
    inner = data.get(first)
    return {**data, first: _set(inner if isinstance(inner, Mapping) else {}, rest, value)}


def _value(field: FormField, text: str) -> Any:
    if field.kind == "check":
        return bool(text)
    if field.name == "image_size":
        text = text.replace("\N{MULTIPLICATION SIGN}", ",").replace("x", ",")
    if field.name in _PAIRS:
        numbers = [_number(part.strip()) for part in text.split(",")]
        return numbers * 2 if len(numbers) == 1 else numbers
    if field.name == "head.hidden_units":
        return [_number(part.strip()) for part in text.split(",") if part.strip()]
    if field.name == "fine_tune.unfreeze_from":
        share = _number(text)
        return None if not text else {"fraction": share} if isinstance(share, int | float) else text
    if field.kind != "select":
        return None if not text else _number(text) if field.kind == "number" else text
    kind, colon, wanted = text.partition(":")
    return {kind: wanted} if colon and kind in OWN_WEIGHTS else text


def _number(text: str) -> Any:
    """A number where the text is one; else the text, so that the check of the config can name what it received."""
    for kind in (int, float):
        try:
            return kind(text.strip())
        except ValueError:
            continue
    return text


def problems_by_name(problems: Sequence[FieldProblem], kinds: Sequence[str]) -> dict[str, str]:
    """Sentences by form name; what belongs to no field of the form stands under the empty name."""
    names = [*fields_by_name(), "name", "repeats"]
    if not kinds:
        return {"": "Both phases are off. At least one must be on."}
    found: dict[str, str] = {}
    for problem in problems:
        path = problem.field.removeprefix("config.")
        if path == "phases" and len(problems) > 1:
            continue  # Pydantic counts the phases that are right; what is wrong with the others is said below
        if path.startswith("phases."):
            index, _, rest = path.removeprefix("phases.").partition(".")
            if index.isdigit() and int(index) < len(kinds):
                path = f"{kinds[int(index)]}.{rest}"
        name = next((one for one in names if path == one or path.startswith(one + ".")), "")
        found.setdefault(name, problem.message)
    return found
