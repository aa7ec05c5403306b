"""What differs between the settings of runs, in the words of the form they were made with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.run_form import FormField, fields_by_name
from app.wording import NONE, PHASE_WORDS
from core.tables import Run

_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """One setting that is not the same in all runs; `kind` is the phase it belongs to, or empty."""

    name: str
    kind: str
    values: Sequence[str]


def differences(runs: Sequence[Run]) -> tuple[list[Difference], int]:
    """(settings that differ, number of settings that are the same). A phase that a run does not have is one line."""
    flat = [dict(_settings(run)) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    absent = {
        phase for phase in dict.fromkeys(map(_phase_of, names)) if phase and any(phase not in one for one in flat)
    }
    fields = fields_by_name()
    labels = {name: field.label for name, field in fields.items()}
    found, same = [], 0
    for name in names:
        phase = _phase_of(name)
        if (phase in absent) != (name == phase):
            continue  # a phase that all have is compared setting by setting, another one as a whole
        values = [one.get(name, _MISSING) for one in flat]
        if all(value == values[0] for value in values):
            same += 1
        else:
            field = fields.get(name.replace(phase, _kind(phase), 1))
            said = [setting_words(value, field) for value in values]
            found.append(Difference(setting_label(name, phase, labels), _kind(phase), said))
    return found, same


def _settings(run: Run) -> Iterator[tuple[str, Any]]:
    yield "dataset", run.dataset_title
    for name, value in run.config.items():
        if name != "phases":
            yield from _flat(name, value)
    seen: dict[str, int] = {}
    for phase in run.config["phases"]:
        kind = phase["kind"]
        seen[kind] = seen.get(kind, 0) + 1
        name = kind if seen[kind] == 1 else f"{kind} {seen[kind]}"
        yield name, f"{phase['epochs']} epochs"
        for key, value in phase.items():
            if key != "kind":
                yield from _flat(f"{name}.{key}", value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


def _phase_of(name: str) -> str:
    first = name.split(".", maxsplit=1)[0]
    return first if _kind(first) else ""


def _kind(phase: str) -> str:
    kind = phase.split(" ", maxsplit=1)[0]
    return kind if kind in {"frozen", "fine_tune"} else ""


def setting_label(name: str, phase: str, labels: Mapping[str, str]) -> str:
    """A setting's name for people: `name` is its dotted path, `phase` the part of it that names a phase, or empty."""
    if not phase:
        found = labels.get(name) or name.rpartition(".")[2].replace("_", " ")
        if name.endswith("_flip"):
            found = f"Mirror, {found}"
        return found[:1].upper() + found[1:]
    title = PHASE_WORDS[_kind(phase)] + (f" {phase.split(' ')[1]}" if " " in phase else "")
    if name == phase:
        return title
    rest = name.removeprefix(f"{phase}.")
    words = labels.get(f"{_kind(phase)}.{rest}") or rest.replace(".", " ").replace("_", " ")
    return f"{title}: {words[:1].lower()}{words[1:]}"


def setting_words(value: Any, field: FormField | None) -> str:
    """A setting's value for people, a choice in the words of its field in the form; None: it has no field there."""
    if value is _MISSING:
        return "none"
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value) or NONE
    return dict(field.options if field else ()).get(str(value), str(value))
