"""`thaw datasets`, `thaw runs`, `thaw models`: lists for people and scripts."""

from collections.abc import Callable, Mapping
from typing import Any

from cli.remote import Remote
from cli.screen import Screen
from cli.training import test_score

Cell = Callable[[Mapping[str, Any]], str]


def _pictures(dataset: Mapping[str, Any]) -> str:
    version = dataset["latest_version"]
    return "" if version is None else f"{version['image_count']:,}"


def _classes(dataset: Mapping[str, Any]) -> str:
    version = dataset["latest_version"]
    return "" if version is None else str(len(version["classes"]))


def _state(run: Mapping[str, Any]) -> str:
    progress = run["progress"]
    if run["status"] == "running" and progress["epoch"]:
        return f"running {progress['epoch']}/{progress['epochs_total']}"
    return str(run["status"])


def _accuracy(model: Mapping[str, Any]) -> str:
    return "" if model["test_accuracy"] is None else f"{model['test_accuracy']:.1%}"


def _ready(model: Mapping[str, Any]) -> str:
    return ", ".join(one["format"] for one in model["formats"] if one["status"] == "ready")


def _day(row: Mapping[str, Any]) -> str:
    return str(row["created_at"])[:16].replace("T", " ")


COLUMNS: dict[str, dict[str, Cell]] = {
    "datasets": {
        "id": lambda one: str(one["id"]),
        "name": lambda one: str(one["name"]),
        "pictures": _pictures,
        "classes": _classes,
        "made (UTC)": _day,
    },
    "runs": {
        "id": lambda one: str(one["id"]),
        "name": lambda one: str(one["name"]),
        "dataset": lambda one: str(one["dataset_title"]),
        "status": _state,
        "result": test_score,
        "made (UTC)": _day,
    },
    "models": {
        "id": lambda one: str(one["id"]),
        "name": lambda one: str(one["name"]),
        "dataset": lambda one: str(one["dataset_title"]),
        "test accuracy": _accuracy,
        "files": _ready,
        "made (UTC)": _day,
    },
}


def show_list(remote: Remote, screen: Screen, kind: str, *, most: int, search: str, **query: Any) -> None:
    """Show the newest datasets, runs or models."""
    rows = list(remote.items(f"/{kind}", most, search=search or None, **query))
    screen.table(rows, {title: [cell(one) for one in rows] for title, cell in COLUMNS[kind].items()})
