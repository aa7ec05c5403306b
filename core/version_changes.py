"""What a person may change from one dataset version to the next, as data. `core.new_version` carries it out.

Changes apply in this order: pictures removed, classes renamed and merged, pictures relabelled, pictures moved or everything split again.
So class names to rename or merge are those of the base, and a picture is relabelled to a class of the new version.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.tables import Split

MOST_PICKED = 10_000  # pictures named in one request; a class or a whole split is changed without naming any
MOST_CLASSES_NAMED = 1_000
LARGEST_SEED = 2**31 - 1


def _class_name(name: str) -> str:
    name = unicodedata.normalize("NFC", name.strip())  # as those that are read from folders and manifests
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise ValueError("a class name has 1 to 200 printable characters")
    return name


ClassName = Annotated[str, AfterValidator(_class_name)]
ImageId = Annotated[str, Field(min_length=1, max_length=36, pattern=r"^[!-~]+$")]
ImageIds = Annotated[list[ImageId], Field(min_length=1, max_length=MOST_PICKED)]


class GroupBy(StrEnum):
    """What stays on one side when a version is split again."""

    GROUP = "group"
    NONE = "none"


class _Change(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Move(_Change):
    """Pictures that go to another split."""

    image_ids: ImageIds
    split: Split


class Relabel(_Change):
    """Pictures that go to another class, which may be a new one."""

    image_ids: ImageIds
    class_name: ClassName


class Merge(_Change):
    """Classes that become one."""

    class_names: Annotated[list[ClassName], Field(min_length=1, max_length=MOST_CLASSES_NAMED)]
    into: ClassName


class Fractions(_Change):
    """Share of each split; they add up to 1."""

    train: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the fractions must add up to 1; they add up to {total:g}")
        return self


class Resplit(_Change):
    """Every picture gets a new split, class by class. `group_by`: `group` keeps groups and near duplicates on one side, `none` does not."""

    fractions: Fractions
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    group_by: GroupBy = GroupBy.GROUP


class VersionChanges(_Change):
    """What becomes different. Nothing at all is a change too when the base is not the newest version: it takes back what came after."""

    move: Annotated[list[Move], Field(max_length=3)] = []
    relabel: Annotated[list[Relabel], Field(max_length=MOST_CLASSES_NAMED)] = []
    remove: Annotated[list[ImageId], Field(max_length=MOST_PICKED)] = []
    rename: Annotated[dict[ClassName, ClassName], Field(max_length=MOST_CLASSES_NAMED)] = {}
    merge: Annotated[list[Merge], Field(max_length=MOST_CLASSES_NAMED)] = []
    resplit: Resplit | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        moved = _each_once("move", (one for move in self.move for one in move.image_ids))
        relabelled = _each_once("relabel", (one for relabel in self.relabel for one in relabel.image_ids))
        removed = _each_once("remove", self.remove)
        if removed & (moved | relabelled):
            raise ValueError("a picture is to be removed and changed at once")
        if len(moved) + len(relabelled) + len(removed) > MOST_PICKED:
            raise ValueError(f"more than {MOST_PICKED:,} pictures are named, the most for one version")
        _each_once("rename and merge", [*self.rename, *(name for merge in self.merge for name in merge.class_names)])
        if self.resplit is not None and self.move:
            raise ValueError("a new split decides about every picture: move pictures in the version after it")
        return self

    @property
    def picked(self) -> set[str]:
        """Every picture that is named."""
        lists = [self.remove, *(one.image_ids for one in self.move), *(one.image_ids for one in self.relabel)]
        return {one for ids in lists for one in ids}

    @property
    def is_empty(self) -> bool:
        """True when nothing becomes different."""
        return not (self.picked or self.rename or self.merge or self.resplit)

    @property
    def reorders(self) -> bool:
        """True when pictures may have other places in the order of the version (by class, then by name) than in that of its base."""
        return bool(self.remove or self.relabel or self.rename or self.merge)


def _each_once(where: str, names: Iterable[str]) -> set[str]:
    """The names, as a set.

    Raises:
        ValueError: one is there twice.
    """
    counted = Counter(names)
    twice = next((name for name, count in counted.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f'{where}: "{twice}" is named twice')
    return set(counted)
