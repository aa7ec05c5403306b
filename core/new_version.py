"""A dataset version made from another one: `core.version_changes` carried out.

The pictures stay where they are and their rows never come into Python: they are copied, changed and numbered by SQL, and streamed once
for the fingerprints. Only a new split reads some numbers of every picture into arrays (about 60 bytes each).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, case, collate, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from core.datasets import latest_version
from core.errors import Conflict, FieldProblem, InputInvalid, UploadRejected
from core.issues import record_issues
from core.near_pairs import near_pairs
from core.splits import NOBODY_SAID, ORDER, Pictures, assign_splits, join_units
from core.tables import Dataset, DatasetVersion, Decision, Image, LabelDecision, Split, VersionImage, utc_now
from core.version_changes import GroupBy, Resplit, VersionChanges

AT_ONCE = 5000  # values in one statement: SQLite allows 32,766, PostgreSQL 65,535
SMALLEST_CLASS = 3
T = TypeVar("T")
_TABLE = VersionImage.__table__


def change_version(
    session: Session, base: DatasetVersion, changes: VersionChanges, *, notes: Sequence[str] = ()
) -> DatasetVersion:
    """Make the dataset's next version from a base. The base stays as it is; the pictures themselves are shared.

    Args:
        session: a writing session; the caller commits. (10^5 pictures take about a second, 10^6 some ten.)
        base: any version of the dataset.
        changes: what becomes different.
        notes: sentences that are put before those that say what changed.

    Raises:
        InputInvalid: pictures or classes that the base does not have, or a result that cannot be learned from.
        Conflict: nothing would be different, or the base was deleted meanwhile.
    """
    dataset = _held(session, base)
    _check_changes(session, dataset, base, changes)
    names = _names_after(base, changes)
    _keep_decisions(session, dataset, names, changes)
    version = _new_row(session, dataset, base, sorted({*names.values(), *(one.class_name for one in changes.relabel)}))
    _copy(session, base, version, names, numbered=not changes.reorders)
    _apply(session, version, changes)
    if changes.resplit is not None:
        _split_again(session, version, changes.resplit)
    _drop_empty_classes(session, version)
    if changes.reorders:
        _number(session, version)
    _sum_up(session, version)
    if not changes.is_empty:  # what was there once may be there again
        if version.fingerprint == base.fingerprint:
            raise Conflict(f"Nothing would be different from version {base.number}.")
        _check_result(version)
    record_issues(session, version)
    version.notes = [f"Made from version {base.number}.", *notes, *_sentences(changes), *_warnings(version)]
    session.flush()
    return version


def _held(session: Session, base: DatasetVersion) -> Dataset:
    """The dataset, locked, and its base still there."""
    dataset = session.scalar(select(Dataset).where(Dataset.id == base.dataset_id).with_for_update())
    if dataset is None or session.scalar(select(DatasetVersion.id).where(DatasetVersion.id == base.id)) is None:
        raise Conflict(f"Version {base.number} was deleted meanwhile.")
    return dataset


def _check_changes(session: Session, dataset: Dataset, base: DatasetVersion, changes: VersionChanges) -> None:
    if changes.is_empty:
        newest = latest_version(session, dataset.id)
        if newest is not None and newest.fingerprint == base.fingerprint:
            raise Conflict(f"Nothing would be different from version {newest.number}, which is the newest.")
    for field, names in (
        ("rename", changes.rename),
        *((f"merge.{index}", merge.class_names) for index, merge in enumerate(changes.merge)),
    ):
        for name in names:
            if name not in base.class_names:
                raise _bad(field, f'Version {base.number} has no class "{name}".', name)
    unknown = _unknown(session, base, changes.picked)
    if unknown is not None:
        raise _bad("", f'Version {base.number} has no picture "{unknown}".', unknown)


def _bad(field: str, message: str, received: object) -> InputInvalid:
    place = f"changes.{field}" if field else "changes"
    return InputInvalid(message, problems=(FieldProblem(place, message, received),))


def _highest(session: Session, dataset: Dataset) -> int:
    return session.scalar(select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset.id)) or 0


def _unknown(session: Session, version: DatasetVersion, image_ids: Iterable[str]) -> str | None:
    for some in chunks(sorted(image_ids)):
        mine = VersionImage.version_id == version.id
        known = set(session.scalars(select(VersionImage.image_id).where(mine, VersionImage.image_id.in_(some))))
        missing = next((one for one in some if one not in known), None)
        if missing is not None:
            return missing
    return None


def _names_after(base: DatasetVersion, changes: VersionChanges) -> dict[str, str]:
    """The new name of every class of the base.

    Raises:
        InputInvalid: two classes would have one name without having been merged.
    """
    merged = {name: merge.into for merge in changes.merge for name in merge.class_names}
    names = {name: merged.get(name, changes.rename.get(name, name)) for name in base.class_names}
    wanted = {merge.into for merge in changes.merge}
    for name, count in Counter(names.values()).items():
        if count > 1 and name not in wanted:
            raise _bad("rename", f'Two classes would be called "{name}". To make them one class, merge them.', name)
    return names


def _keep_decisions(session: Session, dataset: Dataset, names: dict[str, str], changes: VersionChanges) -> None:
    """What was said at the label desk goes by the new names of classes, and a picture that gets another class here has had its last word.

    Otherwise a decision that was carried out would seem to wait again.
    """
    mine = LabelDecision.dataset_id == dataset.id
    renamed = {old: new for old, new in names.items() if old != new}
    if renamed:
        said = update(LabelDecision).where(mine, LabelDecision.class_name.in_(renamed))
        new_name = case(renamed, value=LabelDecision.class_name, else_=LabelDecision.class_name)
        session.execute(_quiet(said.values(class_name=new_name)))
    for one in changes.relabel:
        other = (LabelDecision.decision == Decision.RELABEL, LabelDecision.class_name != one.class_name)
        for some in chunks(one.image_ids):
            said = update(LabelDecision).where(mine, LabelDecision.image_id.in_(some), *other)
            session.execute(_quiet(said.values(class_name=one.class_name)))


def _new_row(session: Session, dataset: Dataset, base: DatasetVersion, class_names: list[str]) -> DatasetVersion:
    version = DatasetVersion(
        owner_id=dataset.owner_id,
        dataset_id=dataset.id,
        base_version_id=base.id,
        number=_highest(session, dataset) + 1,
        fingerprint="",
        test_fingerprint="",
        class_names=class_names,
        counts={},
        issues={},
        notes=[],
        image_count=0,
    )
    session.add(version)
    dataset.updated_at = utc_now()
    session.flush()
    return version


def _copy(
    session: Session, base: DatasetVersion, version: DatasetVersion, names: dict[str, str], *, numbered: bool
) -> None:
    """The rows of the base under the new version. Their ordinals stay, or are below 0 until `_number` gives them."""
    labels = {label: version.class_names.index(names[name]) for label, name in enumerate(base.class_names)}
    column = _TABLE.c
    taken = [column.image_id, _mapped(column.label, labels), column.split, column.group_name, column.filename]
    ordinal = column.ordinal if numbered else -1 - column.ordinal
    # in the order of the key, which the database also writes fastest
    rows = select(literal(version.id), ordinal, *taken).where(column.version_id == base.id).order_by(ordinal)
    names_of_columns = ["version_id", "ordinal", "image_id", "label", "split", "group_name", "filename"]
    session.execute(insert(VersionImage).from_select(names_of_columns, rows))


def _mapped(column: ColumnElement[int], labels: dict[int, int]) -> ColumnElement[int]:
    """Old label to new label."""
    different = {old: new for old, new in labels.items() if old != new}
    return case(different, value=column, else_=column) if different else column


def _apply(session: Session, version: DatasetVersion, changes: VersionChanges) -> None:
    mine = VersionImage.version_id == version.id
    for some in chunks(changes.remove):
        session.execute(delete(VersionImage).where(mine, VersionImage.image_id.in_(some)))
    wishes: list[tuple[list[str], dict[str, Any]]] = [
        *((one.image_ids, {"label": version.class_names.index(one.class_name)}) for one in changes.relabel),
        *((one.image_ids, {"split": one.split}) for one in changes.move),
    ]
    for image_ids, values in wishes:
        for some in chunks(image_ids):
            session.execute(_quiet(update(VersionImage).where(mine, VersionImage.image_id.in_(some)).values(**values)))


def _quiet(statement: Any) -> Any:
    """Rows are changed in the database only: no object of this session stands for one."""
    return statement.execution_options(synchronize_session=False)


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """At most `AT_ONCE` at a time."""
    coming = iter(values)
    while some := list(islice(coming, AT_ONCE)):
        yield some


def _split_again(session: Session, version: DatasetVersion, wish: Resplit) -> None:
    """Give every picture a new split.

    Raises:
        InputInvalid: a class that cannot be in all three splits.
    """
    ordinals, splits, pictures = _read(session, version, keep_groups=wish.group_by == GroupBy.GROUP)
    fractions = (wish.fractions.train, wish.fractions.validation, wish.fractions.test)
    try:
        assigned = assign_splits(pictures, version.class_names, seed=wish.seed, fractions=fractions)
    except UploadRejected as error:
        raise _bad("resplit", error.message, wish.model_dump(mode="json")) from error
    for number, split in enumerate(ORDER):
        moved = ordinals[(assigned.splits == number) & (splits != number)]
        for some in chunks(moved.tolist()):
            here = update(VersionImage).where(VersionImage.version_id == version.id, VersionImage.ordinal.in_(some))
            session.execute(_quiet(here.values(split=split)))


def _read(session: Session, version: DatasetVersion, *, keep_groups: bool) -> tuple[Any, Any, Pictures]:
    """Ordinals and splits of every picture (int64), and what a new split depends on."""
    groups: dict[str, int] = {}
    number = {split: index for index, split in enumerate(ORDER)}
    kinds = [("ordinal", "i8"), ("sha256", "S32"), ("label", "i8"), ("split", "i1"), ("group", "i8")]
    rows = session.execute(
        select(VersionImage.ordinal, Image.sha256, VersionImage.label, VersionImage.split, VersionImage.group)
        .join(Image, Image.id == VersionImage.image_id)
        .where(VersionImage.version_id == version.id)
        .execution_options(yield_per=AT_ONCE)
    )

    def numbers() -> Iterator[tuple[Any, ...]]:
        for ordinal, sha256, label, split, group in rows:
            known = groups.setdefault(group, len(groups)) if group and keep_groups else -1
            yield ordinal, bytes.fromhex(sha256), label, number[split], known

    found = np.fromiter(numbers(), dtype=kinds)
    size = len(found)
    given, settled = np.full(size, NOBODY_SAID, np.int64), np.zeros(size, np.bool_)
    own = found["group"].copy()
    units = join_units(own, *_near(session, version, found["ordinal"])) if keep_groups else None
    pictures = Pictures(found["sha256"], found["label"].copy(), given, own, settled, units)
    return found["ordinal"], found["split"].astype(np.int64), pictures


def _near(session: Session, version: DatasetVersion, ordinals: Any) -> tuple[Any, Any]:
    """Pairs of near duplicates in a version, as indices into these ordinals."""
    found = [(pair.one.ordinal, pair.other.ordinal) for some in near_pairs(session, version.id) for pair in some]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    order = np.argsort(ordinals)
    places = order[np.searchsorted(ordinals, pairs, sorter=order)]
    return places[:, 0], places[:, 1]


def _counts(session: Session, version: DatasetVersion) -> dict[int, dict[str, int]]:
    """Pictures by label and split."""
    found: dict[int, dict[str, int]] = {}
    counted = select(VersionImage.label, VersionImage.split, func.count()).where(VersionImage.version_id == version.id)
    for label, split, count in session.execute(counted.group_by(VersionImage.label, VersionImage.split)):
        found.setdefault(label, {one.value: 0 for one in Split})[split.value] = count
    return found


def _drop_empty_classes(session: Session, version: DatasetVersion) -> None:
    """Classes without pictures go, and the labels close up."""
    there = sorted(_counts(session, version))
    if len(there) == len(version.class_names):
        return
    labels = {old: new for new, old in enumerate(there)}
    changed = update(VersionImage).where(VersionImage.version_id == version.id)
    session.execute(_quiet(changed.values(label=_mapped(_TABLE.c.label, labels))))
    version.class_names = [version.class_names[old] for old in there]


def _number(session: Session, version: DatasetVersion) -> None:
    """Ordinals from 0 in the order that every version has: label, file name, picture."""
    # as Python and SQLite compare names: by code point, not by the rules of some language
    filename = collate(_TABLE.c.filename, "C") if session.get_bind().dialect.name == "postgresql" else _TABLE.c.filename
    place = func.row_number().over(order_by=(_TABLE.c.label, filename, _TABLE.c.image_id)) - 1
    mine = _TABLE.c.version_id == version.id
    placed = select(_TABLE.c.ordinal.label("old"), place.label("place")).where(mine).subquery()
    here = (VersionImage.version_id == version.id, VersionImage.ordinal == placed.c.old)
    session.execute(_quiet(update(VersionImage).where(*here).values(ordinal=placed.c.place)))


def _sum_up(session: Session, version: DatasetVersion) -> None:
    """Counts and fingerprints of what is there now."""
    counts = _counts(session, version)
    version.counts = {name: counts[label] for label, name in enumerate(version.class_names)}
    version.image_count = sum(sum(one.values()) for one in counts.values())
    version.fingerprint, version.test_fingerprint = fingerprints(session, version)


def fingerprints(session: Session, version: DatasetVersion) -> tuple[str, str]:
    """What `core.datasets.fingerprint` gives for all pictures of a version and for its test pictures, from a stream of its rows."""
    whole, test = hashlib.sha256(), hashlib.sha256()
    # the lines sorted by their SHA-256 are the lines sorted: no picture is twice in a version
    order = collate(Image.sha256, "C") if session.get_bind().dialect.name == "postgresql" else Image.sha256
    rows = session.execute(
        select(Image.sha256, VersionImage.label, VersionImage.split, VersionImage.group)
        .join(Image, Image.id == VersionImage.image_id)
        .where(VersionImage.version_id == version.id)
        .order_by(order)
        .execution_options(yield_per=AT_ONCE)
    )
    for sha256, label, split, group in rows:
        line = f"{sha256}\t{version.class_names[label]}\t{split.value}\t{group or ''}\n".encode()
        whole.update(line)
        if split == Split.TEST:
            test.update(line)
    return whole.hexdigest(), test.hexdigest()


def _check_result(version: DatasetVersion) -> None:
    """Refuse what cannot be learned from."""
    counts: dict[str, dict[str, int]] = version.counts
    if len(counts) < 2:
        left = f'only the class "{version.class_names[0]}"' if counts else "no picture"
        raise _bad("", f"Nothing to tell apart: {left} would be left; a classifier needs at least two classes.", None)
    small = next((name for name, one in counts.items() if sum(one.values()) < SMALLEST_CLASS), None)
    if small is not None:
        left_over = sum(counts[small].values())
        message = (
            f'The class "{small}" would have {left_over} pictures; each class needs at least {SMALLEST_CLASS}. '
            "Merge it with another class, or remove all of its pictures."
        )
        raise _bad("", message, small)
    unlearned = next((name for name, one in counts.items() if not one["train"]), None)
    if unlearned is not None:
        raise _bad("", f'The class "{unlearned}" would have no training picture: it could not be learned.', unlearned)
    for split in (Split.VALIDATION, Split.TEST):
        if not any(one[split.value] for one in counts.values()):
            raise _bad("", f"No {split.value} picture would be left.", split.value)


def _warnings(version: DatasetVersion) -> list[str]:
    """Sentences on classes that a split lacks."""
    found = []
    for split in (Split.VALIDATION, Split.TEST):
        lacking = [name for name, one in version.counts.items() if not one[split.value]]
        if lacking:
            named = ", ".join(f'"{name}"' for name in lacking[:5]) + (", …" if len(lacking) > 5 else "")
            found.append(f"Without {split.value} pictures: {named}.")
    return found


def _sentences(changes: VersionChanges) -> list[str]:
    """What was changed, in words."""
    found = []
    if changes.is_empty:
        found.append("Nothing else was changed: what came after that version is taken back.")
    if changes.remove:
        found.append(f"{_pictures(len(changes.remove))} removed.")
    found += [f'Class "{old}" is called "{new}" now.' for old, new in changes.rename.items() if old != new]
    for merge in changes.merge:
        named = ", ".join(f'"{name}"' for name in merge.class_names)
        found.append(f'{named} became the class "{merge.into}".')
    found += [f'{_pictures(len(one.image_ids))} went to the class "{one.class_name}".' for one in changes.relabel]
    found += [f"{_pictures(len(one.image_ids))} moved to {one.split.value}." for one in changes.move]
    if changes.resplit is not None:
        fractions = changes.resplit.fractions
        shares = "/".join(f"{share * 100:g}" for share in (fractions.train, fractions.validation, fractions.test))
        kept = "groups whole" if changes.resplit.group_by == GroupBy.GROUP else "groups not kept together"
        found.append(f"Split again {shares} class by class, seed {changes.resplit.seed}, {kept}.")
    return found


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
