"""What a list of runs may be sorted by: the scores with an index of their own first, then every score and every setting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from app.run_form import FormField, fields_by_name
from app.settings_differences import setting_label
from app.wording import PHASE_WORDS
from core.run_sorts import run_sorts

FIRST = (
    ("-created_at", "newest first"), ("created_at", "oldest first"), ("-test_accuracy", "best test first"),
    ("test_accuracy", "worst test first"), ("-test_macro_f1", "best macro F1 first"), ("test_loss", "lowest test loss first"),
    ("-validation_accuracy", "best validation first"), ("name", "by name"), ("-name", "by name, backwards"),
)  # fmt: skip
_SCORES = {
    "summary.test_weighted_f1": "F1 by pictures", "summary.test_ece": "calibration error", "summary.test_pictures": "test pictures",
    "summary.frozen_test_accuracy": "test of the frozen phase", "summary.fine_tune_test_accuracy": "test of the fine-tune phase",
    "summary.validation_loss": "validation loss", "summary.epochs": "epochs that ran",
}  # fmt: skip


@dataclass(frozen=True)
class OrderGroup:
    """Orders under one heading: (value of `?sort=`, words)."""

    title: str
    orders: Sequence[tuple[str, str]]


@cache
def more_orders() -> Sequence[OrderGroup]:
    """Everything else that the catalogue sorts by."""
    words = {name: order_words(name) for name in run_sorts()}
    scores = [name for name in words if name.startswith("summary.")]
    settings = [name for name in words if name.startswith("config.")]
    return [
        OrderGroup(title, list(_both(names, words))) for title, names in (("Scores", scores), ("Settings", settings))
    ]


def _both(names: Sequence[str], words: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name in names:
        yield f"-{name}", f"{words[name]}, falling"
        yield name, f"{words[name]}, rising"


def sorted_field(sort: str) -> FormField | None:
    """The field of the form that a list is sorted by; None: a score, or a setting that the form has no field for."""
    return fields_by_name().get(sort.removeprefix("-").removeprefix("config."))


@cache
def order_words(sort: str) -> str:
    """What a list is sorted by, for people: a score or a setting, with its phase before it; empty for what has a column."""
    name = sort.removeprefix("-")
    if not name.startswith("config."):
        return _SCORES.get(name, "")
    path = name.removeprefix("config.")
    labels = {name: field.label for name, field in fields_by_name().items()}
    phase = path.split(".", maxsplit=1)[0]
    return setting_label(path, phase if phase in PHASE_WORDS else "", labels)
