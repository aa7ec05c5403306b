"""With a hundred thousand rows, every list is read from an index, in its order: nothing is scanned whole or sorted whole."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

import migrations
from core import batch_predictions, catalog, datasets, issues, label_desk, models, runs
from core.catalog import PredictionWish, Wish
from core.database import Database
from core.tables import DatasetVersion, LabelCheck, Run, Split, TrainedModel, utc_now
from core.version_diff import Differences
from tests.core.many_rows import BATCH, CHECK, DATASET, GROUP, MANY, MODEL, OWNER, RUN, UPLOAD, VALUES, VERSION, fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PERSON = MANY // 10  # rows of one person, which a search in names has to read


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with many rows in every table."""
    if request.param == "sqlite":
        address = f"sqlite+pysqlite:///{tmp_path_factory.mktemp('many') / 'thaw.sqlite3'}"
    else:
        address = request.getfixturevalue("postgres").create()
    database = Database(address)
    migrations.upgrade(database)
    fill(database)
    yield database
    database.close()


@dataclass(frozen=True)
class Asked:
    """One call of the catalogue.

    Attributes:
        call: what is asked.
        in_order: its rows must come out of an index in their order, however many there are.
        few: rows that PostgreSQL may look at or sort for it.
    """

    call: Callable[[Session], Any]
    in_order: bool = True
    few: int = 2_500


def _version(session: Session, version_id: str = VERSION) -> DatasetVersion:
    version = session.get_one(DatasetVersion, version_id)
    version.class_names = [f"class {label}" for label in range(10)]
    return version


def _check(session: Session) -> LabelCheck:
    return session.get_one(LabelCheck, CHECK)


def _second_page(listed: Callable[[Session, str | None], catalog.Page[Any]]) -> Asked:
    """The page after the first: where paging by offset would read again what was shown."""
    return Asked(lambda session: listed(session, listed(session, None).next_cursor))


ASKED: dict[str, Asked] = {
    "run_metrics": Asked(lambda session: catalog.run_metrics(session, RUN), in_order=False),
    "new metrics": Asked(lambda session: catalog.run_metrics(session, RUN, after_revision=390), in_order=False),
    "log_lines": Asked(lambda session: catalog.log_lines(session, RUN)),
    "new log lines": Asked(lambda session: catalog.log_lines(session, RUN, after_revision=9_900), few=10_000),
    "runs of a dataset": Asked(lambda session: catalog.list_runs(session, OWNER, Wish(), dataset_id=DATASET)),
    "runs of a group": Asked(lambda session: catalog.list_runs(session, OWNER, Wish(), group_id=GROUP)),
    "queued runs": Asked(lambda session: catalog.list_runs(session, OWNER, Wish(), status="queued")),
    "runs by name, searched": Asked(lambda session: catalog.list_runs(session, OWNER, Wish(sort="name", search="7"))),
    "best of a dataset": Asked(
        lambda session: catalog.list_runs(session, OWNER, Wish(sort="-test_accuracy"), dataset_id=DATASET),
        in_order=False,
    ),
    "datasets searched": Asked(
        lambda session: catalog.list_datasets(session, OWNER, Wish(search="name 7")), few=PERSON
    ),
    "latest_versions": Asked(lambda session: catalog.latest_versions(session, [DATASET, "d-0000001"]), in_order=False),
    "list_versions": Asked(lambda session: catalog.list_versions(session, DATASET, Wish())),
    "list_uploads": Asked(lambda session: catalog.list_uploads(session, DATASET)),
    "unfinished": Asked(lambda session: catalog.unfinished(session, OWNER), in_order=False),
    "images": _second_page(lambda session, cursor: catalog.version_images(session, _version(session), cursor=cursor)),
    "images of a class": _second_page(
        lambda session, cursor: catalog.version_images(session, _version(session), class_name="class 3", cursor=cursor)
    ),
    "images of a split": _second_page(
        lambda session, cursor: catalog.version_images(session, _version(session), split=Split.TEST, cursor=cursor)
    ),
    "images of a class and split": Asked(
        lambda session: catalog.version_images(session, _version(session), class_name="class 3", split=Split.TEST)
    ),
    "picture_by_turn": Asked(lambda session: catalog.picture_by_turn(session, _version(session), 3)),
    "images_by_id": Asked(lambda session: catalog.images_by_id(session, VERSION, ["i-0000003", "i-0000004"])),
    "receipt": _second_page(lambda session, cursor: catalog.receipt_rows(session, UPLOAD, cursor=cursor)),
    "refused": _second_page(
        lambda session, cursor: catalog.receipt_rows(session, UPLOAD, outcome="refused", cursor=cursor)
    ),
    "worst predictions": _second_page(
        lambda session, cursor: catalog.predictions(session, RUN, PredictionWish("frozen", cursor=cursor))
    ),
    "worst mistakes": _second_page(
        lambda session, cursor: catalog.predictions(
            session, RUN, PredictionWish("frozen", wrong_only=True, cursor=cursor)
        )
    ),
    "a cell": _second_page(
        lambda session, cursor: catalog.predictions(
            session, RUN, PredictionWish("frozen", true_label=3, predicted_label=4, cursor=cursor)
        )
    ),
    "worst of a class": Asked(
        lambda session: catalog.predictions(session, RUN, PredictionWish("frozen", true_label=3)), in_order=False
    ),
    "predictions by picture": _second_page(
        lambda session, cursor: catalog.predictions(session, RUN, PredictionWish("frozen", sort="image", cursor=cursor))
    ),
    "model_of_run": Asked(lambda session: catalog.model_of_run(session, RUN)),
    "find_image": Asked(lambda session: catalog.find_image(session, OWNER, "i-0000001")),
    "run_document": Asked(lambda session: catalog.run_document(session, RUN, "layers")),
    "exports_of": Asked(lambda session: models.exports_of(session, "m-0000001")),
    "latest_version": Asked(lambda session: datasets.latest_version(session, DATASET)),
    "queue_counts": Asked(catalog.queue_counts, in_order=False),
    "runs_ahead": Asked(lambda session: catalog.runs_ahead(session, session.get_one(Run, "r-0050001"))),
    "runs in the bin": Asked(lambda session: session.scalars(select(Run.id).where(Run.deleted_at < utc_now())).all()),
    "models in the bin": Asked(
        lambda session: session.scalars(select(TrainedModel.id).where(TrainedModel.deleted_at < utc_now())).all()
    ),
    "sorted_values": Asked(lambda session: catalog.sorted_values(session, [RUN], "-config.frozen.epochs")),
    "list_weights": _second_page(lambda session, cursor: catalog.list_weights(session, OWNER, Wish(cursor=cursor))),
    "ready_weights": Asked(lambda session: catalog.ready_weights(session, OWNER)),
    "issues": _second_page(lambda session, cursor: issues.list_issues(session, _version(session), cursor=cursor)),
    "issues of a kind": _second_page(
        lambda session, cursor: issues.list_issues(session, _version(session), kind="leaks", cursor=cursor)
    ),
    # of two small versions: of one that is most of the table, PostgreSQL rightly reads the whole
    "differences": _second_page(
        lambda session, cursor: Differences().page(
            session, _version(session, "v-0000700"), _version(session, "v-0000701"), cursor=cursor
        )
    ),
    "label doubts": _second_page(
        lambda session, cursor: label_desk.doubts(session, _version(session), _check(session), cursor=cursor)
    ),
    "likely label errors that nobody has decided": Asked(
        lambda session: label_desk.doubts(session, _version(session), _check(session), decided=False, likely=True),
        few=10_000,
    ),
    "batches_of": Asked(lambda session: batch_predictions.batches_of(session, MODEL)),
    "batch rows": Asked(lambda session: batch_predictions.rows_after(session, BATCH, 30_000), few=5_000),
    "looks": Asked(lambda session: runs.looks(session, [session.get_one(Run, "r-0050001")])),
    "looks of models": Asked(lambda session: runs.model_looks(session, [session.get_one(TrainedModel, "m-0000001")])),
}
SORTS = {
    "datasets": ("created_at", "name"),
    "runs": ("created_at", *catalog.RUN_SORTS),
    "models": ("created_at", "name", "test_accuracy"),
}
for _name, _list in {
    "datasets": catalog.list_datasets,
    "runs": catalog.list_runs,
    "models": catalog.list_models,
}.items():
    for _sort in SORTS[_name]:
        for _sign in ("", "-"):
            ASKED[f"{_name} by {_sign}{_sort}"] = _second_page(
                lambda session, cursor, listed=_list, sort=_sign + _sort: listed(  # type: ignore[misc]
                    session, OWNER, Wish(sort=sort, cursor=cursor)
                )
            )
# the last rows that have a score, and after them those that have none
_LAST = catalog._encode([0.0, "r-0000009"])
ASKED["runs where the scores end"] = Asked(
    lambda session: catalog.list_runs(session, OWNER, Wish(sort="-test_accuracy", cursor=_LAST))
)


def test_every_query_of_the_catalogue_is_asked_here() -> None:
    queries = {name for name, one in inspect.getmembers(catalog, inspect.isfunction) if "session" in _arguments(one)}
    asked = set(re.findall(r"catalog\.(\w+)", Path(__file__).read_text(encoding="utf-8")))
    few_rows, every_row = (
        {"workers", "predictor_lives"},
        {"stored_bytes"},
    )  # the table of workers; the system page's sum
    assert {name for name in queries if not name.startswith("_")} - asked == few_rows | every_row


def _arguments(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", ASKED)
def test_a_list_is_read_from_an_index_in_its_order(full: Database, name: str) -> None:
    asked = ASKED[name]
    for statement, plan, whole, sorts in _plans(full, asked):
        assert not whole, f"{whole} is read whole:\n{statement}\n{plan}"
        assert not (asked.in_order and sorts), f"sorted:\n{statement}\n{plan}"


def _plans(database: Database, asked: Asked) -> list[tuple[str, str, list[str], bool]]:
    """Of every statement that is sent: its text, its plan, the large tables that are read whole, and whether it sorts."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(database.reader, "before_cursor_execute", note)
    try:
        with database.read() as session, session.no_autoflush:
            asked.call(session)
    finally:
        event.remove(database.reader, "before_cursor_execute", note)
    assert sent
    if database.is_sqlite:
        return [(statement, *_sqlite_plan(database, statement, parameters)) for statement, parameters in sent]
    return [
        (statement, *_postgresql_plan(database, statement, parameters, asked.few)) for statement, parameters in sent
    ]


def _sqlite_plan(database: Database, statement: str, parameters: Any) -> tuple[str, list[str], bool]:
    with database.reader.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    lines = [row[3] for row in rows]
    whole = [line for line in lines if line.startswith("SCAN") and line.split()[1] in VALUES]
    return "\n".join(lines), whole, any("USE TEMP B-TREE FOR ORDER BY" in line for line in lines)


def _postgresql_plan(database: Database, statement: str, parameters: Any, few: int) -> tuple[str, list[str], bool]:
    """Carries the statement out and counts: its planner may rightly walk one index or another, or sort a handful of rows."""
    with database.reader.connect() as connection:
        (plan,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).one()
    nodes = list(_nodes(plan[0]["Plan"]))
    read = [node for node in nodes if "Scan" in node["Node Type"] and node.get("Relation Name") in VALUES]
    whole = [node["Relation Name"] for node in read if node["Node Type"] == "Seq Scan" or _rows(node) > few]
    sorts = any("Sort" in node["Node Type"] and _rows(node["Plans"][0]) > few for node in nodes)
    return json.dumps(plan, indent=1), whole, sorts


def _rows(node: dict[str, Any]) -> float:
    """Rows that this node has looked at."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    looked_at: float = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return looked_at


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)
