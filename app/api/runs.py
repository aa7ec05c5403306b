"""Runs: queue, watch, judge, compare."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Annotated, Any, Literal

from fastapi import Depends, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from app.api.routing import CreatingRoute, Pages, Paging, Sorted, api_router
from app.api.schemas.base import Listed
from app.api.schemas.judging import (
    AgainstFirst,
    ComparedRun,
    Comparison,
    EvaluationOut,
    PredictionOut,
    RepeatsOut,
    SpreadOut,
)
from app.api.schemas.runs import LogLineOut, MetricOut, PhaseLayers, RunIn, RunOut, RunPatch
from app.dependencies import Person, ReadSession, SettingsOf, TheHouse, WriteSession
from app.ordering import wished_config, wished_version
from app.presenting import API, csv_lines, evaluation_out, log_line_out, metric_out, prediction_out, run_out
from app.run_bundle import write_bundle
from app.run_table import Which, runs_csv
from core import catalog, runs
from core.comparison import comparable, paired
from core.database import after_commit
from core.datasets import checked_name, checked_tags, find_version
from core.errors import Conflict, FieldProblem, InputInvalid
from core.repeats import find_group
from core.storage import chunks
from core.tables import DatasetVersion, Run, TrainedModel
from core.training_config import parse_config

router = api_router("runs", CreatingRoute)
MOST_COMPARED = 20
METRIC_COLUMNS = ("phase", "phase_index", "epoch", "split", "name", "value")


def _outs(session: Session, found: Sequence[Run]) -> list[RunOut]:
    """Runs with the ids of their models, by one query."""
    query = select(TrainedModel.run_id, TrainedModel.id).where(
        TrainedModel.run_id.in_([run.id for run in found]), TrainedModel.deleted_at.is_(None)
    )
    models: dict[str | None, str] = {row.run_id: row.id for row in session.execute(query)}
    seen = runs.looks(session, found)
    return [run_out(run, models.get(run.id), seen[run.id]) for run in found]


def _out(session: Session, run: Run) -> RunOut:
    return _outs(session, [run])[0]


@router.post("/runs", status_code=202)
def queue_run(given: RunIn, session: WriteSession, house: TheHouse, person: Person, response: Response) -> RunOut:
    """Queue a run, or `repeats` runs of one group; the answer is the first of them."""
    config = wished_config(given.preset, given.config)
    version = wished_version(
        session, person.id, dataset_id=given.dataset_id, dataset_version_id=given.dataset_version_id
    )
    wish = runs.NewRun(config=config, preset=given.preset, name=given.name, repeats=given.repeats)
    run = runs.create_runs(session, house.queue, version, wish)[0]
    response.headers["Location"] = f"{API}/runs/{run.id}"
    return _out(session, run)


@router.get(
    "/runs",
    response_model=Listed[RunOut],
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def list_runs(
    session: ReadSession,
    person: Person,
    asked: Sorted,
    dataset_id: Annotated[str | None, Query(max_length=64)] = None,
    status: Annotated[str | None, Query(max_length=20)] = None,
    group_id: Annotated[str | None, Query(max_length=64)] = None,
    format: Literal["json", "csv"] = "json",  # noqa: A002 - the contract's name
) -> Any:
    """One's runs; sorts: created_at, name, test_accuracy, test_macro_f1, test_loss, validation_accuracy, any setting
    (`config.head.dropout`, `config.frozen.epochs`) and further scores (`summary.test_ece`). CSV has all of them, unpaged."""
    if format == "csv":
        text = runs_csv(session, person.id, asked.wish(), Which(dataset_id, status, group_id))
        headers = {"Content-Disposition": 'attachment; filename="runs.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
    page = catalog.list_runs(session, person.id, asked.wish(), dataset_id=dataset_id, status=status, group_id=group_id)
    return Listed(items=_outs(session, page.items), next_cursor=page.next_cursor)


@router.get("/runs/groups/{group_id}")
def read_group(group_id: str, session: ReadSession, person: Person) -> RepeatsOut:
    """Repeats of a run: how far the seed alone moves the test score."""
    group = find_group(session, person.id, group_id)
    return RepeatsOut(
        group_id=group_id, runs=_outs(session, group.runs), test_accuracy=SpreadOut(**vars(group.accuracy))
    )


@router.get("/runs/compare")
def compare_runs(
    session: ReadSession,
    person: Person,
    id: Annotated[list[str], Query(min_length=1, max_length=MOST_COMPARED)],  # noqa: A002 - the contract's name
) -> Comparison:
    """Runs side by side: their settings, curves and test scores."""
    found = [runs.find_run(session, person.id, one) for one in dict.fromkeys(id)]
    items = [
        ComparedRun(run=out, metrics=_metrics(session, run.id), evaluation=_evaluation(session, run))
        for run, out in zip(found, _outs(session, found), strict=True)
    ]
    against = [(run.id, paired(session, found[0], run)) for run in found[1:]]
    return Comparison(
        items=items,
        same_test=comparable(found),
        against_first=[AgainstFirst(id=name, verdict=one.verdict, **vars(one)) for name, one in against if one],
        changed=changed_paths([run.config for run in found]),
    )


def changed_paths(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted paths of the values that are not the same in all configs."""
    flat = [dict(_flattened(one)) for one in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    missing = object()
    return [name for name in names if any(one.get(name, missing) != flat[0].get(name, missing) for one in flat)]


def _flattened(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        below = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        below = {str(index): one for index, one in enumerate(value)}.items()
    else:
        return [(path, value)]
    return [pair for name, one in below for pair in _flattened(one, f"{path}.{name}" if path else str(name))]


@router.get("/runs/{run_id}")
def read_run(run_id: str, session: ReadSession, person: Person) -> RunOut:
    """A run."""
    return _out(session, runs.find_run(session, person.id, run_id))


@router.patch("/runs/{run_id}")
def change_run(run_id: str, given: RunPatch, session: WriteSession, house: TheHouse, person: Person) -> RunOut:
    """Change a run's name, notes or tags."""
    run = runs.find_run(session, person.id, run_id)
    if given.name is not None:
        run.name = checked_name(given.name)
    if given.notes is not None:
        run.notes = given.notes
    if given.tags is not None:
        run.tags = checked_tags(given.tags)
    after_commit(session, lambda: house.hub.wake(run_id))
    return _out(session, run)


@router.delete("/runs/{run_id}", status_code=204)
def delete_run(run_id: str, session: WriteSession, settings: SettingsOf, person: Person) -> None:
    """Delete a run that has ended; its model stays."""
    run = runs.find_run(session, person.id, run_id)
    runs.delete_run(session, run)
    folder = settings.runs_folder / run.id
    after_commit(session, lambda: shutil.rmtree(folder, ignore_errors=True))


@router.post("/runs/{run_id}/cancel", status_code=202)
def cancel_run(run_id: str, session: WriteSession, house: TheHouse, person: Person) -> RunOut:
    """Ask for cancelling: a queued run ends at once, a running one within seconds, without a model. Too late once it has ended."""
    run = runs.find_run(session, person.id, run_id)
    runs.cancel_run(session, run)
    after_commit(session, lambda: house.hub.wake(run_id))
    return _out(session, run)


@router.post("/runs/{run_id}/retry", status_code=202)
def retry_run(run_id: str, session: WriteSession, house: TheHouse, person: Person, response: Response) -> RunOut:
    """A new run with the same settings on the same dataset version."""
    run = runs.find_run(session, person.id, run_id)
    again = runs.retry_run(session, house.queue, run, parse_config(run.config))
    response.headers["Location"] = f"{API}/runs/{again.id}"
    return _out(session, again)


def _metrics(session: Session, run_id: str) -> list[MetricOut]:
    return [metric_out(one) for one in catalog.run_metrics(session, run_id)]


@router.get(
    "/runs/{run_id}/metrics",
    response_model=Listed[MetricOut],
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def read_metrics(
    run_id: str,
    session: ReadSession,
    person: Person,
    format: Literal["json", "csv"] = "json",  # noqa: A002 - the contract's name
) -> Any:
    """Every metric of a run, in order; a run has a few thousand at most, so they come in one piece."""
    run = runs.find_run(session, person.id, run_id)
    items = _metrics(session, run.id)
    if format == "json":
        return Listed(items=items)
    rows = [[getattr(one, name) for name in METRIC_COLUMNS] for one in items]
    headers = {"Content-Disposition": f'attachment; filename="metrics-{run.id}.csv"'}
    return Response("".join(csv_lines(METRIC_COLUMNS, rows)), media_type="text/csv; charset=utf-8", headers=headers)


@router.get(
    "/runs/{run_id}/bundle",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def read_bundle(run_id: str, house: TheHouse, person: Person) -> StreamingResponse:
    """What is needed to run it again anywhere: config, every picture's SHA-256, versions, seed, the command. Pictures are not in it."""
    with house.database.read() as session:  # closed before the bundle is written, which takes long for many pictures
        run = runs.find_run(session, person.id, run_id)
        if run.dataset_version_id is None:
            raise Conflict("The dataset of this run was deleted: there is nothing left to run it on again.")
        version = find_version(session, person.id, run.dataset_version_id)
        result = catalog.run_document(session, run.id, "result") or {}
    file = write_bundle(house.database, house.settings, run, version, result)
    headers = {"Content-Disposition": f'attachment; filename="run-{run.id}.zip"'}
    return StreamingResponse(_closing(file), media_type="application/zip", headers=headers)


def _closing(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        yield from chunks(file)  # type: ignore[arg-type]


@router.get("/runs/{run_id}/log")
def read_log(
    run_id: str,
    session: ReadSession,
    person: Person,
    limit: Annotated[int, Query(ge=1, le=2000, description="The newest so many lines.")] = 2000,
) -> Listed[LogLineOut]:
    """The newest lines of a run's log, oldest first."""
    run = runs.find_run(session, person.id, run_id)
    return Listed(items=[log_line_out(one) for one in catalog.log_lines(session, run.id, limit=limit)])


@router.get("/runs/{run_id}/layers")
def read_layers(run_id: str, session: ReadSession, person: Person) -> Listed[PhaseLayers]:
    """The network's layers in each phase that has begun."""
    run = runs.find_run(session, person.id, run_id)
    phases = catalog.run_document(session, run.id, "layers") or []
    return Listed(items=[PhaseLayers.model_validate(one) for one in phases])


def _evaluation(session: Session, run: Run) -> EvaluationOut | None:
    body = catalog.run_document(session, run.id, "evaluation")
    if body is None:
        return None
    return evaluation_out(body, run, runs.looks(session, [run])[run.id])


@router.get("/runs/{run_id}/evaluation")
def read_evaluation(run_id: str, session: ReadSession, person: Person) -> EvaluationOut:
    """What the untouched test says, for the frozen and for the fine-tuned network."""
    run = runs.find_run(session, person.id, run_id)
    evaluation = _evaluation(session, run)
    if evaluation is None:
        raise Conflict(f"This run has no evaluation: it is {run.status}. There is one once a run has succeeded.")
    return evaluation


@dataclass(frozen=True)
class WhichPredictions:
    """Which predictions of a run."""

    phase: Annotated[str | None, Query(max_length=20, description="frozen or fine_tune; without: the chosen one")] = (
        None
    )
    split: Annotated[str, Query(max_length=20, description="test or validation")] = "test"
    true_class: Annotated[str | None, Query(max_length=1024)] = None
    predicted_class: Annotated[str | None, Query(max_length=1024)] = None
    wrong_only: Annotated[bool, Query(description="Only where the network is wrong.")] = False
    sort: Annotated[str, Query(max_length=20, description="worst (first) or image")] = "worst"

    def wish(self, run: Run, names: Sequence[str], paging: Paging) -> catalog.PredictionWish:
        """The same, for the catalogue."""
        return catalog.PredictionWish(
            phase=self.phase or run.summary.get("chosen_phase") or "frozen",
            split=self.split,
            true_label=_label(names, "true_class", self.true_class),
            predicted_label=_label(names, "predicted_class", self.predicted_class),
            wrong_only=self.wrong_only,
            sort=self.sort,
            limit=paging.limit,
            cursor=paging.cursor,
        )


@router.get("/runs/{run_id}/predictions")
def read_predictions(
    run_id: str, session: ReadSession, person: Person, paging: Pages, which: Annotated[WhichPredictions, Depends()]
) -> Listed[PredictionOut]:
    """What the network said of every picture."""
    run = runs.find_run(session, person.id, run_id)
    names = _class_names(session, run)
    page = catalog.predictions(session, run.id, which.wish(run, names, paging))
    places = catalog.images_by_id(session, run.dataset_version_id, [one.image_id for one in page.items])
    items = [prediction_out(one, names, places.get(one.image_id)) for one in page.items]
    return Listed(items=items, next_cursor=page.next_cursor)


def _class_names(session: Session, run: Run) -> list[str]:
    """Class names in the order of the labels; also after the dataset was deleted."""
    version = session.get(DatasetVersion, run.dataset_version_id) if run.dataset_version_id else None
    if version is not None:
        return version.class_names
    model = catalog.model_of_run(session, run.id)
    if model is not None:
        return model.class_names
    phases = (catalog.run_document(session, run.id, "evaluation") or {}).get("phases", {})
    return next((one["confusion_matrix"]["class_names"] for one in phases.values()), [])


def _label(names: Sequence[str], field: str, class_name: str | None) -> int | None:
    if class_name is None:
        return None
    if class_name not in names:
        message = f'{field}: this run has no class "{class_name[:80]}".'
        raise InputInvalid(message, problems=(FieldProblem(field, message, class_name),))
    return list(names).index(class_name)
