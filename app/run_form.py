"""The form of a new run: fields read off the schema of TrainingConfig, so that ranges and help stand in one place.

A preset is taken as it is. "Own settings" start from a base (a preset, or an earlier run) and the fields below change it. Form names are
dotted paths; a phase is named by its kind (`frozen.epochs`), because switching one off shifts the indices of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.backbones import BACKBONES, weights_cached
from core.errors import FieldProblem
from core.presets import PRESETS
from core.training_config import TrainingConfig

OWN = "own"
BASE_PRESET = "standard"
PHASES = ("frozen", "fine_tune")


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
    """

    name: str
    label: str
    kind: str
    help: str
    least: str = ""
    most: str = ""
    options: Sequence[tuple[str, str]] = ()

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


_SCHEMA: dict[str, Any] = TrainingConfig.model_json_schema()
_PARTS = {"frozen": "FrozenPhase", "fine_tune": "FineTunePhase"}
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
    "validation": "better phase on validation",
    "last": "last",
}


def _resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(schema)
    while "$ref" in found:
        target = _SCHEMA["$defs"][found["$ref"].rsplit("/", 1)[1]]
        found = {**target, **{key: value for key, value in found.items() if key != "$ref"}}
    return found


def _schema_of(path: str) -> dict[str, Any]:
    parts = path.split(".")
    here = _SCHEMA["$defs"][_PARTS[parts.pop(0)]] if parts[0] in _PARTS else _SCHEMA
    for part in parts:
        here = _resolved(here["properties"][part])
        arms = [_resolved(arm) for arm in here.get("anyOf", []) if arm.get("type") != "null"]
        if arms and "properties" not in here:
            here = {**arms[0], **{key: value for key, value in here.items() if key != "anyOf"}}
    return here


def _field(
    path: str, label: str, *, options: Sequence[tuple[str, str]] = (), kind: str = "", text: str = ""
) -> FormField:
    schema = _schema_of(path)
    choices = options or [(value, _WORDS.get(value, value)) for value in schema.get("enum", [])]
    kinds = {"boolean": "check", "integer": "number", "number": "number"}
    found = kind or ("select" if choices else kinds.get(schema.get("type", ""), "text"))
    least = _plain(schema.get("minimum", schema.get("exclusiveMinimum", "")))
    most = _plain(schema.get("maximum", schema.get("exclusiveMaximum", "")))
    return FormField(path, label, found, text or schema.get("description", ""), least, most, choices)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    return str(value)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters / 1e3:.0f} k"


def _backbone_options() -> list[tuple[str, str]]:
    found = []
    for one in BACKBONES.values():
        here = "" if weights_cached(one) or one.weights == ("none",) else ", weights to be downloaded"
        found.append((one.id, f"{one.title} ({_count(one.parameters)}{here})"))
    return found


def sections() -> list[Section]:
    """Every section of the panel, in order."""
    weights = [("imagenet", "ImageNet"), ("none", "nothing (from scratch)")]
    network = [
        _field("backbone", "Backbone", options=_backbone_options()),
        _field("weights", "Start from", options=weights),
        _field("image_size", "Image size", kind="text", text="Height and width the network sees, 16 to 1024 pixels."),
        _field("resize", "Resize"),
        _field("head.pooling", "Pooling"),
        _field(
            "head.hidden_units", "Hidden units", kind="text", text="Whole numbers with commas, at most four; or empty."
        ),
        _field("head.dropout", "Dropout"),
        _field("batch_size", "Batch size"),
        _field("seed", "Seed"),
        _field("label_smoothing", "Label smoothing"),
        _field("class_weights", "Class weights"),
        _field("select", "Which phase becomes the model"),
    ]
    augmentation = [
        _field("augmentation.horizontal_flip", "left and right"),
        _field("augmentation.vertical_flip", "up and down"),
        _field("augmentation.rotation_degrees", "Rotation, degrees"),
        _field("augmentation.zoom", "Zoom"),
        _field("augmentation.brightness", "Brightness"),
        _field("augmentation.contrast", "Contrast"),
        _field("augmentation.fill_mode", "Edges"),
    ]
    return [
        Section("network", "Network", "", network),
        Section("frozen", "Frozen phase", "frozen", _phase_fields("frozen")),
        Section("fine_tune", "Fine-tune phase", "fine_tune", _phase_fields("fine_tune")),
        Section("augmentation", "Augmentation", "", augmentation),
    ]


def _phase_fields(kind: str) -> list[FormField]:
    fields = [
        _field(f"{kind}.epochs", "Epochs"),
        _field(f"{kind}.optimizer.learning_rate", "Learning rate"),
        _field(f"{kind}.optimizer.name", "Optimizer", text="What turns gradients into steps."),
        _field(f"{kind}.features", "Features"),
        _field(f"{kind}.views", "Views"),
        _field(f"{kind}.schedule.name", "Schedule"),
        _field(
            f"{kind}.early_stopping.patience", "Patience", text="Epochs without gain before it stops; empty: never."
        ),
    ]
    if kind == "fine_tune":
        layer = "First layer that learns, a share such as 0.3 for the top, or empty for the whole backbone."
        fields.insert(2, _field(f"{kind}.unfreeze_from", "Thaw from", kind="text", text=layer))
    return fields


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
        return f"{value.get('fraction', '')}"
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class FormConfig:
    """The config that a form asks for, not yet checked, and the kinds of its phases in order."""

    config: dict[str, Any]
    kinds: tuple[str, ...]


def read_form(base: Mapping[str, Any], form: Mapping[str, str]) -> FormConfig:
    """The config of "own settings": the fields over the base."""
    config = {key: value for key, value in base.items() if key != "phases"}
    standard = PRESETS[BASE_PRESET].config.model_dump(mode="json")["phases"]
    phases = {phase["kind"]: phase for phase in [*standard, *reversed(base["phases"])]}
    chosen = tuple(kind for kind in PHASES if form.get(f"{kind}.on"))
    for section in sections():
        for field in section.fields:
            kind, _, rest = field.name.partition(".")
            value = _value(field, form.get(field.name, "").strip())
            if kind in PHASES:
                phases[kind] = _set(phases[kind], rest, value)
            else:
                config = _set(config, field.name, value)
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
        numbers = [_number(part) for part in text.replace("\N{MULTIPLICATION SIGN}", ",").replace("x", ",").split(",")]
        return numbers * 2 if len(numbers) == 1 else numbers
    if field.name == "head.hidden_units":
        return [_number(part.strip()) for part in text.split(",") if part.strip()]
    if field.name == "fine_tune.unfreeze_from":
        share = _number(text)
        return None if not text else {"fraction": share} if isinstance(share, int | float) else text
    if field.kind == "number":
        return None if not text else _number(text)
    return text


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
    names = [field.name for section in sections() for field in section.fields] + ["name", "repeats"]
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
