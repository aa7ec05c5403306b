"""A hundred thousand rows in every table that lists read, written by the database itself within seconds."""

import re
from datetime import UTC, datetime

from sqlalchemy import Table, text
from sqlalchemy.engine import Connection

from core.database import Database
from core.issues import Kind
from core.tables import (
    Base,
    BatchStatus,
    Decision,
    LabelCheckStatus,
    NearCheckStatus,
    Outcome,
    RunStatus,
    Split,
    UploadStatus,
    WeightsStatus,
)

MANY = 100_000
OWNER = "owner 1"  # of ten, who have equally many
RUN = "r-0000000"
VERSION = "v-0000000"
UPLOAD = "u-0000000"
DATASET = "d-0000000"
GROUP = "g-00000"
CHECK = "l-0000000"
BATCH = "b-0000000"
MODEL = "m-0000000"

# Values by table and column, as SQL over n = 0 ... MANY - 1. `{id:x}` is the id of row x of the table whose ids begin with that letter.
_OWNER = "'owner ' || (n % 10)"
_STATUS = "CASE WHEN n % 1000 = 1 THEN '{going}' WHEN n % 7 = 0 THEN '{bad}' ELSE '{good}' END"
_SPLIT = f"CASE (n / 10) % 5 WHEN 0 THEN '{Split.TEST}' WHEN 1 THEN '{Split.VALIDATION}' ELSE '{Split.TRAIN}' END"
_OUTCOME = f"CASE WHEN n % 50 = 0 THEN '{Outcome.REFUSED}' ELSE '{Outcome.KEPT}' END"
_RUN_STATUS = _STATUS.format(going=RunStatus.QUEUED, bad=RunStatus.FAILED, good=RunStatus.SUCCEEDED)
_UPLOAD_STATUS = _STATUS.format(going=UploadStatus.RECEIVED, bad=UploadStatus.REJECTED, good=UploadStatus.READY)
_WEIGHTS_STATUS = _STATUS.format(going=WeightsStatus.RECEIVED, bad=WeightsStatus.REJECTED, good=WeightsStatus.READY)
_SCORE = "CASE WHEN n % 3 > 0 THEN (n % 1009) / 1009.0 END"
_DELETED = "CASE WHEN n % 2000 = 3 THEN {now} END"
VALUES: dict[str, dict[str, str]] = {
    "datasets": {"id": "{d:n}", "owner_id": _OWNER, "name": "'name ' || (n % 977)"},
    "dataset_versions": {"id": "{v:n}", "owner_id": _OWNER, "dataset_id": "{d:n / 20}", "number": "n % 20"},
    "images": {"id": "{i:n}", "owner_id": _OWNER, "sha256": "{s:n}"},
    "version_images": {
        "version_id": f"CASE WHEN n < 60000 THEN '{VERSION}' ELSE {{v:n / 100}} END",
        "ordinal": "n",
        "image_id": "{i:n}",
        "label": "n % 10",
        "split": _SPLIT,
    },
    "uploads": {"id": "{u:n}", "owner_id": _OWNER, "dataset_id": "{d:n / 20}", "status": _UPLOAD_STATUS},
    "receipt_rows": {
        "upload_id": f"CASE WHEN n < 60000 THEN '{UPLOAD}' ELSE {{u:n / 100}} END",
        "ordinal": "n",
        "outcome": _OUTCOME,
    },
    "runs": {
        "id": "{r:n}",
        "owner_id": _OWNER,
        "dataset_id": "{d:n / 500}",
        "name": "'name ' || (n % 977)",
        "status": _RUN_STATUS,
        "group_id": f"CASE WHEN n % 50 = 1 THEN '{GROUP}' END",
        "test_accuracy": _SCORE,
        "test_macro_f1": _SCORE,
        "test_loss": _SCORE,
        "validation_accuracy": _SCORE,
        "deleted_at": _DELETED,
        "test_fingerprint": "{s:n / 100}",
    },
    "models": {
        "id": "{m:n}",
        "owner_id": _OWNER,
        "run_id": "{r:n}",
        "name": "'name ' || (n % 977)",
        "test_accuracy": _SCORE,
        "deleted_at": _DELETED,
    },
    "metrics": {
        "run_id": "{r:n / 400}",
        "phase_index": "n % 2",
        "epoch": "1 + n % 400",
        "split": f"'{Split.TRAIN}'",
        "name": "'loss'",
        "phase": "'frozen'",
        "revision": "n % 400",
    },
    "log_lines": {"run_id": f"CASE WHEN n < 10000 THEN '{RUN}' ELSE {{r:n / 100}} END", "number": "n", "revision": "n"},
    "predictions": {
        "run_id": f"CASE WHEN n < 60000 THEN '{RUN}' ELSE {{r:n / 100}} END",
        "phase": "'frozen'",
        "split": f"'{Split.TEST}'",
        "image_id": "{i:n}",
        "true_label": "n % 10",
        "predicted_label": "CASE WHEN n % 13 = 0 THEN (n + 1) % 10 ELSE n % 10 END",
        "true_probability": "(n % 1009) / 1009.0",
    },
    "weights": {"id": "{w:n}", "owner_id": _OWNER, "status": _WEIGHTS_STATUS},
    "version_issues": {
        "version_id": f"CASE WHEN n < 60000 THEN '{VERSION}' ELSE {{v:n / 100}} END",
        "kind": f"CASE WHEN n % 10 = 0 THEN '{Kind.LEAKS}' ELSE '{Kind.NEAR_DUPLICATES}' END",
        "number": "n",
        "image_id": "{i:n}",
        "other_id": "{i:n / 2}",
    },
    "label_checks": {"id": "{l:n}", "owner_id": _OWNER, "version_id": "{v:n}", "status": f"'{LabelCheckStatus.READY}'"},
    "near_checks": {"id": "{k:n}", "owner_id": _OWNER, "version_id": "{v:n}", "status": f"'{NearCheckStatus.READY}'"},
    "label_suggestions": {
        "check_id": f"CASE WHEN n < 60000 THEN '{CHECK}' ELSE {{l:n / 100}} END",
        "rank": "n",
        "image_id": "{i:n}",
        "likely": "n % 50 = 0",
    },
    "label_decisions": {
        "dataset_id": "{d:n / 20}",
        "image_id": "{i:n}",
        "owner_id": _OWNER,
        "decision": f"'{Decision.RELABEL}'",
    },
    "batch_predictions": {
        "id": "{b:n}",
        "owner_id": _OWNER,
        "model_id": "{m:n / 50}",
        "status": f"'{BatchStatus.READY}'",
    },
    "batch_rows": {"batch_id": f"CASE WHEN n < 60000 THEN '{BATCH}' ELSE {{b:n / 100}} END", "ordinal": "n"},
}


def fill(database: Database) -> None:
    """Fill every table."""
    with database.writer.begin() as connection:
        _numbers(connection)
        now = f"'{datetime.now(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
        if not database.is_sqlite:
            now = f"CAST({now} AS TIMESTAMP WITH TIME ZONE)"
            connection.execute(text("SET LOCAL session_replication_role = replica"))  # no look-ups of foreign keys
        people = f"SELECT {_OWNER}, {now}, {_OWNER}, n = 0 FROM numbers WHERE n < 10"
        connection.execute(text(f"INSERT INTO users (id, created_at, name, is_admin) {people}"))
        for name, given in VALUES.items():
            connection.execute(text(_insert(Base.metadata.tables[name], given, now)))
        if (
            not database.is_sqlite
        ):  # PostgreSQL counts what it has by itself, SQLite only when told, and nobody tells it
            connection.execute(text("ANALYZE"))


def _numbers(connection: Connection) -> None:
    rows = f"SELECT n FROM generate_series(0, {MANY - 1}) AS n"
    if connection.dialect.name == "sqlite":
        steps = f"SELECT 0 UNION ALL SELECT n + 1 FROM steps WHERE n < {MANY - 1}"
        rows = f"WITH RECURSIVE steps (n) AS ({steps}) SELECT n FROM steps"
    connection.execute(text(f"CREATE TEMPORARY TABLE numbers AS {rows}"))


def _insert(table: Table, given: dict[str, str], now: str) -> str:
    columns = [column for column in table.columns if column.name in given or not column.nullable]
    values = [given.get(column.name, _anything(column.type.__class__.__name__, now)) for column in columns]
    values = [value.replace("{now}", now) for value in values]
    names = ", ".join(f'"{column.name}"' for column in columns)
    return f"INSERT INTO {table.name} ({names}) SELECT {_with_ids(', '.join(values))} FROM numbers ORDER BY n"


def _anything(kind: str, now: str) -> str:
    """A value for a column that no list looks at."""
    if kind == "UtcDateTime":
        return now
    return {"JSON": "'{}'", "Integer": "0", "BigInteger": "0", "Float": "0.5", "Double": "0.5"}.get(kind, "''")


def _with_ids(values: str) -> str:
    """`{r:n / 2}` becomes the id `r-0000042`, in the words of both databases."""
    return re.sub(r"\{(\w):([^}]+)\}", r"'\1-' || substr(CAST(10000000 + \2 AS VARCHAR(20)), 2)", values)
