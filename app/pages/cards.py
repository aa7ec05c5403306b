"""Rows and cards that several pages show: datasets, uploads, runs, models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.pages.progress import Step, epochs_by_phase, status_words, steps
from app.wording import Z
from core.backbones import BACKBONES
from core.catalog import latest_versions
from core.runs import looks, model_looks
from core.tables import Dataset, DatasetVersion, Run, TrainedModel, Upload, UploadStatus, VersionImage
from core.uploads import SAMPLE_PICTURES

MOSAIC = 4


@dataclass(frozen=True)
class DatasetCard:
    """A dataset, its newest version (None before the first upload is ready) and up to four of its pictures."""

    dataset: Dataset
    version: DatasetVersion | None
    pictures: Sequence[str]


@dataclass(frozen=True)
class Score:
    """A test accuracy, never without its interval.

    Attributes:
        accuracy: share of the test pictures.
        interval: 95 %.
        count: test pictures.
        looks: runs that have been scored on them; None once that cannot be counted.
    """

    accuracy: float
    interval: tuple[float, float]
    count: int
    looks: int | None


@dataclass(frozen=True)
class RunRow:
    """A run in a table."""

    run: Run
    badge: str
    words: str
    steps: Sequence[Step]
    score: Score | None

    @property
    def bars(self) -> Sequence[Step]:
        """The phases, which have a bar in a table."""
        return [step for step in self.steps if step.kind]


@dataclass(frozen=True)
class UploadRow:
    """An upload on its way."""

    upload: Upload
    dataset_name: str
    words: str
    value: float
    most: float


@dataclass(frozen=True)
class ModelRow:
    """A model in a table."""

    model: TrainedModel
    backbone: str
    score: Score | None
    size_bytes: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of its score."""
        return self.score.interval if self.score else None


def score_of(summary: Mapping[str, Any], looks: int | None) -> Score | None:
    """The score in a run's or model's summary; None before there is one."""
    accuracy = summary.get("test_accuracy")
    if accuracy is None:
        return None
    low, high = summary["test_accuracy_interval"]
    return Score(accuracy, (low, high), _count_from(accuracy, (low, high)), looks)


def _count_from(accuracy: float, pair: Sequence[float]) -> int:
    """How many pictures a Wilson interval was computed from: its middle and its width give the count back."""
    middle, half = (pair[0] + pair[1]) / 2, (pair[1] - pair[0]) / 2
    # z^2 / n, from the middle; near 0.5 that is 0 / 0, so there from the width
    by_middle = (accuracy - middle) / (middle - 0.5) if abs(middle - 0.5) > 0.01 else 0.0
    spread = by_middle or 4 * half * half / max(1e-9, 1 - 4 * half * half)
    return round(Z * Z / spread) if spread > 0 else 0


def backbone_title(backbone: str) -> str:
    """The name for people of a backbone; its id when the catalogue has it no more."""
    found = BACKBONES.get(backbone)
    return found.title if found else backbone


def mosaic(session: Session, versions: Sequence[DatasetVersion]) -> dict[str, list[str]]:
    """Up to four pictures of each version, one of each of its first classes: version id -> picture ids."""
    result: dict[str, list[str]] = {}
    for version in versions:
        first = (
            select(func.min(VersionImage.ordinal))
            .where(VersionImage.version_id == version.id, VersionImage.label < MOSAIC)
            .group_by(VersionImage.label)
        )
        query = select(VersionImage.image_id).where(
            VersionImage.version_id == version.id, VersionImage.ordinal.in_(first)
        )
        result[version.id] = list(session.scalars(query.order_by(VersionImage.ordinal)))
    return result


def dataset_cards(session: Session, datasets: Sequence[Dataset]) -> list[DatasetCard]:
    """Cards of the datasets of one page."""
    versions = latest_versions(session, [one.id for one in datasets])
    pictures = mosaic(session, list(versions.values()))
    found = [(one, versions.get(one.id)) for one in datasets]
    return [DatasetCard(one, version, pictures[version.id] if version else []) for one, version in found]


def run_rows(session: Session, runs: Sequence[Run]) -> list[RunRow]:
    """Rows of the runs of one page."""
    epochs = epochs_by_phase(session, [run.id for run in runs])
    seen = looks(session, runs)
    return [
        RunRow(run, *status_words(run), steps(run, epochs[run.id]), score_of(run.summary, seen[run.id])) for run in runs
    ]


def upload_row(upload: Upload, dataset_name: str) -> UploadRow:
    """An upload with words for its status."""
    if upload.status == UploadStatus.RECEIVING:
        return UploadRow(upload, dataset_name, "Receiving", upload.received_bytes, upload.total_bytes or 0)
    if upload.status == UploadStatus.RECEIVED:
        return UploadRow(upload, dataset_name, "Received, waiting for a worker", 0, 1)
    if upload.sample_seed is not None and upload.files_total is None:
        return UploadRow(upload, dataset_name, f"Drawing {SAMPLE_PICTURES} pictures", 0, 0)
    total = upload.files_total or 0
    words = f"Checking {upload.files_done:,} of {total:,}" if total else f"Checking, {upload.files_done:,} so far"
    return UploadRow(upload, dataset_name, words, upload.files_done, total)


def upload_rows(session: Session, uploads: Sequence[Upload]) -> list[UploadRow]:
    """Rows of the uploads of one page."""
    query = select(Dataset.id, Dataset.name).where(Dataset.id.in_([one.dataset_id for one in uploads]))
    names = {row.id: row.name for row in session.execute(query)}
    return [upload_row(one, names.get(one.dataset_id, "")) for one in uploads]


def model_rows(
    session: Session, models: Sequence[TrainedModel], sizes: Mapping[str, int] | None = None
) -> list[ModelRow]:
    """Rows of the models of one page; `sizes` are bytes of their SavedModel by model id."""
    known, seen = sizes or {}, model_looks(session, models)
    return [
        ModelRow(one, backbone_title(one.backbone), score_of(one.summary, seen.get(one.id)), known.get(one.id))
        for one in models
    ]
