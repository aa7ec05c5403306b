"""Datasets, their versions, pictures and what is odd about them."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from core.tables.base import Base, Identified, UtcDateTime, status_column, utc_now


class Split(StrEnum):
    """Where a picture is used."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


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
    `number` counts from 1 in the dataset; below 0: its rows are being written, nobody sees it yet (`core.unseen_versions`).
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
    split: Mapped[Split] = mapped_column(status_column(Split))
    group: Mapped[str | None] = mapped_column("group_name", String(255))
    filename: Mapped[str] = mapped_column(String(1024))
    image: Mapped[Image] = relationship(lazy="raise")
    __table_args__ = (
        UniqueConstraint("version_id", "image_id"),
        Index(None, "version_id", "label", "ordinal"),
        Index(None, "version_id", "split", "ordinal"),
    )
