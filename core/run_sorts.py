"""Sorting runs by any setting or score: expressions over the JSON columns, typed by the schema of the settings."""

from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, case

from core.config_fields import PHASE_PARTS, ConfigField, fields_of_phase, fields_of_run
from core.tables import Run

SCORES = (
    "test_weighted_f1", "test_ece", "test_pictures", "frozen_test_accuracy", "fine_tune_test_accuracy", "validation_loss", "epochs",
)  # fmt: skip
_MOST_PHASES = 4  # a setting of a phase is looked for in so many of a run's phases


@cache
def run_sorts() -> dict[str, tuple[ColumnElement[Any], type]]:
    """Name -> (expression, type of its values).

    Names are like `config.head.dropout`, `config.frozen.epochs` (of the first such phase), `summary.epochs`.
    """
    found: dict[str, tuple[ColumnElement[Any], type]] = {
        f"summary.{name}": (Run.summary[name].as_float(), float) for name in SCORES
    }
    for field in fields_of_run():
        found[f"config.{field.path}"] = _typed(Run.config, tuple(field.path.split(".")), field)
    for kind in PHASE_PARTS:
        for field in fields_of_phase(kind):
            path = tuple(field.path.split(".")[1:])
            places = range(_MOST_PHASES)
            branches = [_typed(Run.config, ("phases", place, *path), field) for place in places]
            kinds = [_at(Run.config, ("phases", place, "kind")).as_string() == kind for place in places]
            expression = case(*zip(kinds, (branch[0] for branch in branches), strict=True))
            found[f"config.{field.path}"] = (expression, branches[0][1])
    return found


def _typed(column: Any, path: tuple[str | int, ...], field: ConfigField) -> tuple[ColumnElement[Any], type]:
    here = _at(column, path)
    match field.kind:
        case "integer" | "number":
            return here.as_float(), float
        case "list":  # by its first number
            return here[0].as_float(), float
        case "boolean":
            return here.as_boolean(), bool
        case _:
            return here.as_string(), str


def _at(column: Any, path: tuple[str | int, ...]) -> Any:
    """Step by step: a path in one piece reaches PostgreSQL as text, and its operator takes an array of them only."""
    for one in path:
        column = column[one]
    return column
