"""Every setting of a TrainingConfig, read off its own schema: one source for the API, the form and the documentation.

`python -m core.config_fields` prints the table that `docs/training_config.md` holds (a test compares the two).
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.training_config import TrainingConfig

PHASE_PARTS = {"frozen": "FrozenPhase", "fine_tune": "FineTunePhase"}
_SCHEMA: dict[str, Any] = TrainingConfig.model_json_schema()


@dataclass(frozen=True)
class ConfigField:
    """One setting.

    Attributes:
        path: dotted, phases by their kind: `frozen.optimizer.name`.
        title: its name for people.
        help: one line.
        kind: boolean, integer, number, text, choice or list.
        choices: allowed texts of a choice.
        least, most: range of a number, or of each number of a list; None without one.
        open_least, open_most: True when that end is not itself allowed.
        nullable: True when it may be left empty.
        default: as in JSON.
    """

    path: str
    title: str
    help: str
    kind: str
    choices: Sequence[str] = ()
    least: float | None = None
    most: float | None = None
    open_least: bool = False
    open_most: bool = False
    nullable: bool = False
    default: Any = None

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        words = {"boolean": "true or false", "choice": ", ".join(self.choices), "list": "numbers", "text": "text"}
        found = words.get(self.kind, "")
        if self.least is not None and self.most is not None:
            low = f"more than {plain(self.least)}" if self.open_least else plain(self.least)
            high = f"less than {plain(self.most)}" if self.open_most else plain(self.most)
            found = f"{found} {low} to {high}".strip()
        return f"{found}, or null" if self.nullable else found


def plain(value: float) -> str:
    """A number without idle decimals."""
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def fields_of_run() -> list[ConfigField]:
    """Every setting but those of phases, in the order of the config."""
    return list(_leaves(_SCHEMA["properties"], ""))


def fields_of_phase(kind: str) -> list[ConfigField]:
    """Every setting of a phase of this kind."""
    return list(_leaves(_SCHEMA["$defs"][PHASE_PARTS[kind]]["properties"], f"{kind}."))


def _leaves(properties: Mapping[str, Any], prefix: str) -> Iterator[ConfigField]:
    for name, given in properties.items():
        if name in {"phases", "kind"}:
            continue
        arms = [_resolved(arm) for arm in given.get("anyOf", [given])]
        nullable = any(arm.get("type") == "null" for arm in arms)
        first = arms[0]
        if "properties" in first:
            # a part that may be left out altogether (early_stopping): so may each of its fields
            for leaf in _leaves(first["properties"], f"{prefix}{name}."):
                yield _nullable(leaf) if nullable else leaf
        else:
            yield _leaf(f"{prefix}{name}", {**first, **given}, nullable)


def _resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return {**_SCHEMA["$defs"][reference.rsplit("/", 1)[1]], **schema} if reference else dict(schema)


def _nullable(leaf: ConfigField) -> ConfigField:
    return ConfigField(**{**vars(leaf), "nullable": True, "default": None})


def _leaf(path: str, schema: Mapping[str, Any], nullable: bool) -> ConfigField:
    kinds = {"boolean": "boolean", "integer": "integer", "number": "number", "array": "list"}
    range_of = schema.get("items") or next(iter(schema.get("prefixItems", [schema])))
    return ConfigField(
        path=path,
        title=str(schema["title"]).capitalize(),
        help=str(schema.get("description", "")),
        kind="choice" if "enum" in schema else kinds.get(schema.get("type", ""), "text"),
        choices=schema.get("enum", ()),
        least=range_of.get("minimum", range_of.get("exclusiveMinimum")),
        most=range_of.get("maximum", range_of.get("exclusiveMaximum")),
        open_least="exclusiveMinimum" in range_of,
        open_most="exclusiveMaximum" in range_of,
        nullable=nullable,
        default=schema.get("default"),
    )


def table(fields: Sequence[ConfigField]) -> str:
    """The fields as a Markdown table."""
    lines = ["| field | allowed | default | what it does |", "|---|---|---|---|"]
    lines += [f"| `{one.path}` | {one.allowed} | `{json.dumps(one.default)}` | {one.help} |" for one in fields]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The body of `docs/training_config.md`."""
    parts = [("Run", fields_of_run())]
    parts += [(f'Phase of kind "{kind}"', fields_of_phase(kind)) for kind in PHASE_PARTS]
    return "\n".join(f"## {title}\n\n{table(fields)}" for title, fields in parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
