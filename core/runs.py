"""The verbs of runs: every status change of a run lives here. `queued -> running -> succeeded | failed | cancelled`, and back to
`queued` when a worker is lost or drained. A supervisor's writes carry its claim; `Fenced` means: stop, touch nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core import near_checks
from core.config import code_version
from core.database import database_now
from core.datasets import checked_name
from core.errors import Conflict, FieldProblem, InputInvalid, NotFound
from core.ids import new_id
from core.leases import MOST_FAILURES, RUN_LIFE, Claim, release, write
from core.queue import Queue
from core.tables import (
    Dataset,
    DatasetVersion,
    Export,
    ExportStatus,
    LogLine,
    Metric,
    Prediction,
    Run,
    RunDocument,
    RunStatus,
    TrainedModel,
    utc_now,
)
from core.training_config import MOST_SEED, TrainingConfig
from core.weights import start_of

ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})
MOST_REPEATS = 50


@dataclass(frozen=True)
class NewRun:
    """What a person asks for."""

    config: TrainingConfig
    preset: str | None = None
    name: str | None = None
    repeats: int = 1
    retry_of: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class MetricValue:
    """One value of one epoch; `epoch` counts from 1 through all phases."""

    phase: str
    phase_index: int
    epoch: int
    split: str
    name: str
    value: float


@dataclass(frozen=True)
class Report:
    """What a supervisor has to write at once: progress (replaces the old), metrics and log lines (appended), columns."""

    progress: dict[str, Any] | None = None
    metrics: Sequence[MetricValue] = ()
    log: Sequence[str] = ()
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Success:
    """A finished training, its files already in the storage under `storage_key`.

    Attributes:
        summary: `result.json`'s summary.
        documents: bodies by kind: `layers`, `evaluation`, `result`.
        predictions: lines of `predictions.jsonl`.
        exports: one dictionary per file: format, storage_key, size_bytes, sha256, agreement.
        storage_key: folder of the model's files.
    """

    summary: dict[str, Any]
    documents: dict[str, Any]
    predictions: Iterable[Mapping[str, Any]]
    exports: Sequence[Mapping[str, Any]]
    storage_key: str


def create_runs(session: Session, queue: Queue | None, version: DatasetVersion, wish: NewRun) -> list[Run]:
    """Queue one run, or `repeats` runs of one group with rising seeds.

    The queue is rung after the commit; without one (in a worker) the sweeper rings, within seconds.

    Raises:
        InputInvalid: a config that does not fit this dataset version, or that starts from weights one has not.
    """
    _check_fit(version, wish)
    start_of(session, version.owner_id, wish.config)
    dataset = session.get_one(Dataset, version.dataset_id)
    title = f"{dataset.name}, version {version.number}"
    group_id = new_id() if wish.repeats > 1 else None
    runs = []
    for repeat in range(wish.repeats):
        config = wish.config.model_copy(update={"seed": wish.config.seed + repeat})
        name = checked_name(wish.name) if wish.name else f"{dataset.name}, {wish.preset or 'own settings'}"
        run = Run(
            owner_id=version.owner_id,
            dataset_version_id=version.id,
            dataset_id=dataset.id,
            dataset_title=title,
            name=f"{name} #{repeat + 1}" if wish.repeats > 1 else name,
            group_id=group_id,
            retry_of=wish.retry_of,
            preset=wish.preset,
            config=config.model_dump(mode="json"),
            batch_size=wish.batch_size or config.batch_size,
            test_fingerprint=version.test_fingerprint,
            code_version=code_version(),
            progress={"phase": None, "message": "Queued"},
            rung_at=session.scalar(select(database_now())) if queue is not None else None,
        )
        session.add(run)
        runs.append(run)
        if queue is not None:
            queue.ring_after_commit(session, RUN_LIFE.queue)
    session.flush()
    return runs


def _check_fit(version: DatasetVersion, wish: NewRun) -> None:
    problems = []
    classes = len(version.class_names)
    if wish.config.head.binary and classes != 2:
        message = f"A sigmoid head needs exactly two classes. Received: a dataset version with {classes}."
        problems.append(FieldProblem("config.head.binary", message, True))
    if not 1 <= wish.repeats <= MOST_REPEATS:
        message = f"Repeats must be 1 to {MOST_REPEATS}. Received: {wish.repeats}."
        problems.append(FieldProblem("repeats", message, wish.repeats))
    if wish.config.seed + wish.repeats - 1 > MOST_SEED:
        received = f"seed {wish.config.seed} and {wish.repeats} repeats"
        message = f"Each repeat takes the next seed, and the largest is {MOST_SEED}. Received: {received}."
        problems.append(FieldProblem("config.seed", message, wish.config.seed))
    empty = [name for name, counts in version.counts.items() if counts["train"] == 0]
    if empty:
        message = f'Nothing to learn from: class "{empty[0]}" has no training pictures in this dataset version.'
        problems.append(FieldProblem("dataset_version_id", message, version.id))
    if problems:
        raise InputInvalid(problems[0].message, problems=tuple(problems))


def find_run(session: Session, owner_id: str, run_id: str) -> Run:
    """A run of this person.

    Raises:
        NotFound: no such run, or another person's.
    """
    found = select(Run).where(Run.id == run_id, Run.owner_id == owner_id)
    run = session.scalar(found.where(Run.deleted_at.is_(None)))
    if run is None:
        raise NotFound(f'There is no run "{run_id}".')
    return run


def cancel_run(session: Session, run: Run) -> None:
    """Ask for cancelling: a queued run ends at once, a running one within seconds. Asking twice changes nothing.

    Raises:
        Conflict: the run has ended already.
    """
    if run.status in ENDED:
        raise Conflict(f"This run has ended already: it {run.status}.")
    values = {
        "cancel_requested_at": func.coalesce(Run.cancel_requested_at, database_now()),
        "revision": Run.revision + 1,
    }
    queued = (
        update(Run)
        .where(Run.id == run.id, Run.status == RunStatus.QUEUED)
        .values(status=RunStatus.CANCELLED, finished_at=utc_now(), **values)
        .execution_options(synchronize_session=False)
    )
    if session.execute(queued).rowcount != 1:  # type: ignore[attr-defined]
        running = update(Run).where(Run.id == run.id, Run.status == RunStatus.RUNNING).values(**values)
        session.execute(running.execution_options(synchronize_session=False))
    session.refresh(run)


def retry_run(session: Session, queue: Queue, run: Run, config: TrainingConfig) -> Run:
    """A new run with the same settings on the same dataset version.

    Raises:
        Conflict: the run has not ended, or its dataset was deleted.
    """
    if run.status not in ENDED:
        raise Conflict(f"This run has not ended (it is {run.status}); it can be tried again afterwards.")
    version = session.get(DatasetVersion, run.dataset_version_id) if run.dataset_version_id else None
    if version is None:
        raise Conflict("The dataset of this run was deleted, so it cannot be trained again.")
    wish = NewRun(config=config, preset=run.preset, name=run.name, retry_of=run.id, batch_size=run.batch_size)
    return create_runs(session, queue, version, wish)[0]


def delete_run(session: Session, run: Run) -> None:
    """Delete a run with its metrics, log and predictions; its model stays.

    Raises:
        Conflict: the run has not ended.
    """
    if run.status not in ENDED:
        raise Conflict(f"This run has not ended (it is {run.status}). Cancel it first.")
    session.execute(delete(Run).where(Run.id == run.id))


def put_away_run(session: Session, run: Run) -> None:
    """Delete a run so that it can be brought back for a day; the sweeper then deletes it for good.

    Raises:
        Conflict: the run has not ended.
    """
    if run.status not in ENDED:
        raise Conflict(f"This run has not ended (it is {run.status}). Cancel it first.")
    run.deleted_at = utc_now()
    session.flush()


def bring_back_run(session: Session, owner_id: str, run_id: str) -> Run:
    """Undo `put_away_run`; twice changes nothing.

    Raises:
        NotFound: there is no such run any more.
    """
    query = select(Run).where(Run.id == run_id, Run.owner_id == owner_id)
    run = session.scalar(query)
    if run is None:
        raise NotFound(f'There is no run "{run_id}" to bring back.')
    run.deleted_at = None
    return run


def record(session: Session, held: Claim, report: Report) -> None:
    """Write progress, metrics and log lines in one transaction with the fence; a finished epoch forgives earlier failures.

    Raises:
        Fenced: the run is not this attempt's any more.
    """
    columns = dict(report.columns)
    if report.progress is not None:
        columns["progress"] = report.progress
    if report.metrics:
        columns["failures"] = 0
    write(session, RUN_LIFE, held, revision=Run.revision + 1, **columns)
    revision = session.scalars(select(Run.revision).where(Run.id == held.id)).one()
    if report.metrics:
        rows = [
            {"run_id": held.id, "revision": revision, "recorded_at": utc_now(), **vars(one)} for one in report.metrics
        ]
        # a resumed trainer says its history again: an epoch is written once
        # (not all rows in one statement: PostgreSQL has room for 65,535 values)
        session.execute(_insert(session, Metric).on_conflict_do_nothing(), rows)
    if report.log:
        newest = session.scalar(select(func.max(LogLine.number)).where(LogLine.run_id == held.id)) or 0
        lines = [
            {"run_id": held.id, "number": newest + 1 + index, "message": line[:4000], "revision": revision}
            for index, line in enumerate(report.log)
        ]
        session.execute(insert(LogLine), lines)


def _insert(session: Session, table: type[Any]) -> Any:
    maker = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return maker(table)


def finish_succeeded(session: Session, held: Claim, success: Success) -> TrainedModel:
    """The run has succeeded: its model enters the catalogue. Files first, rows last, all in one transaction.

    Raises:
        Fenced: the run is not this attempt's any more; the caller removes its files.
    """
    accuracy = success.summary.get("test_accuracy")
    write(
        session,
        RUN_LIFE,
        held,
        status=RunStatus.SUCCEEDED,
        summary=success.summary,
        test_accuracy=accuracy,
        **{name: success.summary.get(name) for name in ("test_macro_f1", "test_loss", "validation_accuracy")},
        progress={"phase": None, "message": "Done"},
        **_ended(),
    )
    run = session.get_one(Run, held.id, populate_existing=True)
    computed = success.documents.get("result", {}).get("machine", {}).get("precision")
    if computed is not None:  # what it began with was a hope: pictures may fail the check of bfloat16
        run.machine = {**(run.machine or {}), "precision": computed}
    session.execute(delete(Prediction).where(Prediction.run_id == run.id))
    lines = iter(success.predictions)
    while rows := [prediction_row(run.id, line) for line in islice(lines, 2000)]:
        session.execute(insert(Prediction), rows)
    for kind, body in success.documents.items():
        session.merge(RunDocument(run_id=run.id, kind=kind, body=body))
    version = session.get_one(DatasetVersion, run.dataset_version_id)
    model = TrainedModel(
        owner_id=run.owner_id,
        run_id=run.id,
        name=run.name,
        dataset_title=run.dataset_title,
        backbone=run.config["backbone"],
        class_names=version.class_names,
        image_size=run.config["image_size"],
        resize=run.config["resize"],
        test_accuracy=accuracy,
        # the run may be deleted, and what starts from its model must know where that was cut
        summary={**success.summary, "cut_layer": run.config.get("cut_layer")},
        storage_key=success.storage_key,
    )
    session.add(model)
    session.flush()
    for export in success.exports:
        session.add(Export(owner_id=run.owner_id, model_id=model.id, status=ExportStatus.READY, **export))
    session.flush()
    near_checks.request_check(session, version)
    return model


def prediction_row(run_id: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `predictions.jsonl` as a row of the predictions table."""
    probabilities = line["probabilities"]
    return {
        "run_id": run_id,
        "phase": line["phase"],
        "split": line["split"],
        "image_id": line["image_id"],
        "true_label": line["true_label"],
        "predicted_label": line["predicted_label"],
        "confidence": probabilities[line["predicted_label"]],
        "true_probability": probabilities[line["true_label"]],
        "probabilities": probabilities,
    }


def _ended() -> dict[str, Any]:
    return {
        "lease_owner": None,
        "lease_expires_at": None,
        "finished_at": utc_now(),
        "revision": Run.revision + 1,
    }


def finish_failed(session: Session, held: Claim, kind: str, message: str, advice: str = "") -> None:
    """The run has failed for a reason that trying again would not change."""
    failure = {"kind": kind, "message": message, "advice": advice}
    write(session, RUN_LIFE, held, status=RunStatus.FAILED, failure=failure, **_ended())


def finish_cancelled(session: Session, held: Claim) -> None:
    """The person's cancel was carried out."""
    write(session, RUN_LIFE, held, status=RunStatus.CANCELLED, **_ended())


def give_back(session: Session, held: Claim, message: str) -> None:
    """A drain: back to the queue, no failure counted."""
    release(session, RUN_LIFE, held, revision=Run.revision + 1, progress={"phase": None, "message": message})


def record_crash(session: Session, held: Claim, message: str) -> RunStatus:
    """The trainer died: back to the queue, or failed at the third time without a finished epoch between. Returns the new status."""
    failures = session.scalars(select(Run.failures).where(Run.id == held.id)).one() + 1
    if failures >= MOST_FAILURES:
        advice = "Look at the log below, change the settings if they explain it, and try again."
        failure = {"kind": "crash", "message": lost_sentence(message), "advice": advice}
        write(session, RUN_LIFE, held, status=RunStatus.FAILED, failures=failures, failure=failure, **_ended())
        return RunStatus.FAILED
    release(session, RUN_LIFE, held, failures=failures, revision=Run.revision + 1)
    return RunStatus.QUEUED


def lost_sentence(last: str) -> str:
    """What a run says that has lost its worker or trainer three times."""
    return f"The training was lost {MOST_FAILURES} times without a finished epoch between. The last time: {last}"


def record_out_of_memory(session: Session, held: Claim, message: str) -> RunStatus:
    """The trainer ran out of memory: once more with half the batch, then failed. Returns the new status."""
    run = session.get_one(Run, held.id, populate_existing=True)
    if run.halvings >= 1 or run.batch_size <= 1:
        advice = "Choose a smaller batch size or image size, or a smaller backbone, and try again."
        finish_failed(session, held, "out_of_memory", message, advice)
        return RunStatus.FAILED
    smaller = max(1, run.batch_size // 2)
    release(session, RUN_LIFE, held, batch_size=smaller, halvings=run.halvings + 1, revision=Run.revision + 1)
    return RunStatus.QUEUED


def looks(session: Session, found: Sequence[Run]) -> dict[str, int]:
    """For each of these runs, by id: how many finished runs of its person have been scored on its test split."""
    query = select(Run.owner_id, Run.test_fingerprint, func.count().label("scored")).where(
        Run.test_fingerprint.in_({run.test_fingerprint for run in found}), Run.status == RunStatus.SUCCEEDED
    )
    counts = {
        (row.owner_id, row.test_fingerprint): row.scored
        for row in session.execute(query.group_by(Run.owner_id, Run.test_fingerprint)).all()
    }
    return {run.id: counts.get((run.owner_id, run.test_fingerprint), 0) for run in found}


def model_looks(session: Session, models: Sequence[TrainedModel]) -> dict[str, int]:
    """The same for models, by id; one whose run is deleted is left out."""
    found = session.scalars(select(Run).where(Run.id.in_({one.run_id for one in models if one.run_id}))).all()
    counts = looks(session, found)
    return {one.id: counts[one.run_id] for one in models if one.run_id in counts}
