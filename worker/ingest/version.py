"""The end of an ingest: doubles out, splits given, the rows written where nobody sees them, and in one last transaction the dataset version
exists, the upload is ready, and the run is queued that was wished for with it.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from core import unseen_versions
from core.config import Settings
from core.database import Database
from core.datasets import IMAGE_COLUMNS, Placed, VersionDraft, described, draft_rows, latest_version, placed_pictures
from core.errors import UploadRejected
from core.leases import UPLOAD_LIFE, write
from core.splits import NOBODY_SAID, ORDER, Double, Ints, Pictures, assign_splits, find_doubles
from core.tables import Dataset, DatasetVersion, Image, Outcome, ReceiptRow, Split, Upload, VersionImage
from core.unseen_versions import write_rows
from core.uploads import finish_ready, train_as_wished
from worker.ingest.entries import Code
from worker.ingest.folders import Place, case_twins, check_classes
from worker.ingest.guard import Guarded, guard
from worker.ingest.held import Held
from worker.ingest.sources import Contents

_log = logging.getLogger(__name__)
T = TypeVar("T")
_CODES = {"duplicate": Code.DUPLICATE, "leak": Code.LEAK, "label_conflict": Code.LABEL_CONFLICT}
_ISSUES = {Code.DUPLICATE: "duplicates", Code.LEAK: "leaks", Code.LABEL_CONFLICT: "conflicts"}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A picture that may be in the version. `ordinal` is its receipt row, -1 for one of the version before."""

    ordinal: int
    image_id: str
    sha256: str
    path: str
    place: Place


def make_version(database: Database, settings: Settings, held: Held, contents: Contents) -> None:
    """Make the version and set the upload ready.

    Raises:
        UploadRejected: what was kept cannot be learned from.
        Fenced: the upload is not ours any more.
        Conflict: it took so long that what was written was removed as abandoned.
    """
    while not _tried(database, settings, held, contents):
        held.check()  # another upload made a version of this dataset meanwhile: build on that one


def _tried(database: Database, settings: Settings, held: Held, contents: Contents) -> bool:
    with database.read() as session:
        dataset_id = session.scalars(select(Upload.dataset_id).where(Upload.id == held.claim.id)).one()
        base = latest_version(session, dataset_id)
        before = [_settled(one) for one in placed_pictures(session, base)] if base else []
        candidates = before + _kept(session, held.claim.id, contents)
    draft = _draft(database, settings, held, contents, candidates)
    facts = described(draft)  # hashes every line: not while others wait
    with database.write() as session:
        dataset = _fenced(session, held, dataset_id)
        if not _is_newest(session, dataset_id, base):
            return False  # before all rows are written in vain
        version = unseen_versions.begin(session, dataset, **facts)
    done = False
    try:
        write_rows(database, version.id, VersionImage, IMAGE_COLUMNS, _checked(held, draft_rows(draft, version)))
        issues = unseen_versions.write_issues(database, version, upload_id=held.claim.id)
        with database.write() as session:
            dataset = _fenced(session, held, dataset_id)
            if not _is_newest(session, dataset_id, base):
                return False
            published = unseen_versions.held(session, version.id)
            if published is None:
                raise unseen_versions.too_slow()
            unseen_versions.publish(session, dataset, published, issues)
            finish_ready(session, held.claim, published.id)
            train_as_wished(session, held.claim.id, published)
        done = True
    except unseen_versions.Gone as error:
        with database.write() as session:
            _fenced(session, held, dataset_id)  # a deleted dataset takes its uploads along
        raise unseen_versions.too_slow() from error
    finally:
        if not done:
            unseen_versions.forget(database, version.id)
    _log.info("upload %s is ready: dataset version %s, %s pictures", held.claim.id, version.id, version.image_count)
    return True


def _fenced(session: Session, held: Held, dataset_id: str) -> Dataset:
    """The dataset, locked, while the upload is ours.

    Raises:
        Fenced: it is not any more, or it is deleted.
    """
    write(session, UPLOAD_LIFE, held.claim, lease_owner=Upload.lease_owner)  # the fence, before anything else
    return session.scalars(select(Dataset).where(Dataset.id == dataset_id).with_for_update()).one()


def _is_newest(session: Session, dataset_id: str, base: DatasetVersion | None) -> bool:
    """True when no other version came after this one; None: when there is none yet."""
    newest = latest_version(session, dataset_id)
    return (newest.id if newest else None) == (base.id if base else None)


def _checked(held: Held, batches: Iterator[T]) -> Iterator[T]:
    """The same batches, while the upload is ours."""
    for batch in batches:
        held.check()
        yield batch


def _settled(one: Placed) -> _Candidate:
    return _Candidate(-1, one.image_id, one.sha256, one.filename, Place(one.class_name, one.split, one.group))


def _kept(session: Session, upload_id: str, contents: Contents) -> list[_Candidate]:
    rows = session.execute(
        select(ReceiptRow.ordinal, ReceiptRow.image_id, Image.sha256, ReceiptRow.path)
        .join(Image, Image.id == ReceiptRow.image_id)
        .where(ReceiptRow.upload_id == upload_id, ReceiptRow.outcome.in_([Outcome.KEPT, Outcome.FIXED]))
        .order_by(ReceiptRow.ordinal)
        .execution_options(yield_per=1000)
    )
    found = []
    for ordinal, image_id, sha256, path in rows:
        place = contents.place(path)
        if image_id is not None and isinstance(place, Place):
            found.append(_Candidate(ordinal, image_id, sha256, path, place))
    return found


def _draft(
    database: Database, settings: Settings, held: Held, contents: Contents, candidates: list[_Candidate]
) -> VersionDraft:
    class_names = sorted({one.place.class_name for one in candidates})
    pictures = _arrays(candidates, class_names)
    doubles = find_doubles(pictures)
    held.check()
    issues = _write_doubles(database, held, candidates, doubles)
    mask = np.ones(len(pictures), np.bool_)
    mask[[double.index for double in doubles]] = False
    kept = [one for one, keep in zip(candidates, mask, strict=True) if keep]
    pictures = pictures.only(mask)
    if kept and all(one.ordinal < 0 for one in kept):
        raise UploadRejected("Nothing new: every picture of this upload is in the dataset already, or was refused.")
    counts = Counter(one.place.class_name for one in kept)
    check_classes(counts, most=settings.max_classes)
    guarded = guard(database, held, [_guarded(one) for one in kept], pictures, read_names=contents.manifest is None)
    settled = pictures.settled | np.array([one.place.keeps_split for one in kept], np.bool_)
    assigned = assign_splits(replace(pictures, units=guarded.units, settled=settled), class_names)
    _check_kept(assigned.splits, pictures.labels, class_names, by_manifest=any(one.place.keeps_split for one in kept))
    notes = [*_manifest_notes(contents), *assigned.notes, *guarded.notes, *_double_notes(issues), *case_twins(counts)]
    splits = (ORDER[int(split)] for split in assigned.splits)
    placed = [_placed(*one) for one in zip(kept, splits, guarded.groups, strict=True)]
    return VersionDraft(placed, notes)


def _check_kept(splits: Ints, labels: Ints, class_names: list[str], *, by_manifest: bool) -> None:
    """Refuse what cannot be learned from where a manifest kept splits as they were, or the dataset did."""
    why = (
        "and the manifest keeps every picture in its split"
        if by_manifest
        else "none of the new ones came to it, and those of the dataset keep their splits"
    )
    for number, split in enumerate(ORDER):
        if not (splits == number).any():
            raise UploadRejected(f"No picture is in {split.value}{',' if by_manifest else ':'} {why}.")
    learned = set(labels[splits == ORDER.index(Split.TRAIN)].tolist())
    for label in sorted(set(labels.tolist()) - learned):
        raise UploadRejected(f'The class "{class_names[label]}" has no train picture: it could not be learned.')


def _guarded(one: _Candidate) -> Guarded:
    return Guarded(one.image_id, one.path, one.place.group, is_new=one.ordinal >= 0)


def _placed(one: _Candidate, split: Split, group: str | None) -> Placed:
    return Placed(one.image_id, one.sha256, one.path, one.place.class_name, split, group)


def _arrays(candidates: list[_Candidate], class_names: list[str]) -> Pictures:
    labels = {name: label for label, name in enumerate(class_names)}
    groups: dict[str, int] = {}
    split_number = {split: number for number, split in enumerate(ORDER)}
    return Pictures(
        digests=np.array([bytes.fromhex(one.sha256) for one in candidates], dtype="S32"),
        labels=np.array([labels[one.place.class_name] for one in candidates], np.int64),
        given=np.array(
            [split_number[one.place.split] if one.place.split else NOBODY_SAID for one in candidates], np.int64
        ),
        groups=np.array(
            [groups.setdefault(one.place.group, len(groups)) if one.place.group else -1 for one in candidates], np.int64
        ),
        settled=np.array([one.ordinal < 0 for one in candidates], np.bool_),
    )


def _write_doubles(
    database: Database, held: Held, candidates: list[_Candidate], doubles: list[Double]
) -> dict[str, int]:
    """Change the receipt of every double; returns how many there are of each kind, those of an earlier attempt included."""
    for some in _together(candidates, doubles):
        changes = sorted((_change(candidates, double) for double in some), key=itemgetter("to_code"))
        with database.write() as session:
            write(session, UPLOAD_LIFE, held.claim, lease_owner=Upload.lease_owner)
            for code, alike in groupby(changes, key=itemgetter("to_code")):
                _write_changes(session, held, code, list(alike))
        held.check()
    with database.write() as session:
        write(session, UPLOAD_LIFE, held.claim, revision=Upload.revision + 1)
        counted = select(ReceiptRow.outcome, ReceiptRow.code, func.count()).where(ReceiptRow.upload_id == held.claim.id)
        rows = session.execute(counted.group_by(ReceiptRow.outcome, ReceiptRow.code)).all()
        outcomes, reasons = Counter[str](), Counter[str]()
        for outcome, code, count in rows:
            outcomes[outcome.value] += count
            reasons.update({code: count} if code else {})
        columns = {outcome.value: outcomes[outcome.value] for outcome in Outcome}
        write(session, UPLOAD_LIFE, held.claim, by_reason=dict(reasons), **columns)
    return {issue: reasons[code.value] for code, issue in _ISSUES.items()}


def _together(candidates: list[_Candidate], doubles: list[Double]) -> Iterator[list[Double]]:
    """The doubles, some for each transaction.

    Another attempt may go on after any of them, with the pictures whose receipt is not changed. The one that is kept stays the same then,
    but of the same bytes under two classes none may be left alone: it would be kept.
    """
    some: list[Double] = []
    by_bytes = groupby(
        sorted(doubles, key=lambda one: candidates[one.index].sha256), key=lambda one: candidates[one.index].sha256
    )
    for _, same in by_bytes:
        alike = list(same)
        parted = all(one.kind != "label_conflict" for one in alike)
        for part in [[one] for one in alike] if parted else [alike]:
            if some and len(some) + len(part) > unseen_versions.ROWS_AT_ONCE:
                yield some
                some = []
            some += part
    if some:
        yield some


def _write_changes(session: Session, held: Held, code: str, changes: list[dict[str, Any]]) -> None:
    """In one statement: after each SQLite's driver gives the interpreter away, with the lock held."""
    reasons = {one["at"]: one["to_reason"] for one in changes}
    mine = (ReceiptRow.upload_id == held.claim.id, ReceiptRow.ordinal.in_(reasons))
    said = update(ReceiptRow).where(*mine).execution_options(synchronize_session=False)
    reason = case(reasons, value=ReceiptRow.ordinal)
    session.execute(said.values(outcome=changes[0]["to_outcome"], code=code, reason=reason))


def _change(candidates: list[_Candidate], double: Double) -> dict[str, Any]:
    one, other = candidates[double.index], candidates[double.other]
    code = _CODES[double.kind]
    if code == Code.LABEL_CONFLICT:
        old = " already in the dataset" if other.ordinal < 0 else ""
        reason = (
            f'The same picture{old} is "{other.path}" of class "{other.place.class_name}", this one is of class '
            f'"{one.place.class_name}": one of the two labels is wrong.'
        )
        return {"at": one.ordinal, "to_outcome": Outcome.REFUSED, "to_code": code.value, "to_reason": reason}
    where = " (in the dataset already)" if other.ordinal < 0 else ""
    reason = f'Duplicate of "{other.path}"{where}.'
    if code == Code.LEAK and other.place.split and one.place.split:
        reason += f" It was given to {one.place.split.value} and {other.place.split.value}; it stays in {other.place.split.value}."
    return {"at": one.ordinal, "to_outcome": Outcome.SKIPPED, "to_code": code.value, "to_reason": reason}


def _manifest_notes(contents: Contents) -> list[str]:
    manifest = contents.manifest
    if manifest is None:
        return []
    bad = f"; {len(manifest.refused):,} lines cannot be used" if manifest.refused else ""
    return [
        f'The manifest "{manifest.path}" gives the classes, not the folders: {len(manifest.places):,} lines count{bad}.'
    ]


def _double_notes(issues: dict[str, int]) -> list[str]:
    notes = []
    if issues["duplicates"]:
        notes.append(f"{issues['duplicates']:,} exact duplicates were skipped: each picture is kept once.")
    if issues["leaks"]:
        notes.append(
            f"{issues['leaks']:,} pictures were in two splits at once and were kept in one (test before validation, train)."
        )
    if issues["conflicts"]:
        notes.append(f"{issues['conflicts']:,} pictures were refused because the same bytes stand under two classes.")
    return notes
