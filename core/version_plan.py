"""What a version that is made from another one will hold, worked out without writing anything.

Pictures are numbers here (about 80 bytes each, in arrays); their names, groups and ids stay in the database.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import collate, select
from sqlalchemy.orm import Session

from core.errors import FieldProblem, InputInvalid, UploadRejected
from core.near_pairs import near_pairs
from core.splits import NOBODY_SAID, ORDER, Flags, Ints, Pictures, assign_splits, join_units
from core.tables import DatasetVersion, Image, Split, VersionImage
from core.version_changes import GroupBy, Resplit, VersionChanges

AT_ONCE = 5000  # values in one statement: SQLite allows 32,766, PostgreSQL 65,535
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A version to be; the arrays have one element per picture of the base, in its order.

    Attributes:
        ordinals: in the base.
        places: the ordinal in the new version, -1 for a picture that is removed.
        labels: index into the class names.
        splits: index into `core.splits.ORDER`.
        class_names: sorted; each has pictures.
        counts: class name -> split -> pictures.
        fingerprint: as `core.datasets.fingerprint` of all its pictures.
        test_fingerprint: of its test pictures.
    """

    ordinals: Ints
    places: Ints
    labels: Ints
    splits: Ints
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    fingerprint: str
    test_fingerprint: str

    @property
    def columns(self) -> dict[str, Any]:
        """What it says of the version, by column."""
        names = ("class_names", "counts", "fingerprint", "test_fingerprint")
        return {name: getattr(self, name) for name in names} | {"image_count": int((self.places >= 0).sum())}


@dataclass(frozen=True)
class _Base:
    """The pictures of the base: SHA-256 (`S32`), and numbers of groups, -1 for a picture by itself."""

    ordinals: Ints
    digests: Any
    labels: Ints
    splits: Ints
    groups: Ints
    group_names: list[str]


def make_plan(session: Session, base: DatasetVersion, changes: VersionChanges) -> Plan:
    """Work out a version.

    Raises:
        InputInvalid: pictures or classes that the base does not have, or splits that cannot be given.
    """
    _check_classes(base, changes)
    places = _places(session, base, changes.picked)
    names = names_after(base, changes)
    pictures = _read(session, base)
    known = {
        image_id: int(at)
        for image_id, at in zip(places, np.searchsorted(pictures.ordinals, list(places.values())), strict=True)
    }
    class_names = sorted({*names.values(), *(one.class_name for one in changes.relabel)})
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number[names[name]] for name in base.class_names], np.int64)[pictures.labels]
    for one in changes.relabel:
        labels[[known[image_id] for image_id in one.image_ids]] = number[one.class_name]
    splits = pictures.splits.copy()
    for move in changes.move:
        splits[[known[image_id] for image_id in move.image_ids]] = ORDER.index(move.split)
    kept = np.ones(len(labels), np.bool_)
    kept[[known[image_id] for image_id in changes.remove]] = False
    if changes.resplit is not None:
        splits[kept] = _split_again(session, base, pictures, labels, kept, class_names, changes.resplit)
    there = np.unique(labels[kept])  # classes without pictures go, and the labels close up
    labels = np.searchsorted(there, labels)
    class_names = [class_names[old] for old in there.tolist()]
    new = _ordered(session, base, pictures.ordinals, labels, kept) if changes.reorders else pictures.ordinals
    whole, test = _fingerprints(pictures, labels, splits, kept, class_names)
    return Plan(
        pictures.ordinals,
        new,
        labels,
        splits,
        class_names,
        _counts(labels[kept], splits[kept], class_names),
        whole,
        test,
    )


def bad(field: str, message: str, received: object) -> InputInvalid:
    """A refusal of a part of the changes."""
    place = f"changes.{field}" if field else "changes"
    return InputInvalid(message, problems=(FieldProblem(place, message, received),))


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """At most `AT_ONCE` at a time."""
    coming = iter(values)
    while some := list(islice(coming, AT_ONCE)):
        yield some


def _check_classes(base: DatasetVersion, changes: VersionChanges) -> None:
    for field, names in (
        ("rename", changes.rename),
        *((f"merge.{index}", merge.class_names) for index, merge in enumerate(changes.merge)),
    ):
        for name in names:
            if name not in base.class_names:
                raise bad(field, f'Version {base.number} has no class "{name}".', name)


def _places(session: Session, base: DatasetVersion, image_ids: Iterable[str]) -> dict[str, int]:
    """The ordinals of these pictures in the base.

    Raises:
        InputInvalid: it does not have one of them.
    """
    found: dict[str, int] = {}
    for some in chunks(sorted(image_ids)):
        asked = select(VersionImage.image_id, VersionImage.ordinal)
        asked = asked.where(VersionImage.version_id == base.id, VersionImage.image_id.in_(some))
        found.update((image_id, ordinal) for image_id, ordinal in session.execute(asked))
        unknown = next((one for one in some if one not in found), None)
        if unknown is not None:
            raise bad("", f'Version {base.number} has no picture "{unknown}".', unknown)
    return found


def names_after(base: DatasetVersion, changes: VersionChanges) -> dict[str, str]:
    """The new name of every class of the base.

    Raises:
        InputInvalid: two classes would have one name without having been merged.
    """
    merged = {name: merge.into for merge in changes.merge for name in merge.class_names}
    names = {name: merged.get(name, changes.rename.get(name, name)) for name in base.class_names}
    wanted = {merge.into for merge in changes.merge}
    for name, count in Counter(names.values()).items():
        if count > 1 and name not in wanted:
            raise bad("rename", f'Two classes would be called "{name}". To make them one class, merge them.', name)
    return names


def _read(session: Session, base: DatasetVersion) -> _Base:
    """The pictures of the base by ordinal."""
    groups: dict[str, int] = {}
    number = {split: index for index, split in enumerate(ORDER)}
    kinds = [("ordinal", "i8"), ("sha256", "S32"), ("label", "i8"), ("split", "i8"), ("group", "i8")]
    rows = session.execute(
        select(VersionImage.ordinal, Image.sha256, VersionImage.label, VersionImage.split, VersionImage.group)
        .join(Image, Image.id == VersionImage.image_id)
        .where(VersionImage.version_id == base.id)
        .order_by(VersionImage.ordinal)
        .execution_options(yield_per=AT_ONCE)
    )

    def numbers() -> Iterator[tuple[Any, ...]]:
        for ordinal, sha256, label, split, group in rows:
            known = groups.setdefault(group, len(groups)) if group else -1
            yield ordinal, bytes.fromhex(sha256), label, number[split], known

    found = np.fromiter(numbers(), dtype=kinds)
    ordinals, labels, splits, own = (found[name].copy() for name in ("ordinal", "label", "split", "group"))
    return _Base(ordinals, found["sha256"].copy(), labels, splits, own, list(groups))


def _split_again(
    session: Session,
    base: DatasetVersion,
    read: _Base,
    labels: Ints,
    kept: Flags,
    class_names: list[str],
    wish: Resplit,
) -> Ints:
    """A new split for every picture that is kept.

    Raises:
        InputInvalid: a class that cannot be in all three splits.
    """
    size = len(labels)
    given, settled = np.full(size, NOBODY_SAID, np.int64), np.zeros(size, np.bool_)
    own, units = np.full(size, -1, np.int64), None
    if wish.group_by == GroupBy.GROUP:
        own = read.groups
        units = join_units(own, *_near(session, base, read.ordinals, kept))
    pictures = Pictures(read.digests, labels, given, own, settled, units).only(kept)
    fractions = (wish.fractions.train, wish.fractions.validation, wish.fractions.test)
    try:
        return assign_splits(pictures, class_names, seed=wish.seed, fractions=fractions).splits
    except UploadRejected as error:
        raise bad("resplit", error.message, wish.model_dump(mode="json")) from error


def _near(session: Session, base: DatasetVersion, ordinals: Ints, kept: Flags) -> tuple[Ints, Ints]:
    """Pairs of near duplicates that are both kept, as indices into these ordinals."""
    found = [(pair.one.ordinal, pair.other.ordinal) for some in near_pairs(session, base.id) for pair in some]
    pairs = np.searchsorted(ordinals, np.array(found, np.int64).reshape(-1, 2))
    pairs = pairs[kept[pairs].all(axis=1)]
    return pairs[:, 0], pairs[:, 1]


def _ordered(session: Session, base: DatasetVersion, ordinals: Ints, labels: Ints, kept: Flags) -> Ints:
    """Ordinals from 0 in the order that every version has: label, file name, picture. The database sorts the names."""
    # as Python and SQLite compare names: by code point, not by the rules of some language
    postgresql = session.get_bind().dialect.name == "postgresql"
    filename = collate(VersionImage.filename, "C") if postgresql else VersionImage.filename
    named = select(VersionImage.ordinal).where(VersionImage.version_id == base.id)
    rows = session.scalars(named.order_by(filename, VersionImage.image_id).execution_options(yield_per=AT_ONCE))
    rank = np.empty(len(ordinals), np.int64)
    rank[np.searchsorted(ordinals, np.fromiter(rows, np.int64))] = np.arange(len(ordinals))
    order = np.lexsort((rank, labels))
    order = order[kept[order]]
    places = np.full(len(ordinals), -1, np.int64)
    places[order] = np.arange(len(order))
    return places


def _counts(labels: Ints, splits: Ints, class_names: list[str]) -> dict[str, dict[str, int]]:
    table = np.bincount(labels * len(ORDER) + splits, minlength=len(class_names) * len(ORDER)).reshape(-1, len(ORDER))
    return {
        name: {split.value: int(table[label, ORDER.index(split)]) for split in Split}
        for label, name in enumerate(class_names)
    }


def _fingerprints(read: _Base, labels: Ints, splits: Ints, kept: Flags, class_names: list[str]) -> tuple[str, str]:
    """What `core.datasets.fingerprint` gives for all pictures and for the test pictures."""
    whole, test = hashlib.sha256(), hashlib.sha256()
    order = np.flatnonzero(kept)
    # the lines sorted by their SHA-256 are the lines sorted: no picture is twice in a version
    order = order[np.argsort(read.digests[order])]
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        digests = read.digests[some].tobytes().hex()
        values = zip(labels[some].tolist(), splits[some].tolist(), read.groups[some].tolist(), strict=True)
        for at, (label, split, group) in enumerate(values):
            sha256, named = digests[64 * at : 64 * at + 64], read.group_names[group] if group >= 0 else ""
            line = f"{sha256}\t{class_names[label]}\t{ORDER[split].value}\t{named}\n".encode()
            whole.update(line)
            if ORDER[split] == Split.TEST:
                test.update(line)
    return whole.hexdigest(), test.hexdigest()
