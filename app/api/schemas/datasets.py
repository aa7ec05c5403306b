"""Datasets, their versions, pictures and issues."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.api.schemas.base import Given, Name, Notes, Tags, Text
from core.issues import Kind
from core.tables import Split
from core.version_changes import VersionChanges
from core.version_diff import Difference


class DatasetIn(Given):
    """A dataset to be made."""

    name: Name
    description: Notes = ""


class DatasetPatch(Given):
    """Changes to a dataset."""

    name: Name | None = None
    description: Notes | None = None
    tags: Tags | None = None


class DatasetOut(BaseModel):
    """A named collection; `latest_version` is null before the first upload is ready."""

    id: str
    name: str
    description: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime
    latest_version: "VersionOut | None"


class SplitCounts(BaseModel):
    """Pictures per split."""

    train: int
    validation: int
    test: int


class ClassOut(BaseModel):
    """A class name, its integer label, and its pictures."""

    name: str
    label: int
    counts: SplitCounts


class VersionOut(BaseModel):
    """A frozen list of pictures with class names and splits. `base_version_id`: what it was made from, null after an upload."""

    id: str
    dataset_id: str
    number: int
    base_version_id: str | None
    fingerprint: str
    test_fingerprint: str
    created_at: datetime
    classes: list[ClassOut]
    image_count: int
    issues: dict[str, Any]
    notes: list[str]


class VersionIn(Given):
    """A new version made from any version of the dataset (without a base: the newest). No change takes back what came after it."""

    base_version_id: Annotated[Text, Field(max_length=36)] | None = None
    changes: VersionChanges = VersionChanges()


class DiffClasses(BaseModel):
    """Class names that came or went; a renamed class did both."""

    added: list[str]
    removed: list[str]


class PlaceThen(BaseModel):
    """Where a picture was in one of two versions."""

    class_name: str
    split: Split
    group: str | None


class ChangedImage(BaseModel):
    """A picture that differs: `before` is null for an added one, `after` for a removed one."""

    id: str
    filename: str
    before: PlaceThen | None
    after: PlaceThen | None
    thumbnail_url: str


class VersionRef(BaseModel):
    """A dataset version by id and number."""

    id: str
    number: int


class DiffOut(BaseModel):
    """What became different from one version (`before`) to another (`after`); `items` are paged like a list."""

    before: VersionRef
    after: VersionRef
    counts: dict[Difference, int]
    classes: DiffClasses
    items: list[ChangedImage]
    next_cursor: str | None = None


class IssueImage(BaseModel):
    """A picture of an issue; the last four are null where it is not in the version (refused with the upload)."""

    id: str
    thumbnail_url: str
    filename: str | None
    class_name: str | None
    split: Split | None
    group: str | None


class IssueOut(BaseModel):
    """Something wrong or odd in a version: with one picture, with two that are alike or of one group, or with a class (no picture).

    `score`: correlation of two near duplicates, at most 1. `detail`: the receipt's sentence, the group, or a sentence about a class.
    """

    kind: Kind
    number: int
    images: list[IssueImage]
    score: float | None
    detail: str


class ImageOut(BaseModel):
    """A picture's place in a dataset version. Width and height in pixels, after orientation."""

    id: str
    sha256: str
    filename: str
    class_name: str
    split: Split
    group: str | None
    width: int
    height: int
    format: str
    thumbnail_url: str
    display_url: str
    original_url: str
