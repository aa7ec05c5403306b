"""A dataset version made from another one: `core.version_changes` carried out.

SQLite has one writer at a time, who must be quick however many pictures there are. So what will be different is worked out while others
write (`core.version_plan`), the rows are written in short transactions where nobody sees them (`core.unseen_versions`), and the last one
gives the version its number. The pictures stay where they are.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from core import unseen_versions
from core.database import Database
from core.datasets import IMAGE_COLUMNS, latest_version
from core.errors import Conflict
from core.splits import ORDER
from core.tables import (
    Dataset,
    DatasetVersion,
    Decision,
    LabelDecision,
    Split,
    VersionImage,
    utc_now,
)
from core.version_changes import GroupBy, VersionChanges
from core.version_plan import Plan, bad, chunks, make_plan, names_after

SMALLEST_CLASS = 3


def change_version(
    database: Database,
    base: DatasetVersion,
    changes: VersionChanges,
    *,
    notes: Sequence[str] = (),
    asked_at: datetime | None = None,
) -> DatasetVersion:
    """Make the dataset's next version from a base. The base stays as it is; the pictures themselves are shared.

    Args:
        database: read, and written in many short transactions; the caller must not be within a writing one.
        base: any version of the dataset.
        changes: what becomes different.
        notes: sentences that are put before those that say what changed.
        asked_at: when the changes were settled, now if not given: what is said of a label later waits for the next version.

    Raises:
        InputInvalid: pictures or classes that the base does not have, or a result that cannot be learned from.
        Conflict: nothing would be different, the base was deleted meanwhile, or it took so long that what was written was removed.
    """
    asked_at = asked_at or utc_now()
    with database.snapshot() as session:
        _check_newest(session, base, changes)
        plan = make_plan(session, base, changes)
    if not changes.is_empty:  # what was there once may be there again
        if plan.fingerprint == base.fingerprint:
            raise Conflict(f"Nothing would be different from version {base.number}.")
        _check_result(plan.counts)
    said = [f"Made from version {base.number}.", *notes, *_sentences(changes), *_warnings(plan.counts)]
    with database.write() as session:
        dataset = _held(session, base)
        version = unseen_versions.begin(session, dataset, base_version_id=base.id, notes=said, **plan.columns)
    try:
        with database.snapshot() as session:
            unseen_versions.write_rows(
                database, version.id, VersionImage, IMAGE_COLUMNS, _images(session, base, version, plan)
            )
        issues = unseen_versions.write_issues(database, version)
        with database.write() as session:
            return _publish(session, base, version.id, changes, issues, asked_at)
    except BaseException as error:
        unseen_versions.forget(database, version.id)
        if isinstance(error, unseen_versions.Gone):
            with database.read() as session:
                there = _is_there(session, base)
            raise (unseen_versions.too_slow() if there else _deleted(base)) from error
        raise


def _images(
    session: Session, base: DatasetVersion, version: DatasetVersion, plan: Plan
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of the new version as the database stores them, in the order of the base."""
    column = VersionImage
    listed = select(column.ordinal, column.image_id, column.group, column.filename)
    listed = listed.where(column.version_id == base.id).order_by(column.ordinal).limit(unseen_versions.ROWS_AT_ONCE)
    for start in range(0, len(plan.ordinals), unseen_versions.ROWS_AT_ONCE):
        some = slice(start, start + unseen_versions.ROWS_AT_ONCE)
        rows = session.execute(listed.where(column.ordinal >= int(plan.ordinals[start]))).all()
        values = zip(
            rows, plan.places[some].tolist(), plan.labels[some].tolist(), plan.splits[some].tolist(), strict=True
        )
        yield [
            (version.id, place, image_id, label, ORDER[split].value, group, filename)
            for (_, image_id, group, filename), place, label, split in values
            if place >= 0
        ]


def _publish(
    session: Session,
    base: DatasetVersion,
    version_id: str,
    changes: VersionChanges,
    issues: unseen_versions.Issues,
    asked_at: datetime,
) -> DatasetVersion:
    """The last transaction: from now on everybody sees it.

    Raises:
        Conflict: the base was deleted meanwhile, or nothing would be different from what became the newest version meanwhile.
    """
    dataset = _held(session, base)
    version = unseen_versions.held(session, version_id)
    if version is None:
        raise unseen_versions.too_slow()
    _check_newest(session, base, changes)
    _keep_decisions(session, dataset, names_after(base, changes), changes, asked_at)
    unseen_versions.publish(session, dataset, version, issues)
    return version


def _held(session: Session, base: DatasetVersion) -> Dataset:
    """The dataset, locked, and its base still there."""
    dataset = session.scalar(select(Dataset).where(Dataset.id == base.dataset_id).with_for_update())
    if dataset is None or not _is_there(session, base):
        raise _deleted(base)
    return dataset


def _is_there(session: Session, base: DatasetVersion) -> bool:
    """A deleted dataset takes its versions along."""
    return session.scalar(select(DatasetVersion.id).where(DatasetVersion.id == base.id)) is not None


def _deleted(base: DatasetVersion) -> Conflict:
    return Conflict(f"Version {base.number} was deleted meanwhile.")


def _check_newest(session: Session, base: DatasetVersion, changes: VersionChanges) -> None:
    """To change nothing is to take back what came after."""
    newest = latest_version(session, base.dataset_id) if changes.is_empty else None
    if newest is not None and newest.fingerprint == base.fingerprint:
        raise Conflict(f"Nothing would be different from version {newest.number}, which is the newest.")


def _keep_decisions(
    session: Session, dataset: Dataset, names: dict[str, str], changes: VersionChanges, asked_at: datetime
) -> None:
    """What was said at the label desk goes by the new names of classes, and a picture that gets another class here has had its last word.

    Otherwise a decision that was carried out would seem to wait again. What was said after `asked_at` is newer than these changes
    and stays.
    """
    mine = LabelDecision.dataset_id == dataset.id
    renamed = {old: new for old, new in names.items() if old != new}
    if renamed:
        said = update(LabelDecision).where(mine, LabelDecision.class_name.in_(renamed))
        new_name = case(renamed, value=LabelDecision.class_name, else_=LabelDecision.class_name)
        session.execute(_quiet(said.values(class_name=new_name)))
    for one in changes.relabel:
        other = (
            LabelDecision.decision == Decision.RELABEL,
            LabelDecision.class_name != one.class_name,
            LabelDecision.decided_at <= asked_at,
        )
        for some in chunks(one.image_ids):
            said = update(LabelDecision).where(mine, LabelDecision.image_id.in_(some), *other)
            session.execute(_quiet(said.values(class_name=one.class_name)))


def _quiet(statement: Any) -> Any:
    """Rows are changed in the database only: no object of this session stands for one."""
    return statement.execution_options(synchronize_session=False)


def _check_result(counts: dict[str, dict[str, int]]) -> None:
    """Refuse what cannot be learned from."""
    if len(counts) < 2:
        left = f'only the class "{next(iter(counts))}"' if counts else "no picture"
        raise bad("", f"Nothing to tell apart: {left} would be left; a classifier needs at least two classes.", None)
    small = next((name for name, one in counts.items() if sum(one.values()) < SMALLEST_CLASS), None)
    if small is not None:
        left_over = sum(counts[small].values())
        message = (
            f'The class "{small}" would have {left_over} pictures; each class needs at least {SMALLEST_CLASS}. '
            "Merge it with another class, or remove all of its pictures."
        )
        raise bad("", message, small)
    unlearned = next((name for name, one in counts.items() if not one["train"]), None)
    if unlearned is not None:
        raise bad("", f'The class "{unlearned}" would have no training picture: it could not be learned.', unlearned)
    for split in (Split.VALIDATION, Split.TEST):
        if not any(one[split.value] for one in counts.values()):
            raise bad("", f"No {split.value} picture would be left.", split.value)


def _warnings(counts: dict[str, dict[str, int]]) -> list[str]:
    """Sentences on classes that a split lacks."""
    found = []
    for split in (Split.VALIDATION, Split.TEST):
        lacking = [name for name, one in counts.items() if not one[split.value]]
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
