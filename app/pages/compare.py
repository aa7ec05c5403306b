"""Runs side by side: what differs, their curves, what the same test pictures say, and the pictures they disagree on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.dependencies import Person, ReadSession
from app.pages.cards import RunRow, run_rows
from app.pages.metrics import EpochRow, epoch_rows
from app.settings_differences import Difference, differences
from app.templating import View, render
from app.wording import p_value, scale_from
from core.catalog import images_by_id, model_of_run, run_document, run_metrics
from core.comparison import Disagreement, Paired, comparable, only_right, paired
from core.datasets import find_version
from core.errors import FieldProblem, InputInvalid
from core.runs import find_run
from core.tables import Run, VersionImage

router = APIRouter(prefix="/runs", include_in_schema=False)
LETTERS = "ABC"
PICTURES = 8


@dataclass(frozen=True)
class Column:
    """One of the runs. `against`: how its model does against that of the first run; None where that cannot be said."""

    letter: str
    row: RunRow
    epochs: Sequence[EpochRow]
    thaw: int | None
    against: Paired | None

    @property
    def kept(self) -> str:
        """Which of its phases became the model."""
        words = {"frozen": "the frozen phase became the model", "fine_tune": "the fine-tuned one became the model"}
        return words.get(str(self.row.run.summary.get("chosen_phase")), self.row.words.lower())


@dataclass(frozen=True)
class Shown:
    """A picture that one has right, with what the other took it for; `place` is None once its dataset is deleted."""

    place: VersionImage | None
    true_name: str
    wrong_name: str


@dataclass(frozen=True)
class Side:
    """Pictures that only this one of a pair has right."""

    letter: str
    total: int
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class CompareView(View):
    """Two or three runs."""

    template = "runs/compare.html"
    nav = "runs"
    columns: Sequence[Column]
    same_test: bool
    test_count: int
    sentence: str
    scale: float
    differences: Sequence[Difference]
    same: int
    pairs: Sequence[tuple[str, str]]
    pair: str
    sides: Sequence[Side]
    query: str


@router.get("/compare")
def show(
    request: Request,
    session: ReadSession,
    person: Person,
    id: Annotated[list[str] | None, Query()] = None,  # noqa: A002 - the contract's name
    pair: str = "",
) -> Response:
    """Two or three runs side by side."""
    ids = list(dict.fromkeys(id or []))
    if not 2 <= len(ids) <= len(LETTERS):
        message = f"Choose two or three runs to compare. Received: {len(ids)}."
        raise InputInvalid(message, problems=(FieldProblem("id", message, len(ids)),))
    runs = [find_run(session, person.id, one) for one in ids]
    return render(request, compare_view(session, runs, pair))


def compare_view(session: Session, runs: Sequence[Run], pair: str) -> CompareView:
    """Read what the page shows; `pair` is two letters, e.g. "AC"."""
    columns = [
        _column(session, LETTERS[place], row, paired(session, runs[0], row.run) if place else None)
        for place, row in enumerate(run_rows(session, runs))
    ]
    pairs = ["".join(one) for one in combinations([column.letter for column in columns], 2)]
    chosen = pair if pair in pairs else pairs[0]
    differing, same = differences(runs)
    return CompareView(
        columns=columns,
        same_test=comparable(runs),
        test_count=max((one.against.count for one in columns if one.against), default=0),
        sentence=sentence_of(columns, same_test=comparable(runs)),
        scale=scale_from(one.row.score.interval for one in columns if one.row.score),
        differences=differing,
        same=same,
        pairs=[(one, f"{one[0]} and {one[1]}") for one in pairs],
        pair=chosen,
        sides=_sides(session, runs, chosen),
        query=urlencode([("id", run.id) for run in runs]),
    )


def _column(session: Session, letter: str, row: RunRow, against: Paired | None) -> Column:
    epochs = epoch_rows(run_metrics(session, row.run.id))
    # the last epoch before the first one that is fine-tuned
    first = next((place for place, one in enumerate(epochs) if one.phase == "fine_tune"), 0)
    return Column(letter, row, epochs, epochs[first - 1].epoch if first else None, against)


def sentence_of(columns: Sequence[Column], *, same_test: bool) -> str:
    """What may be said about the order of the runs: nothing on different test pictures, and a tie is called one."""
    if not same_test:
        return "Not ranked: these runs were scored on different test pictures, so their scores do not compare."
    first, said = columns[0], []
    for one in columns[1:]:
        if one.against is None:
            said.append(f"{one.letter} cannot be compared with {first.letter}: one of them has no answers on the test.")
        elif one.against.verdict == "tie":
            said.append(f"{first.letter} and {one.letter} are a tie: {_difference(one.against)}.")
        else:
            where = "is ahead of" if one.against.verdict == "ahead" else "is behind"
            said.append(f"{one.letter} {where} {first.letter} ({p_value(one.against.p_value)}).")
    return " ".join(said)


def _difference(found: Paired) -> str:
    if found.gained == found.lost:
        return "neither has more pictures right" if found.gained else "both have the same pictures right"
    points = abs(found.gained - found.lost) / found.count * 100
    return f"the difference of {points:.1f} points is within chance ({p_value(found.p_value)})"


def _sides(session: Session, runs: Sequence[Run], pair: str) -> list[Side]:
    one, two = (runs[LETTERS.index(letter)] for letter in pair)
    found = paired(session, one, two)
    if found is None:
        return []
    names = _class_names(session, one)
    return [
        Side(pair[0], found.lost, _shown(session, one, only_right(session, one, two, PICTURES), names)),
        Side(pair[1], found.gained, _shown(session, two, only_right(session, two, one, PICTURES), names)),
    ]


def _shown(session: Session, run: Run, found: Sequence[Disagreement], names: Sequence[str]) -> list[Shown]:
    places = images_by_id(session, run.dataset_version_id, [one.image_id for one in found])
    return [Shown(places.get(one.image_id), names[one.true_label], names[one.wrong_label]) for one in found]


def _class_names(session: Session, run: Run) -> list[str]:
    """Class names in the order of the labels; also after the dataset was deleted."""
    if run.dataset_version_id:
        return find_version(session, run.owner_id, run.dataset_version_id).class_names
    model = model_of_run(session, run.id)
    if model is not None:
        return model.class_names
    phases = (run_document(session, run.id, "evaluation") or {}).get("phases", {})
    return next((one["confusion_matrix"]["class_names"] for one in phases.values()), [])
