"""Rows as the API shows them; also what event streams send to pages."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from app.api.schemas.datasets import (
    ChangedImage,
    ClassOut,
    DatasetOut,
    DiffClasses,
    DiffOut,
    ImageOut,
    IssueImage,
    IssueOut,
    PlaceThen,
    SplitCounts,
    VersionOut,
    VersionRef,
)
from app.api.schemas.judging import EvaluationOut, PredictionOut
from app.api.schemas.models import FormatOut, ModelOut
from app.api.schemas.runs import Failure, LogLineOut, MetricOut, Progress, RunOut
from app.api.schemas.uploads import ReceiptCounts, ReceiptLine, UploadOut, UploadProgress
from app.api.schemas.weights import WeightsOut
from core.issues import Kind
from core.models import FORMATS
from core.paging import Page
from core.tables import (
    Dataset,
    DatasetVersion,
    Export,
    ExportStatus,
    LogLine,
    Metric,
    Prediction,
    ReceiptRow,
    Run,
    TrainedModel,
    Upload,
    VersionImage,
    VersionIssue,
    Weights,
    WeightsStatus,
)
from core.version_diff import Change, Difference, VersionDiff

API = "/api/v1"


def thumbnail_url(image_id: str) -> str:
    """Where the small picture is."""
    return f"{API}/images/{image_id}/thumbnail"


def version_out(version: DatasetVersion) -> VersionOut:
    """A dataset version."""
    classes = [
        ClassOut(name=name, label=label, counts=SplitCounts(**version.counts[name]))
        for label, name in enumerate(version.class_names)
    ]
    return VersionOut(
        id=version.id,
        dataset_id=version.dataset_id,
        number=version.number,
        base_version_id=version.base_version_id,
        fingerprint=version.fingerprint,
        test_fingerprint=version.test_fingerprint,
        created_at=version.created_at,
        classes=classes,
        image_count=version.image_count,
        issues=version.issues,
        notes=version.notes,
    )


def dataset_out(dataset: Dataset, latest: DatasetVersion | None) -> DatasetOut:
    """A dataset with its newest version."""
    return DatasetOut(
        id=dataset.id,
        name=dataset.name,
        description=dataset.description,
        tags=dataset.tags,
        created_at=dataset.created_at,
        updated_at=dataset.updated_at,
        latest_version=None if latest is None else version_out(latest),
    )


def image_out(place: VersionImage, class_names: list[str]) -> ImageOut:
    """A picture's place in a version; `.image` must be loaded."""
    image = place.image
    return ImageOut(
        id=image.id,
        sha256=image.sha256,
        filename=place.filename,
        class_name=class_names[place.label],
        split=place.split,
        group=place.group,
        width=image.width,
        height=image.height,
        format=image.format,
        thumbnail_url=thumbnail_url(image.id),
        display_url=f"{API}/images/{image.id}/display",
        original_url=f"{API}/images/{image.id}/original",
    )


def diff_out(before: DatasetVersion, after: DatasetVersion, diff: VersionDiff, page: Page[Change]) -> DiffOut:
    """What became different from one version to another."""
    return DiffOut(
        before=VersionRef(id=before.id, number=before.number),
        after=VersionRef(id=after.id, number=after.number),
        counts={Difference(kind): count for kind, count in diff.counts.items()},
        classes=DiffClasses(added=list(diff.classes_added), removed=list(diff.classes_removed)),
        items=[_changed_image(one) for one in page.items],
        next_cursor=page.next_cursor,
    )


def _changed_image(change: Change) -> ChangedImage:
    before, after = (
        place and PlaceThen(class_name=place.class_name, split=place.split, group=place.group)
        for place in (change.before, change.after)
    )
    return ChangedImage(
        id=change.image_id,
        filename=change.filename,
        before=before,
        after=after,
        thumbnail_url=thumbnail_url(change.image_id),
    )


def issue_out(issue: VersionIssue, places: Mapping[str, VersionImage], class_names: list[str]) -> IssueOut:
    """An issue with its pictures; `places` by picture id."""
    ids = [one for one in (issue.image_id, issue.other_id) if one is not None]
    images = [_issue_image(one, places.get(one), class_names) for one in ids]
    return IssueOut(kind=Kind(issue.kind), number=issue.number, images=images, score=issue.score, detail=issue.detail)


def _issue_image(image_id: str, place: VersionImage | None, class_names: list[str]) -> IssueImage:
    return IssueImage(
        id=image_id,
        thumbnail_url=thumbnail_url(image_id),
        filename=place and place.filename,
        class_name=class_names[place.label] if place else None,
        split=place and place.split,
        group=place and place.group,
    )


def upload_out(upload: Upload) -> UploadOut:
    """An upload."""
    return UploadOut(
        id=upload.id,
        dataset_id=upload.dataset_id,
        status=upload.status,
        received_bytes=upload.received_bytes,
        total_bytes=upload.total_bytes,
        progress=UploadProgress(files_done=upload.files_done, files_total=upload.files_total),
        receipt=ReceiptCounts(
            kept=upload.kept,
            fixed=upload.fixed,
            refused=upload.refused,
            skipped=upload.skipped,
            by_reason=upload.by_reason,
        ),
        dataset_version_id=upload.dataset_version_id,
        sample_seed=upload.sample_seed,
        train_preset=upload.train_preset,
        error=upload.error,
        created_at=upload.created_at,
        finished_at=upload.finished_at,
    )


def weights_out(weights: Weights) -> WeightsOut:
    """Uploaded weights."""
    return WeightsOut(
        id=weights.id,
        backbone=weights.backbone,
        filename=weights.filename,
        size_bytes=weights.size_bytes,
        status="checking" if weights.status == WeightsStatus.RECEIVED else weights.status.value,
        matched=weights.matched,
        missing=weights.missing,
        unexpected=weights.unexpected,
        unexpected_count=weights.unexpected_count,
        matched_by=weights.way,
        form=weights.form,
        error=weights.error,
        created_at=weights.created_at,
        finished_at=weights.finished_at,
    )


def receipt_line(row: ReceiptRow) -> ReceiptLine:
    """A line of a receipt."""
    return ReceiptLine(path=row.path, outcome=row.outcome, reason=row.reason, image_id=row.image_id)


def run_out(run: Run, model_id: str | None, looks: int) -> RunOut:
    """A run; `looks`: how many runs have been scored on its test."""
    return RunOut(
        id=run.id,
        name=run.name,
        notes=run.notes,
        tags=run.tags,
        status=run.status,
        dataset_id=run.dataset_id,
        dataset_version_id=run.dataset_version_id,
        dataset_title=run.dataset_title,
        group_id=run.group_id,
        retry_of=run.retry_of,
        preset=run.preset,
        config=run.config,
        attempt=run.attempt,
        progress=progress_out(run),
        cancel_requested=run.cancel_requested_at is not None,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        model_id=model_id,
        failure=None if run.failure is None else Failure.model_validate(run.failure),
        summary=run.summary,
        looks=looks,
        machine=run.machine,
        code_version=run.code_version,
        revision=run.revision,
    )


def progress_out(run: Run) -> Progress:
    """How far a run is."""
    return Progress.model_validate(run.progress)


def metric_out(metric: Metric) -> MetricOut:
    """One value of one epoch."""
    return MetricOut(
        phase=metric.phase,
        phase_index=metric.phase_index,
        epoch=metric.epoch,
        split=metric.split,
        name=metric.name,
        value=metric.value,
    )


def log_line_out(line: LogLine) -> LogLineOut:
    """One line of the log."""
    return LogLineOut(number=line.number, created_at=line.created_at, message=line.message)


def evaluation_out(body: Mapping[str, Any], run: Run, looks: int) -> EvaluationOut:
    """A run's evaluation. The trainer knows the pictures of the test only; its fingerprint is the row's."""
    facts = {"test_fingerprint": run.test_fingerprint, "looks": looks}
    return EvaluationOut.model_validate({"comparison": None, **body, **facts})


def prediction_out(row: Prediction, class_names: list[str], place: VersionImage | None) -> PredictionOut:
    """What a network said of a picture; `place` is None once the dataset was deleted."""
    return PredictionOut(
        image_id=row.image_id,
        filename=None if place is None else place.filename,
        true_class=class_names[row.true_label],
        predicted_class=class_names[row.predicted_label],
        confidence=row.confidence,
        true_probability=row.true_probability,
        probabilities=dict(zip(class_names, row.probabilities, strict=True)),
        thumbnail_url=None if place is None else thumbnail_url(row.image_id),
    )


def model_out(model: TrainedModel, exports: Mapping[str, Export], looks: int | None) -> ModelOut:
    """A model with the state of every format."""
    return ModelOut(
        id=model.id,
        run_id=model.run_id,
        name=model.name,
        notes=model.notes,
        tags=model.tags,
        dataset_title=model.dataset_title,
        backbone=model.backbone,
        class_names=model.class_names,
        image_size=model.image_size,
        resize=model.resize,
        test_accuracy=model.test_accuracy,
        evaluation=model.summary,
        looks=looks,
        formats=[_format_out(name, exports.get(name)) for name in FORMATS],
        created_at=model.created_at,
    )


def _format_out(name: str, export: Export | None) -> FormatOut:
    if export is None:
        return FormatOut(format=name, status="none")
    status = "building" if export.status == ExportStatus.QUEUED else export.status.value
    return FormatOut(
        format=name,
        status=status,
        size_bytes=export.size_bytes,
        sha256=export.sha256,
        agreement=export.agreement,
        error=export.error,
    )


def csv_lines(header: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """CSV (RFC 4180), line by line. Texts that a spreadsheet would run as a formula get an apostrophe before them."""
    for row in chain([header], rows):
        yield ",".join(_csv_cell(value) for value in row) + "\r\n"


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    text = str(value)
    if isinstance(value, str) and text[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        text = f"'{text}"
    quoted = any(character in text for character in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if quoted else text
