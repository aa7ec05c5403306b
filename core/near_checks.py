"""Near duplicates found later: by the features that a run has stored, when versions with these pictures exist already.

A pair is a fact about two pictures and enters `near_pairs`; whatever is made afterwards (a version, a split, a run) goes by it. What the
versions that exist said when they were made stays as it was. The pair is added to each of them as an issue of the kind `found_later`, the
only kind that grows.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.issues import Kind
from core.leases import NEAR_CHECK_LIFE, Claim, release, write
from core.tables import (
    Dataset,
    DatasetVersion,
    Image,
    NearCheck,
    NearCheckStatus,
    NearPair,
    Run,
    RunStatus,
    Split,
    VersionImage,
    VersionIssue,
    utc_now,
)

PAIRS_AT_ONCE = 500  # of one transaction
Pair = tuple[str, str, float]  # two picture ids and their correlation


def request_check(session: Session, version: DatasetVersion) -> None:
    """Have a version looked at, unless a check waits, is at work (see `finish_ready`), or has compared all pictures. The sweeper rings."""
    made = _inserting(session)(NearCheck).values(
        owner_id=version.owner_id, version_id=version.id, status=NearCheckStatus.QUEUED, compared=0, pairs=0
    )
    ended_badly = NearCheck.status.in_([NearCheckStatus.FAILED, NearCheckStatus.CANCELLED])
    in_part = and_(NearCheck.status == NearCheckStatus.READY, NearCheck.compared < version.image_count)
    again = {"status": NearCheckStatus.QUEUED, "error": None, "failures": 0, "cancel_requested_at": None}
    session.execute(
        made.on_conflict_do_update(
            index_elements=["version_id"],
            set_={**again, "finished_at": None, "rung_at": None},
            where=or_(ended_badly, in_part),
        )
    )


def record_pairs(session: Session, held: Claim, pairs: Sequence[Pair]) -> int:
    """Write new pairs (at most `PAIRS_AT_ONCE`), and tell the versions that have both pictures.

    Args:
        session: a writing session in which nothing was written yet; the caller commits.
        held: the worker's claim.
        pairs: of any order; those that are known, or of which a picture is gone, are left out.

    Returns:
        How many were new.

    Raises:
        Fenced: the check is not this attempt's any more.
    """
    ids = sorted({one for first, second, _ in pairs for one in (first, second)})
    _hold_datasets(session, ids)
    write(session, NEAR_CHECK_LIFE, held, lease_owner=NearCheck.lease_owner)  # the fence, before anything is changed
    locked = select(Image.id).where(Image.id.in_(ids)).order_by(Image.id)
    there = set(session.scalars(locked.with_for_update(read=True, key_share=True)))
    rows = [
        {"image_id": min(first, second), "other_id": max(first, second), "score": score}
        for first, second, score in pairs
        if first in there and second in there
    ]
    if not rows:
        return 0
    written = _inserting(session)(NearPair).values(rows).on_conflict_do_nothing()
    new = session.execute(written.returning(NearPair.image_id, NearPair.other_id, NearPair.score)).all()
    _tell_versions(session, sorted((first, second, score) for first, second, score in new))
    write(session, NEAR_CHECK_LIFE, held, pairs=NearCheck.pairs + len(new))
    return len(new)


def _hold_datasets(session: Session, image_ids: Sequence[str]) -> None:
    """Lock the datasets that have these pictures, before any row below them.

    Whoever deletes a dataset locks it first and then what belongs to it, checks among the rest: the other way round the two would wait for
    each other.
    """
    mine = select(VersionImage.version_id).where(VersionImage.image_id.in_(image_ids))
    found = select(DatasetVersion.dataset_id).where(DatasetVersion.id.in_(mine)).distinct()
    held: set[str] = set()
    while new := set(session.scalars(found)) - held:  # one may have come while we waited for another
        session.execute(select(Dataset.id).where(Dataset.id.in_(new)).order_by(Dataset.id).with_for_update())
        held |= new


def runs_known(session: Session, held: Claim) -> frozenset[str]:
    """The runs of the version that have succeeded: ask before the features are looked for, and give it to `finish_ready`."""
    version_id = session.get_one(NearCheck, held.id).version_id
    succeeded = (Run.dataset_version_id == version_id, Run.status == RunStatus.SUCCEEDED)
    return frozenset(session.scalars(select(Run.id).where(*succeeded)))


def finish_ready(session: Session, held: Claim, compared: int, known: frozenset[str]) -> None:
    """The check has ended; where pictures are missing and a run has stored features meanwhile, it waits again.

    Args:
        session: a writing session; the caller commits.
        held: the worker's claim.
        compared: pictures whose features were there.
        known: what `runs_known` said at the beginning.

    Raises:
        Fenced: the check is not this attempt's any more.
    """
    write(
        session, NEAR_CHECK_LIFE, held, compared=compared
    )  # from here on `request_check` of a run waits for us, or we for it
    version = session.get_one(DatasetVersion, session.get_one(NearCheck, held.id).version_id)
    if compared < version.image_count and runs_known(session, held) - known:
        release(session, NEAR_CHECK_LIFE, held)
    else:
        _end(session, held, NearCheckStatus.READY)


def finish_cancelled(session: Session, held: Claim) -> None:
    """Somebody asked for it."""
    _end(session, held, NearCheckStatus.CANCELLED)


def _end(session: Session, held: Claim, status: NearCheckStatus, **columns: Any) -> None:
    ended = {"status": status, "lease_owner": None, "lease_expires_at": None, "finished_at": utc_now()}
    write(session, NEAR_CHECK_LIFE, held, **ended, **columns)


def _tell_versions(session: Session, pairs: Sequence[Pair]) -> None:
    """An issue of every version for each pair of which it has both pictures."""
    ids = sorted({one for first, second, _ in pairs for one in (first, second)})
    columns = (VersionImage.version_id, VersionImage.image_id, VersionImage.label, VersionImage.split)
    places: dict[str, dict[str, tuple[int, Split]]] = defaultdict(dict)
    for version_id, image_id, label, split in session.execute(select(*columns).where(VersionImage.image_id.in_(ids))):
        places[version_id][image_id] = (label, split)
    locked = select(DatasetVersion).where(DatasetVersion.id.in_(places)).order_by(DatasetVersion.id)
    for version in session.scalars(locked.with_for_update()).all():
        mine = places[version.id]
        inside = [pair for pair in pairs if pair[0] in mine and pair[1] in mine]
        counted = select(func.count()).select_from(VersionIssue)
        counted = counted.where(VersionIssue.version_id == version.id, VersionIssue.kind == Kind.FOUND_LATER.value)
        there = session.scalar(counted) or 0
        rows = [
            {
                "version_id": version.id,
                "kind": Kind.FOUND_LATER.value,
                "number": number,
                "image_id": first,
                "other_id": second,
                "score": score,
                "detail": _detail(version, mine[first], mine[second]),
            }
            for number, (first, second, score) in enumerate(inside, there)
        ]
        if rows:
            session.execute(insert(VersionIssue), rows)
            issues = {**version.issues, Kind.FOUND_LATER.value: there + len(rows)}
            session.execute(update(DatasetVersion).where(DatasetVersion.id == version.id).values(issues=issues))


def _detail(version: DatasetVersion, one: tuple[int, Split], other: tuple[int, Split]) -> str:
    """What makes the pair matter in this version."""
    said = []
    if one[1] != other[1]:
        said.append(f"leak between {one[1].value} and {other[1].value}")
    if one[0] != other[0]:
        said.append(f'label conflict: "{version.class_names[one[0]]}" and "{version.class_names[other[0]]}"')
    return "; ".join(said)


def _inserting(session: Session) -> Any:
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
