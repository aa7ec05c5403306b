"""Uploads, samples and receipts."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.api.schemas.base import Given, Name, Text
from core.tables import Outcome, UploadStatus
from core.uploads import LARGEST_SEED


class UploadProgress(BaseModel):
    """`files_total` is null while it is not known."""

    files_done: int
    files_total: int | None


class ReceiptCounts(BaseModel):
    """What became of the files, by number."""

    kept: int
    fixed: int
    refused: int
    skipped: int
    by_reason: dict[str, Any]


class SampleIn(Given):
    """A sample set to be drawn by Thaw; `train_preset`: a run with it is queued as soon as the set is ready, null for none."""

    name: Name | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="The same seed gives the same pictures.")] | None = (
        None
    )
    train_preset: Annotated[Text, Field(max_length=60)] | None = None


class UploadOut(BaseModel):
    """An upload on its way to a dataset version.

    `sample_seed`: of a sample set, which Thaw draws itself. `train_preset`: a run with it is queued once the version is there.
    """

    id: str
    dataset_id: str
    status: UploadStatus
    received_bytes: int
    total_bytes: int | None
    progress: UploadProgress
    receipt: ReceiptCounts
    dataset_version_id: str | None
    sample_seed: int | None
    train_preset: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class FilesAdded(BaseModel):
    """What a batch brought: `repeated` files were there already."""

    added: int
    repeated: int
    upload: UploadOut


class ReceiptLine(BaseModel):
    """What became of one file."""

    path: str
    outcome: Outcome
    reason: str
    image_id: str | None
