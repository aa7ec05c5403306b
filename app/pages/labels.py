"""What people write on their runs, models and datasets: name, notes, tags, by one form that all three pages have."""

from dataclasses import dataclass

from core.datasets import checked_name, checked_tags
from core.errors import FieldProblem, InputInvalid
from core.tables import Dataset, Run, TrainedModel

MOST_NOTES = 20_000


@dataclass(frozen=True)
class Labels:
    """What the form holds, and where it goes."""

    action: str
    name: str
    notes: str
    tags: list[str]
    listed: str


def labels_of(row: Run | TrainedModel | Dataset) -> Labels:
    """What is written on it now; `listed` is the address of its list."""
    listed = {Run: "/runs", TrainedModel: "/models", Dataset: "/datasets"}[type(row)]
    notes = row.description if isinstance(row, Dataset) else row.notes
    return Labels(f"{listed}/{row.id}/labels", row.name, notes, row.tags, listed)


def write_labels(row: Run | TrainedModel | Dataset, form: dict[str, str]) -> None:
    """Take over the fields of the form that were sent.

    Raises:
        InputInvalid: a name, notes or tags that cannot be kept.
    """
    if "name" in form:
        row.name = checked_name(form["name"])
    if "tags" in form:
        row.tags = checked_tags(form["tags"].split(","))
    if "notes" not in form:
        return
    notes = form["notes"].replace("\r\n", "\n").strip()
    if len(notes) > MOST_NOTES or "\0" in notes:
        message = f"Notes have at most {MOST_NOTES:,} characters. Received: {len(notes):,}."
        raise InputInvalid(message, problems=(FieldProblem("notes", message, len(notes)),))
    if isinstance(row, Dataset):
        row.description = notes
    else:
        row.notes = notes
