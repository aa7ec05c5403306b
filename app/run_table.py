"""Runs as a table for spreadsheets: one line a run, with its scores and the settings people compare by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from app.presenting import csv_lines
from core.catalog import Wish, list_runs
from core.paging import MOST
from core.tables import Run

COLUMNS = (
    "id", "name", "status", "dataset", "preset", "backbone", "seed", "chosen_phase", "test_accuracy", "test_accuracy_low",
    "test_accuracy_high", "frozen_test_accuracy", "test_macro_f1", "test_loss", "validation_accuracy", "epochs", "created_at",
    "started_at", "finished_at", "seconds", "tags", "notes", "test_fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class Which:
    """Which runs of a person."""

    dataset_id: str | None = None
    status: str | None = None
    group_id: str | None = None


def runs_csv(session: Session, owner_id: str, wish: Wish, which: Which) -> str:
    """Every run that the filters let through, in the order asked for, whatever the page; RFC 4180."""
    return "".join(csv_lines(COLUMNS, map(_line, _all(session, owner_id, wish, which))))


def _all(session: Session, owner_id: str, wish: Wish, which: Which) -> Iterator[Run]:
    wish = replace(wish, limit=MOST, cursor=None)
    while True:
        page = list_runs(session, owner_id, wish, **vars(which))
        yield from page.items
        if page.next_cursor is None:
            return
        wish = replace(wish, cursor=page.next_cursor)


def _line(run: Run) -> Sequence[object]:
    low, high = run.summary.get("test_accuracy_interval") or (None, None)
    took = (run.finished_at - run.started_at).total_seconds() if run.started_at and run.finished_at else None
    return (
        run.id, run.name, run.status.value, run.dataset_title, run.preset, run.config["backbone"], run.config["seed"],
        run.summary.get("chosen_phase"), run.test_accuracy, low, high, run.summary.get("frozen_test_accuracy"), run.test_macro_f1,
        run.test_loss, run.validation_accuracy, run.summary.get("epochs"), run.created_at, run.started_at, run.finished_at, took,
        " ".join(run.tags), run.notes, run.test_fingerprint,
    )  # fmt: skip
