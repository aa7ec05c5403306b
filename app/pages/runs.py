"""Runs: the list, one run while it learns and after it ended, and what a person may do with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.dependencies import Person, ReadSession, TheHouse, WriteSession
from app.pages.cards import RunRow, Score, backbone_title, run_rows, score_of
from app.pages.forms import Fields, see_other
from app.pages.judged import Judged, JudgeWish, judge
from app.pages.labels import Labels, labels_of, write_labels
from app.pages.metrics import EpochRow, epoch_rows, newest_epoch
from app.pages.network import PhaseLayers, layer_summary
from app.pages.paging import Place
from app.pages.progress import Step, epochs_by_phase, status_words, steps
from app.pages.run_order import FIRST, OrderGroup, more_orders, order_words, sorted_field
from app.settings_differences import setting_words
from app.templating import View, render
from app.wording import scale_from
from core.catalog import (
    Wish,
    list_datasets,
    list_runs,
    log_lines,
    model_of_run,
    run_document,
    run_metrics,
    runs_ahead,
    sorted_values,
)
from core.errors import NotFound
from core.models import exports_of
from core.repeats import Group, find_group
from core.reproduction import Reproduction, reproduction
from core.runs import bring_back_run, cancel_run, find_run, looks, put_away_run, retry_run
from core.tables import Dataset, Export, LogLine, Run, RunStatus, TrainedModel
from core.training_config import parse_config

router = APIRouter(prefix="/runs", include_in_schema=False)
PAGE = 25


@dataclass(frozen=True)
class Filters:
    """Which runs are shown, and in what order."""

    status: str = ""
    dataset_id: str = ""
    group_id: str = ""
    search: str = ""
    sort: str = "-created_at"
    cursor: str = ""
    back: str = ""

    def address(self, **changes: str | None) -> str:
        """The list with some of this changed; empty values are left out."""
        query = {key: value for key, value in {**asdict(self), **changes}.items() if value}
        return f"/runs?{urlencode(query)}"


@dataclass(frozen=True)
class Cell:
    """Which phase is shown, which cell of the matrix is chosen, which page of the mistakes."""

    phase: str = ""
    true: int | None = None
    said: int | None = None
    cursor: str = ""
    classes: str = ""
    curve: str = ""


@dataclass(frozen=True)
class ListView(View):
    """The runs of a person."""

    template = "runs/list.html"
    nav = "runs"
    rows: Sequence[RunRow]
    scale: float
    first_orders: Sequence[tuple[str, str]]
    more_orders: Sequence[OrderGroup]
    sorted_by: str
    values: Mapping[str, str]
    datasets: Sequence[Dataset]
    statuses: Sequence[RunStatus]
    filters: Filters
    next_address: str | None
    previous_address: str | None
    deleted_id: str
    repeats: Group | None


@dataclass(frozen=True)
class RunView(View):
    """One run, whatever its status."""

    template = "runs/detail.html"
    nav = "runs"
    run: Run
    labels: Labels
    badge: str
    words: str
    backbone: str
    steps: Sequence[Step]
    ahead: int
    epochs: Sequence[EpochRow]
    log: Sequence[LogLine]
    layers: Sequence[PhaseLayers]
    score: Score | None
    judged: Judged | None
    model: TrainedModel | None
    exports: dict[str, Export]
    ended: bool
    reproduction: Reproduction | None


@dataclass(frozen=True)
class ProgressView(View):
    """The status line of a run, which its page asks for when an event says that it changed."""

    template = "runs/_progress.html"
    run: Run
    badge: str
    words: str
    steps: Sequence[Step]
    ahead: int
    epochs: Sequence[EpochRow]


@dataclass(frozen=True)
class DeleteView(View):
    """What deleting a run takes away, before it happens."""

    template = "runs/delete.html"
    nav = "runs"
    run: Run


def _repeats(session: Session, owner_id: str, group_id: str) -> Group | None:
    try:
        return find_group(session, owner_id, group_id) if group_id else None
    except NotFound:  # the list says that no run is like this
        return None


@router.get("")
def show_list(
    request: Request, session: ReadSession, person: Person, filters: Annotated[Filters, Depends()], deleted: str = ""
) -> Response:
    """The list of runs."""
    wish = Wish(limit=PAGE, cursor=filters.cursor or None, sort=filters.sort, search=filters.search)
    page = list_runs(
        session,
        person.id,
        wish,
        dataset_id=filters.dataset_id or None,
        status=filters.status or None,
        group_id=filters.group_id or None,
    )
    rows = run_rows(session, page.items)
    found = sorted_values(session, [run.id for run in page.items], filters.sort)
    view = ListView(
        rows=rows,
        scale=scale_from(row.score.interval for row in rows if row.score),
        first_orders=FIRST,
        more_orders=more_orders(),
        sorted_by=order_words(filters.sort),
        values={run_id: setting_words(value, sorted_field(filters.sort)) for run_id, value in found.items()},
        datasets=list_datasets(session, person.id, Wish(limit=100, sort="name")).items,
        statuses=list(RunStatus),
        filters=filters,
        **Place(filters.cursor, filters.back).addresses(page.next_cursor, filters.address),
        deleted_id=deleted,
        repeats=_repeats(session, person.id, filters.group_id),
    )
    return render(request, view)


@router.get("/{run_id}")
def show(
    request: Request, session: ReadSession, person: Person, run_id: str, cell: Annotated[Cell, Depends()]
) -> Response:
    """One run."""
    run = find_run(session, person.id, run_id)
    return render(
        request,
        run_view(session, run, JudgeWish(cell.phase, cell.true, cell.said, cell.cursor, cell.classes, cell.curve)),
    )


def run_view(session: Session, run: Run, wish: JudgeWish) -> RunView:
    """Read what the page of a run shows."""
    badge, words = status_words(run)
    metrics = epoch_rows(run_metrics(session, run.id))
    evaluation: Any = run_document(session, run.id, "evaluation")
    judged = None
    if run.status == RunStatus.SUCCEEDED and evaluation:
        judged = judge(session, run, evaluation, looks(session, [run])[run.id], wish)
    model = model_of_run(session, run.id)
    return RunView(
        run=run,
        labels=labels_of(run),
        badge=badge,
        words=words,
        backbone=backbone_title(run.config["backbone"]),
        steps=steps(run, epochs_by_phase(session, [run.id])[run.id]),
        ahead=runs_ahead(session, run) if run.status == RunStatus.QUEUED else 0,
        epochs=metrics,
        log=log_lines(session, run.id, limit=500),
        layers=layer_summary(run_document(session, run.id, "layers")),
        score=score_of(run.summary, looks(session, [run])[run.id]),
        judged=judged,
        model=model,
        exports=exports_of(session, model.id) if model else {},
        ended=run.status not in {RunStatus.QUEUED, RunStatus.RUNNING},
        reproduction=reproduction(session, run),
    )


@router.get("/{run_id}/progress")
def show_progress(request: Request, session: ReadSession, person: Person, run_id: str) -> Response:
    """The status line alone."""
    run = find_run(session, person.id, run_id)
    badge, words = status_words(run)
    view = ProgressView(
        run=run,
        badge=badge,
        words=words,
        steps=steps(run, epochs_by_phase(session, [run.id])[run.id]),
        ahead=runs_ahead(session, run) if run.status == RunStatus.QUEUED else 0,
        epochs=newest_epoch(session, run.id),
    )
    return render(request, view)


@router.post("/{run_id}/cancel")
def cancel(session: WriteSession, person: Person, run_id: str) -> Response:
    """Ask for cancelling."""
    run = find_run(session, person.id, run_id)
    cancel_run(session, run)
    return see_other(f"/runs/{run.id}")


@router.post("/{run_id}/retry")
def retry(session: WriteSession, person: Person, house: TheHouse, run_id: str) -> Response:
    """The same again as a new run."""
    run = find_run(session, person.id, run_id)
    again = retry_run(session, house.queue, run, parse_config(run.config))
    return see_other(f"/runs/{again.id}")


@router.post("/{run_id}/labels")
def change_labels(session: WriteSession, person: Person, run_id: str, form: Fields) -> Response:
    """Change name, notes, tags."""
    run = find_run(session, person.id, run_id)
    write_labels(run, form)
    return see_other(f"/runs/{run.id}")


@router.get("/{run_id}/delete")
def ask_delete(request: Request, session: ReadSession, person: Person, run_id: str) -> Response:
    """What would go, before it goes."""
    return render(request, DeleteView(find_run(session, person.id, run_id)))


@router.post("/{run_id}/delete")
def delete(session: WriteSession, person: Person, run_id: str) -> Response:
    """Put a run away; for a day it can be brought back."""
    run = find_run(session, person.id, run_id)
    put_away_run(session, run)
    return see_other(f"/runs?deleted={run.id}")


@router.post("/{run_id}/restore")
def restore(session: WriteSession, person: Person, run_id: str) -> Response:
    """Undo the deletion."""
    return see_other(f"/runs/{bring_back_run(session, person.id, run_id).id}")
