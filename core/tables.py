"""SQLAlchemy classes and status enums. ("Model" is kept for trained networks: see `TrainedModel`.)

Times people see are UTC datetimes; lease times are seconds by the database's clock (`core.database.database_now`).
Every table that holds a person's things has its owner.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from core.ids import new_id

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A datetime with time zone UTC, also on SQLite, which has none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse naive datetimes: they are always a bug."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"A datetime without time zone was given: {value!r}.")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """SQLite gives naive values back; they are UTC."""
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def _status(enum: type[StrEnum]) -> Enum:
    # stored as text, not as a database enum: adding a status is then no migration of a type
    return Enum(
        enum, native_enum=False, length=20, values_callable=lambda members: [member.value for member in members]
    )


class Split(StrEnum):
    """Where a picture is used."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class UploadStatus(StrEnum):
    """Life of an upload."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    INGESTING = "ingesting"
    READY = "ready"
    REJECTED = "rejected"


class Outcome(StrEnum):
    """What became of an uploaded file."""

    KEPT = "kept"
    FIXED = "fixed"
    REFUSED = "refused"
    SKIPPED = "skipped"


class RunStatus(StrEnum):
    """Life of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExportStatus(StrEnum):
    """Life of one file format of a model."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class WeightsStatus(StrEnum):
    """Life of uploaded weights; `received` is told as "checking", which it will be in a moment."""

    RECEIVED = "received"
    CHECKING = "checking"
    READY = "ready"
    REJECTED = "rejected"


class LabelCheckStatus(StrEnum):
    """Life of a search for label errors."""

    QUEUED = "queued"
    CHECKING = "checking"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchStatus(StrEnum):
    """Life of a batch prediction."""

    QUEUED = "queued"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Decision(StrEnum):
    """What a person said of a picture's label."""

    RELABEL = "relabel"
    DISMISS = "dismiss"


class Scope(StrEnum):
    """What an API token may do."""

    READ = "read"
    WRITE = "write"


class Base(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {str: String(255), dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class Identified:
    """A UUIDv7 primary key and when the row was made."""

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Leased:
    """The columns of a row that a worker works on; the verbs are in `core.leases`."""

    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_expires_at: Mapped[float | None] = mapped_column(Float)
    cancel_requested_at: Mapped[float | None] = mapped_column(Float)
    rung_at: Mapped[float | None] = mapped_column(Float)


class User(Identified, Base):
    """A person. Local mode has one, `local`, without a password."""

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(String(80), unique=True)
    password_hash: Mapped[str | None]
    is_admin: Mapped[bool] = mapped_column(default=False)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class BrowserSession(Identified, Base):
    """A signed-in browser; the cookie's value is stored hashed."""

    __tablename__ = "sessions"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_agent: Mapped[str] = mapped_column(String(255), default="")
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class StartLink(Identified, Base):
    """A one-time link that becomes a session; stored hashed."""

    __tablename__ = "start_links"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiToken(Identified, Base):
    """An API token: shown once, stored hashed."""

    __tablename__ = "tokens"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[Scope] = mapped_column(_status(Scope), default=Scope.WRITE)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Dataset(Identified, Base):
    """A named collection; its frozen lists are its versions."""

    __tablename__ = "datasets"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    __table_args__ = (Index(None, "owner_id", "id"), Index(None, "owner_id", "name", "id"))


class DatasetVersion(Identified, Base):
    """A frozen list of pictures with class names and splits.

    `class_names` is the stored order: a label is an index into it. `counts` maps class name to {train, validation, test}.
    `base_version_id`: the version it was made from by changing it (deleted perhaps); None for one that an upload made.
    """

    __tablename__ = "dataset_versions"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    base_version_id: Mapped[str | None] = mapped_column(String(36))
    number: Mapped[int]
    fingerprint: Mapped[str] = mapped_column(String(64))
    test_fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    class_names: Mapped[list[Any]]
    counts: Mapped[dict[str, Any]]
    issues: Mapped[dict[str, Any]]
    notes: Mapped[list[Any]]
    image_count: Mapped[int]
    dataset: Mapped[Dataset] = relationship(lazy="raise")
    __table_args__ = (UniqueConstraint("dataset_id", "number"), Index(None, "dataset_id", "id"))


class Image(Identified, Base):
    """A picture, stored once per owner by the SHA-256 of its bytes. Width and height are those after orientation."""

    __tablename__ = "images"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    width: Mapped[int]
    height: Mapped[int]
    format: Mapped[str] = mapped_column(String(12))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (UniqueConstraint("owner_id", "sha256"),)


class ImageLook(Base):
    """What a picture looks like (`worker/ingest/looks.py`): hashes and a grey copy to find near duplicates by, `core.quality` flags,
    camera and time.
    """

    __tablename__ = "image_looks"
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    hashes: Mapped[bytes] = mapped_column(LargeBinary)
    grey: Mapped[bytes] = mapped_column(LargeBinary)
    flags: Mapped[int]
    camera: Mapped[str | None] = mapped_column(String(120))
    taken_at: Mapped[float | None] = mapped_column(Float)


class NearPair(Base):
    """Two pictures that are one picture cropped, mirrored, encoded again: `image_id` < `other_id`; `score` is their correlation."""

    __tablename__ = "near_pairs"
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    other_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True, index=True)
    score: Mapped[float]


class VersionIssue(Base):
    """Something wrong or odd in a dataset version (`core.issues`); with one picture, two, or none (a class)."""

    __tablename__ = "version_issues"
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_id: Mapped[str | None] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    other_id: Mapped[str | None] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    score: Mapped[float | None]
    detail: Mapped[str] = mapped_column(Text, default="")


class VersionImage(Base):
    """A picture's place in a dataset version; `ordinal` counts from 0 in a stable order."""

    __tablename__ = "version_images"
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), index=True)
    label: Mapped[int]
    split: Mapped[Split] = mapped_column(_status(Split))
    group: Mapped[str | None] = mapped_column("group_name", String(255))
    filename: Mapped[str] = mapped_column(String(1024))
    image: Mapped[Image] = relationship(lazy="raise")
    __table_args__ = (
        UniqueConstraint("version_id", "image_id"),
        Index(None, "version_id", "label", "ordinal"),
        Index(None, "version_id", "split", "ordinal"),
    )


class Upload(Identified, Leased, Base):
    """Bytes that a person sends, on their way to a dataset version.

    `sample_seed`: nothing is sent, the worker draws a sample set. `train_preset`: a run with it is queued once the version exists.
    """

    __tablename__ = "uploads"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    status: Mapped[UploadStatus] = mapped_column(_status(UploadStatus), default=UploadStatus.RECEIVING)
    received_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    files_done: Mapped[int] = mapped_column(default=0)
    files_total: Mapped[int | None]
    kept: Mapped[int] = mapped_column(default=0)
    fixed: Mapped[int] = mapped_column(default=0)
    refused: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    by_reason: Mapped[dict[str, Any]] = mapped_column(default=dict)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id", ondelete="SET NULL"))
    sample_seed: Mapped[int | None]
    train_preset: Mapped[str | None] = mapped_column(String(60))
    error: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(default=0)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "dataset_id", "id"),
    )


class UploadFile(Identified, Base):
    """One received file: an archive, or a picture with its relative path. Bytes are in `incoming/<upload id>/<id>`."""

    __tablename__ = "upload_files"
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"))
    path: Mapped[str] = mapped_column(String(1024))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (UniqueConstraint("upload_id", "path", "sha256"),)


class Transfer(Identified, Base):
    """One file that comes in pieces, over any number of connections (tus); the verbs are in `core.transfers`.

    `offset_bytes` are on the disk for certain. `writer` is the request that may write now, until `locked_until` (the database's
    clock). `completes`: the upload has no other file, and is complete with it. The bytes are in `incoming/<upload id>/<id>`; once
    whole, `UploadFile` has the same id.
    """

    __tablename__ = "transfers"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    path: Mapped[str] = mapped_column(String(1024))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    offset_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    metadata_header: Mapped[str] = mapped_column(Text, default="")
    completes: Mapped[bool]
    writer: Mapped[str | None] = mapped_column(String(36))
    locked_until: Mapped[float | None] = mapped_column(Float)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (Index(None, "owner_id", "id"), Index(None, "expires_at"))


class ReceiptRow(Base):
    """What became of one file of an upload."""

    __tablename__ = "receipt_rows"
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(String(1024))
    outcome: Mapped[Outcome] = mapped_column(_status(Outcome))
    code: Mapped[str] = mapped_column(String(40), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    image_id: Mapped[str | None] = mapped_column(ForeignKey("images.id", ondelete="SET NULL"), index=True)
    __table_args__ = (Index(None, "upload_id", "outcome", "ordinal"),)


class Run(Identified, Leased, Base):
    """One training, from queued to its end. `revision` rises with every write of its supervisor."""

    __tablename__ = "runs"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    dataset_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="SET NULL"), index=True
    )
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="SET NULL"))
    dataset_title: Mapped[str] = mapped_column(String(240))
    name: Mapped[str] = mapped_column(String(200))
    notes: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    status: Mapped[RunStatus] = mapped_column(_status(RunStatus), default=RunStatus.QUEUED)
    group_id: Mapped[str | None] = mapped_column(String(36))
    retry_of: Mapped[str | None] = mapped_column(String(36))
    preset: Mapped[str | None] = mapped_column(String(60))
    config: Mapped[dict[str, Any]]
    batch_size: Mapped[int]
    halvings: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    failure: Mapped[dict[str, Any] | None]
    machine: Mapped[dict[str, Any]] = mapped_column(default=dict)
    test_accuracy: Mapped[float | None]
    test_macro_f1: Mapped[float | None]
    test_loss: Mapped[float | None]
    validation_accuracy: Mapped[float | None]
    test_fingerprint: Mapped[str] = mapped_column(String(64))
    code_version: Mapped[str] = mapped_column(String(60))
    revision: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "id"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "owner_id", "name", "id"),
        Index(None, "owner_id", "test_accuracy", "id"),
        Index(None, "owner_id", "test_macro_f1", "id"),
        Index(None, "owner_id", "test_loss", "id"),
        Index(None, "owner_id", "validation_accuracy", "id"),
        Index(None, "test_fingerprint", "status"),
        Index(None, "dataset_id", "id"),
        Index(None, "group_id", "id"),
        Index(None, "deleted_at"),
    )


class Metric(Base):
    """One value of one epoch. `epoch` counts from 1 through all phases."""

    __tablename__ = "metrics"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    phase_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    split: Mapped[str] = mapped_column(String(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    phase: Mapped[str] = mapped_column(String(12))
    value: Mapped[float]
    revision: Mapped[int]
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class LogLine(Base):
    """One line of a run's log."""

    __tablename__ = "log_lines"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message: Mapped[str] = mapped_column(Text)
    revision: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class RunDocument(Base):
    """What a trainer left that pages read whole: `layers`, `evaluation`, `result`."""

    __tablename__ = "run_documents"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    body: Mapped[Any] = mapped_column(JSON)


class Prediction(Base):
    """What one phase's network said of one picture. `confidence` is the probability of the predicted class."""

    __tablename__ = "predictions"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(String(12), primary_key=True)
    split: Mapped[Split] = mapped_column(_status(Split), primary_key=True)
    image_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    true_label: Mapped[int]
    predicted_label: Mapped[int]
    confidence: Mapped[float]
    true_probability: Mapped[float]
    probabilities: Mapped[list[Any]]
    __table_args__ = (
        # a cell of the confusion matrix, its worst pictures first
        Index(
            "ix_predictions_cell",
            "run_id",
            "phase",
            "split",
            "true_label",
            "predicted_label",
            "true_probability",
            "image_id",
        ),
        Index(None, "run_id", "phase", "split", "true_probability", "image_id"),
    )


class TrainedModel(Identified, Base):
    """A trained network in the catalogue; exists once its run has succeeded."""

    __tablename__ = "models"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    notes: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    dataset_title: Mapped[str] = mapped_column(String(240))
    backbone: Mapped[str] = mapped_column(String(60))
    class_names: Mapped[list[Any]]
    image_size: Mapped[list[Any]]
    resize: Mapped[str] = mapped_column(String(12))
    test_accuracy: Mapped[float | None]
    summary: Mapped[dict[str, Any]]
    storage_key: Mapped[str] = mapped_column(String(255))
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "owner_id", "id"),
        Index(None, "owner_id", "name", "id"),
        Index(None, "owner_id", "test_accuracy", "id"),
        Index(None, "deleted_at"),
    )


class Export(Identified, Leased, Base):
    """One file format of a model."""

    __tablename__ = "exports"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    format: Mapped[str] = mapped_column(String(20))
    status: Mapped[ExportStatus] = mapped_column(_status(ExportStatus), default=ExportStatus.QUEUED)
    storage_key: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    agreement: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (UniqueConstraint("model_id", "format"), Index(None, "status", "lease_expires_at"))


class Weights(Identified, Leased, Base):
    """A file of weights that a person sent, for one backbone; checked by a worker, kept as plain arrays (docs/decisions)."""

    __tablename__ = "weights"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    backbone: Mapped[str] = mapped_column(String(60))
    filename: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[WeightsStatus] = mapped_column(_status(WeightsStatus), default=WeightsStatus.RECEIVED)
    form: Mapped[str | None] = mapped_column(String(20))
    way: Mapped[str | None] = mapped_column(String(20))
    matched: Mapped[int] = mapped_column(default=0)
    missing: Mapped[list[Any]] = mapped_column(default=list)
    unexpected: Mapped[list[Any]] = mapped_column(default=list)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "owner_id", "id"),
    )


class LabelCheck(Identified, Leased, Base):
    """A search for label errors in one dataset version: train and validation, never test."""

    __tablename__ = "label_checks"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id", ondelete="CASCADE"), unique=True)
    status: Mapped[LabelCheckStatus] = mapped_column(_status(LabelCheckStatus), default=LabelCheckStatus.QUEUED)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (Index(None, "status", "lease_expires_at"), Index(None, "owner_id", "status", "id"))


class LabelSuggestion(Base):
    """A picture whose label a check doubts; `rank` counts from 0, the least believable label first.

    `likely`: confident learning takes it for an error; the others are the next in the list. Probabilities are out of fold.
    """

    __tablename__ = "label_suggestions"
    check_id: Mapped[str] = mapped_column(ForeignKey("label_checks.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    given_class: Mapped[str] = mapped_column(String(255))
    suggested_class: Mapped[str] = mapped_column(String(255))
    given_probability: Mapped[float]
    suggested_probability: Mapped[float]
    likely: Mapped[bool]
    __table_args__ = (UniqueConstraint("check_id", "image_id"),)


class LabelDecision(Base):
    """What a person said of a picture's label in a dataset, kept for its later versions.

    `class_name`: the class it goes to, or the one that a dismissal says is right. A dismissal holds as long as the picture has that class.
    """

    __tablename__ = "label_decisions"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    decision: Mapped[Decision] = mapped_column(_status(Decision))
    class_name: Mapped[str] = mapped_column(String(255))
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    __table_args__ = (Index(None, "image_id"),)


class BatchPrediction(Identified, Leased, Base):
    """What a model says of every picture of an archive (`filename`) or of a dataset version."""

    __tablename__ = "batch_predictions"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    dataset_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="SET NULL"), index=True
    )
    filename: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[BatchStatus] = mapped_column(_status(BatchStatus), default=BatchStatus.QUEUED)
    pictures_done: Mapped[int] = mapped_column(default=0)
    pictures_total: Mapped[int | None]
    refused: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(default=0)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index(None, "status", "lease_expires_at"),
        Index(None, "owner_id", "status", "id"),
        Index(None, "model_id", "id"),
    )


class BatchRow(Base):
    """The answer for one picture of a batch prediction, or why there is none."""

    __tablename__ = "batch_rows"
    batch_id: Mapped[str] = mapped_column(ForeignKey("batch_predictions.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(String(1024))
    label: Mapped[int | None]
    probabilities: Mapped[list[Any] | None]
    known_score: Mapped[float | None]
    verdict: Mapped[str | None] = mapped_column(String(12))
    error: Mapped[str | None] = mapped_column(Text)


class WorkerRow(Base):
    """A worker process, with a heartbeat every 10 s by the database's clock."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    queues: Mapped[list[Any]]
    devices: Mapped[list[Any]]
    busy: Mapped[bool] = mapped_column(default=False)
    heartbeat_at: Mapped[float]


class Singleton(Base):
    """A lease on being the only one, e.g. the sweeper."""

    __tablename__ = "singletons"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    expires_at: Mapped[float]


class IdempotencyKey(Base):
    """The answer to a POST that carried an Idempotency-Key; `status_code` is null while it is being worked on."""

    __tablename__ = "idempotency_keys"
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int | None]
    body: Mapped[Any] = mapped_column(JSON, nullable=True)
    location: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
