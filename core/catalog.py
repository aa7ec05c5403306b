"""Read queries for pages and lists: filter, sort, keyset paging. Every query has an index; nothing here writes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, String, and_, cast, func, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from core.database import database_now
from core.datasets import SEEN
from core.errors import NotFound
from core.issues import checked_kind, has_issue
from core.paging import DEFAULT_LIMIT, MOST, Page
from core.paging import checked_limit as _checked_limit
from core.paging import decode_cursor as _decode
from core.paging import encode_cursor as _encode
from core.paging import wrong_query as _bad
from core.run_sorts import run_sorts
from core.tables import (
    Dataset,
    DatasetVersion,
    Image,
    LogLine,
    Metric,
    Outcome,
    Prediction,
    ReceiptRow,
    Run,
    RunDocument,
    RunStatus,
    Split,
    TrainedModel,
    Upload,
    UploadStatus,
    VersionImage,
    Weights,
    WeightsStatus,
    WorkerRow,
)

WORKER_ALIVE_SECONDS = 35.0
RUN_SORTS = ("name", "test_accuracy", "test_macro_f1", "test_loss", "validation_accuracy")
T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """What a list is asked for. `sort`: a column's name, with a leading minus for descending."""

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None
    sort: str = "-created_at"
    search: str = ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _search(table: Any, text: str) -> ColumnElement[bool]:
    """Rows with this text in their name or in one of their tags."""
    text = text.strip()
    stored = json.dumps(text)[1:-1]  # tags are JSON, which has its own way with letters beyond ASCII
    tags = cast(table.tags, String).ilike(f"%{_escaped(stored)}%", escape="\\")
    return or_(table.name.ilike(f"%{_escaped(text)}%", escape="\\"), tags)


def _paged(
    session: Session, query: Select[T], table: Any, wish: Wish, sorts: dict[str, InstrumentedAttribute[Any]]
) -> Page[T]:
    """One page by keyset over (sort column, id). Null sorts last, in both directions.

    Rows with a value and rows without are two queries, each in the order of an index: `ORDER BY column IS NULL` would sort them all.
    """
    limit = _checked_limit(wish.limit)
    name = wish.sort.removeprefix("-")
    descending = wish.sort.startswith("-")
    written = run_sorts() if table is Run else {}
    if name != "created_at" and name not in sorts and name not in written:
        allowed = ", ".join(["created_at", *sorts, *(["config.<setting>", "summary.<score>"] if written else [])])
        raise _bad("sort", f'sort: one of {allowed}, with "-" for descending. Received: {wish.sort[:80]!r}.', wish.sort)
    column: ColumnElement[Any] | InstrumentedAttribute[Any] | None = None  # ids sort by creation
    kinds: tuple[type, ...] = (str,)
    if name in sorts:
        column, kinds = sorts[name], (sorts[name].type.python_type, str)
    elif name in written:
        column, kinds = written[name][0], (written[name][1], str)
    last = _decode(wish.cursor, *kinds) if wish.cursor else None
    rows: list[Any] = []
    for part in _parts(query, table.id, column, last, descending):
        rows += session.scalars(part.limit(limit + 1 - len(rows)))
        if len(rows) > limit:
            break
    if len(rows) <= limit:
        return Page(rows, None)
    shown = rows[limit - 1]
    values: list[Any] = [shown.id]
    if column is not None:
        value = session.scalar(select(column).where(table.id == shown.id))
        values.insert(0, None if value is None else kinds[0](value))
    return Page(rows[:limit], _encode(values))


def _parts(
    query: Select[T],
    row_id: InstrumentedAttribute[str],
    column: ColumnElement[Any] | InstrumentedAttribute[Any] | None,
    last: list[Any] | None,
    descending: bool,
) -> Iterator[Select[T]]:
    """The queries that make up a list after its row `last` ([id], or [value of the sort column, id]), in turn."""
    if column is None:
        yield _keyset(query, (row_id,), last, descending)
        return
    nullable = not isinstance(column, InstrumentedAttribute) or column.property.columns[0].nullable
    if last is None or last[0] is not None:
        yield _keyset(query.where(column.is_not(None)) if nullable else query, (column, row_id), last, descending)
        last = None
    if nullable:
        yield _keyset(query.where(column.is_(None)), (row_id,), last[1:] if last else None, descending)


def _keyset(
    query: Select[T],
    columns: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
    last: list[Any] | None,
    descending: bool,
) -> Select[T]:
    """In the order of these columns, from after `last` on: one comparison of rows, which an index answers."""
    if last is not None:
        here = tuple_(*columns)
        query = query.where(here < last if descending else here > last)
    return query.order_by(*(one.desc() if descending else one.asc() for one in columns))


def list_datasets(session: Session, owner_id: str, wish: Wish) -> Page[Dataset]:
    """A person's datasets; sorts: created_at, name."""
    query = select(Dataset).where(Dataset.owner_id == owner_id)
    if wish.search:
        query = query.where(_search(Dataset, wish.search))
    return _paged(session, query, Dataset, wish, {"name": Dataset.name})


def sorted_values(session: Session, run_ids: Sequence[str], sort: str) -> dict[str, Any]:
    """What these runs (of one page) are sorted by, where that is one of `run_sorts`: run id -> value. Else nothing."""
    written = run_sorts().get(sort.removeprefix("-"))
    if written is None:
        return {}
    query = select(Run.id, written[0].label("value")).where(Run.id.in_(run_ids))
    return {row.id: row.value for row in session.execute(query)}


def latest_versions(session: Session, dataset_ids: Sequence[str]) -> dict[str, DatasetVersion]:
    """The newest version of each of these datasets (of one page), by dataset id."""
    newest = (
        select(DatasetVersion.dataset_id, func.max(DatasetVersion.number).label("number"))
        .where(DatasetVersion.dataset_id.in_(dataset_ids), SEEN)
        .group_by(DatasetVersion.dataset_id)
        .subquery()
    )
    on = and_(DatasetVersion.dataset_id == newest.c.dataset_id, DatasetVersion.number == newest.c.number)
    return {one.dataset_id: one for one in session.scalars(select(DatasetVersion).join(newest, on))}


def list_versions(session: Session, dataset_id: str, wish: Wish) -> Page[DatasetVersion]:
    """The versions of a dataset, newest first. By number: of two that were made at once the first may have got the second number."""
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id, SEEN)
    return _paged(session, query, DatasetVersion, replace(wish, sort="-number"), {"number": DatasetVersion.number})


def list_uploads(session: Session, dataset_id: str, limit: int = 10) -> Sequence[Upload]:
    """The newest uploads of a dataset."""
    query = select(Upload).where(Upload.dataset_id == dataset_id).order_by(Upload.id.desc()).limit(limit)
    return session.scalars(query).all()


def list_runs(
    session: Session,
    owner_id: str,
    wish: Wish,
    *,
    dataset_id: str | None = None,
    status: str | None = None,
    group_id: str | None = None,
) -> Page[Run]:
    """A person's runs; sorts: created_at, `RUN_SORTS` (by an index), any of `run_sorts` (reading all runs of the person)."""
    query = select(Run).where(Run.owner_id == owner_id, Run.deleted_at.is_(None))
    if dataset_id:
        query = query.where(Run.dataset_id == dataset_id)
    if group_id:
        query = query.where(Run.group_id == group_id)
    if status:
        allowed = [one.value for one in RunStatus]
        if status not in allowed:
            raise _bad("status", f"status: one of {', '.join(allowed)}. Received: {status[:80]!r}.", status)
        query = query.where(Run.status == RunStatus(status))
    if wish.search:
        query = query.where(_search(Run, wish.search))
    return _paged(session, query, Run, wish, {name: getattr(Run, name) for name in RUN_SORTS})


def list_models(session: Session, owner_id: str, wish: Wish) -> Page[TrainedModel]:
    """A person's models; sorts: created_at, name, test_accuracy."""
    query = select(TrainedModel).where(TrainedModel.owner_id == owner_id, TrainedModel.deleted_at.is_(None))
    if wish.search:
        query = query.where(_search(TrainedModel, wish.search))
    sorts = {"name": TrainedModel.name, "test_accuracy": TrainedModel.test_accuracy}
    return _paged(session, query, TrainedModel, wish, sorts)


def list_weights(session: Session, owner_id: str, wish: Wish) -> Page[Weights]:
    """A person's uploaded weights, newest first."""
    return _paged(session, select(Weights).where(Weights.owner_id == owner_id), Weights, wish, {})


def ready_weights(session: Session, owner_id: str) -> Sequence[Weights]:
    """Uploaded weights that a run may start from: the newest fifty."""
    mine = (Weights.owner_id == owner_id, Weights.status == WeightsStatus.READY)
    return session.scalars(select(Weights).where(*mine).order_by(Weights.id.desc()).limit(MOST // 4)).all()


def model_of_run(session: Session, run_id: str) -> TrainedModel | None:
    """The model that a run made, or None."""
    found = select(TrainedModel).where(TrainedModel.run_id == run_id, TrainedModel.deleted_at.is_(None))
    return session.scalar(found)


def unfinished(session: Session, owner_id: str) -> tuple[Sequence[Run], Sequence[Upload]]:
    """What is going on now: a person's running and queued runs, and their uploads on the way. Oldest first, at most 50 each."""
    going = [RunStatus.QUEUED, RunStatus.RUNNING]
    runs = select(Run).where(Run.owner_id == owner_id, Run.status.in_(going)).order_by(Run.id).limit(MOST // 4)
    on_the_way = [UploadStatus.RECEIVING, UploadStatus.RECEIVED, UploadStatus.INGESTING]
    uploads = select(Upload).where(Upload.owner_id == owner_id, Upload.status.in_(on_the_way)).order_by(Upload.id)
    return session.scalars(runs).all(), session.scalars(uploads.limit(MOST // 4)).all()


def version_images(
    session: Session,
    version: DatasetVersion,
    *,
    class_name: str | None = None,
    split: str | None = None,
    issue: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[VersionImage]:
    """Pictures of a version in its order, with `.image` loaded; paged by ordinal. `issue`: those in an issue of this kind."""
    limit = _checked_limit(limit)
    query = select(VersionImage).where(VersionImage.version_id == version.id).options(joinedload(VersionImage.image))
    if class_name is not None:
        if class_name not in version.class_names:
            raise _bad("class_name", f"class_name: this version has no class {class_name[:80]!r}.", class_name)
        query = query.where(VersionImage.label == version.class_names.index(class_name))
    if split is not None:
        query = query.where(VersionImage.split == checked_split(split))
    if issue is not None:
        query = query.where(has_issue(version, checked_kind(issue)))
    if cursor:
        query = query.where(VersionImage.ordinal > _decode(cursor, int)[0])
    rows = session.scalars(query.order_by(VersionImage.ordinal).limit(limit + 1)).all()
    return Page(rows[:limit], _encode([rows[limit - 1].ordinal]) if len(rows) > limit else None)


def checked_split(split: str) -> Split:
    """A split by name.

    Raises:
        InputInvalid: not train, validation or test.
    """
    try:
        return Split(split)
    except ValueError as error:
        raise _bad("split", f"split: train, validation or test. Received: {split[:80]!r}.", split) from error


def find_image(session: Session, owner_id: str, image_id: str) -> Image:
    """A picture of this person.

    Raises:
        NotFound: no such picture, or another person's.
    """
    image = session.scalar(select(Image).where(Image.id == image_id, Image.owner_id == owner_id))
    if image is None:
        raise NotFound(f'There is no picture "{image_id}".')
    return image


def picture_by_turn(session: Session, version: DatasetVersion, turn: int) -> VersionImage:
    """A training picture of a version with its `.image`: another one for the next turn, the same one for the same turn.

    Raises:
        NotFound: the version has no training picture.
    """
    start = int(turn * 0.618034 % 1.0 * version.image_count)  # the golden ratio: far from those before it
    train = select(VersionImage).where(VersionImage.version_id == version.id, VersionImage.split == Split.TRAIN)
    train = train.options(joinedload(VersionImage.image)).order_by(VersionImage.ordinal).limit(1)
    place = session.scalar(train.where(VersionImage.ordinal >= start)) or session.scalar(train)
    if place is None:
        raise NotFound("This dataset version has no training pictures.")
    return place


def images_by_id(session: Session, version_id: str | None, image_ids: Sequence[str]) -> dict[str, VersionImage]:
    """The places of these pictures (of one page) in a version, with `.image` loaded, by picture id."""
    query = select(VersionImage).where(VersionImage.version_id == version_id, VersionImage.image_id.in_(image_ids))
    return {one.image_id: one for one in session.scalars(query.options(joinedload(VersionImage.image)))}


def receipt_rows(
    session: Session,
    upload_id: str,
    *,
    outcome: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[ReceiptRow]:
    """Rows of a receipt in order; paged by ordinal."""
    limit = _checked_limit(limit)
    query = select(ReceiptRow).where(ReceiptRow.upload_id == upload_id)
    if outcome is not None:
        allowed = [one.value for one in Outcome]
        if outcome not in allowed:
            raise _bad("outcome", f"outcome: one of {', '.join(allowed)}. Received: {outcome[:80]!r}.", outcome)
        query = query.where(ReceiptRow.outcome == Outcome(outcome))
    if cursor:
        query = query.where(ReceiptRow.ordinal > _decode(cursor, int)[0])
    rows = session.scalars(query.order_by(ReceiptRow.ordinal).limit(limit + 1)).all()
    return Page(rows[:limit], _encode([rows[limit - 1].ordinal]) if len(rows) > limit else None)


def run_metrics(session: Session, run_id: str, *, after_revision: int = -1) -> Sequence[Metric]:
    """Metrics in order (phase, epoch, split, name); only rows written after a revision when one is given."""
    query = select(Metric).where(Metric.run_id == run_id, Metric.revision > after_revision)
    return session.scalars(query.order_by(Metric.phase_index, Metric.epoch, Metric.split, Metric.name)).all()


def log_lines(session: Session, run_id: str, *, after_revision: int = -1, limit: int = 2000) -> Sequence[LogLine]:
    """The newest log lines in order; only lines written after a revision when one is given."""
    query = select(LogLine).where(LogLine.run_id == run_id, LogLine.revision > after_revision)
    return session.scalars(query.order_by(LogLine.number.desc()).limit(limit)).all()[::-1]


def run_document(session: Session, run_id: str, kind: str) -> Any:
    """The body of `layers`, `evaluation` or `result` of a run, or None before it exists."""
    return session.scalar(select(RunDocument.body).where(RunDocument.run_id == run_id, RunDocument.kind == kind))


@dataclass(frozen=True)
class PredictionWish:
    """Which predictions of a run. `sort`: `worst` (lowest probability of the true class first) or `image`."""

    phase: str
    split: str = "test"
    true_label: int | None = None
    predicted_label: int | None = None
    wrong_only: bool = False
    sort: str = "worst"
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None


def predictions(session: Session, run_id: str, wish: PredictionWish) -> Page[Prediction]:
    """Predictions of one phase's network on one split; paged by (probability of the true class, picture) or picture."""
    limit = _checked_limit(wish.limit)
    where = [Prediction.run_id == run_id, Prediction.phase == wish.phase, Prediction.split == checked_split(wish.split)]
    if wish.true_label is not None:
        where.append(Prediction.true_label == wish.true_label)
    if wish.predicted_label is not None:
        where.append(Prediction.predicted_label == wish.predicted_label)
    if wish.wrong_only:
        where.append(Prediction.true_label != Prediction.predicted_label)
    if wish.sort not in {"worst", "image"}:
        raise _bad("sort", f"sort: worst or image. Received: {wish.sort[:80]!r}.", wish.sort)
    columns = (Prediction.true_probability, Prediction.image_id) if wish.sort == "worst" else (Prediction.image_id,)
    last = _decode(wish.cursor, float, str)[-len(columns) :] if wish.cursor else None
    query = _keyset(select(Prediction).where(*where), columns, last, descending=False)
    rows = session.scalars(query.limit(limit + 1)).all()
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], _encode([rows[limit - 1].true_probability, rows[limit - 1].image_id]))


@dataclass(frozen=True)
class WorkerFacts:
    """A worker as the system page shows it."""

    id: str
    queues: list[str]
    devices: list[dict[str, Any]]
    alive: bool
    busy: bool


def workers(session: Session) -> list[WorkerFacts]:
    """Every worker with a row; alive when its heartbeat is younger than 35 s by the database's clock."""
    rows = session.execute(select(WorkerRow, database_now() - WorkerRow.heartbeat_at).order_by(WorkerRow.id))
    return [WorkerFacts(row.id, row.queues, row.devices, age < WORKER_ALIVE_SECONDS, row.busy) for row, age in rows]


def predictor_lives(session: Session) -> bool:
    """Whether a worker that answers at once (predictions, large pictures) has said lately that it lives."""
    return any(one.alive and "predict" in one.queues for one in workers(session))


def queue_counts(session: Session) -> dict[str, int]:
    """How many runs are queued and running, over all people."""
    query = select(Run.status, func.count()).where(Run.status.in_([RunStatus.QUEUED, RunStatus.RUNNING]))
    counts = {status.value: count for status, count in session.execute(query.group_by(Run.status))}
    return {"queued": counts.get("queued", 0), "running": counts.get("running", 0)}


def runs_ahead(session: Session, run: Run) -> int:
    """How many queued runs are older than this one."""
    query = select(func.count()).select_from(Run).where(Run.status == RunStatus.QUEUED, Run.id < run.id)
    return session.scalar(query) or 0


def stored_bytes(session: Session) -> int:
    """Bytes of all pictures."""
    return session.scalar(select(func.sum(Image.size_bytes))) or 0
