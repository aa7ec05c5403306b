"""Models, answers and batch predictions."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from app.api.schemas.base import Given, Name, Notes, Tags


class ModelPatch(Given):
    """Changes to a model."""

    name: Name | None = None
    notes: Notes | None = None
    tags: Tags | None = None


class FormatOut(BaseModel):
    """One file format of a model."""

    format: str
    status: Literal["none", "building", "ready", "failed"]
    size_bytes: int | None = None
    sha256: str | None = None
    agreement: dict[str, Any] | None = None
    error: str | None = None


class ModelOut(BaseModel):
    """A trained network. `looks`: how many runs have been scored on its test pictures; null once its run is deleted."""

    id: str
    run_id: str | None
    name: str
    notes: str
    tags: list[str]
    dataset_title: str
    backbone: str
    class_names: list[str]
    image_size: list[int]
    resize: str
    test_accuracy: float | None
    evaluation: dict[str, Any]
    looks: int | None
    formats: list[FormatOut]
    created_at: datetime


class PredictedOut(BaseModel):
    """The answer for one picture, or the `error` for one that cannot be read."""

    filename: str
    class_name: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    known_score: float | None = None
    verdict: Literal["confident", "unsure", "unknown"] | None = None
    error: str | None = None


class PredictionsOut(BaseModel):
    """Answers in the order of the pictures."""

    predictions: list[PredictedOut]


class BatchProgress(BaseModel):
    """How far a batch prediction is; `pictures_total` is unknown until the archive was opened."""

    pictures_done: int
    pictures_total: int | None


class BatchPredictionOut(BaseModel):
    """What a model says of every picture of an archive or of a dataset version; the answers are in its result."""

    id: str
    model_id: str
    dataset_version_id: str | None
    filename: str
    status: Literal["queued", "running", "ready", "failed", "cancelled"]
    progress: BatchProgress
    refused: int
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class BatchPredictionsOut(BaseModel):
    """The latest batch predictions of a model."""

    items: list[BatchPredictionOut]
