"""The label desk: a search for label errors in a version, what a person says of each picture, and the next version made of it.

The search looks at train and validation only. Test pictures are reviewed apart, in the order of the version and without any model's
opinion: whoever corrects the test where a network was wrong makes the test agree with that network.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, joinedload

from core.database import Database, database_now
from core.errors import Conflict, FieldProblem, InputInvalid, NotFound
from core.leases import LABEL_CHECK_LIFE, Claim, write
from core.new_version import change_version
from core.paging import Page, checked_limit, decode_cursor, encode_cursor
from core.presets import PRESETS
from core.queue import Queue
from core.runs import NewRun, create_runs
from core.tables import (
    DatasetVersion,
    Decision,
    LabelCheck,
    LabelCheckStatus,
    LabelDecision,
    LabelSuggestion,
    Run,
    RunStatus,
    Split,
    VersionImage,
    utc_now,
)
from core.version_changes import MOST_PICKED, Relabel, VersionChanges
from core.version_plan import chunks

QUICK = "quick"  # the preset that is trained again: the head alone, in seconds
ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class Doubt:
    """A picture whose label the check doubts, with its place in the version (`.image` loaded) and what was said of it."""

    suggestion: LabelSuggestion
    place: VersionImage
    decision: LabelDecision | None


@dataclass(frozen=True)
class Progress:
    """How far a person is.

    Attributes:
        likely: labels that are likely errors.
        open: of them, those nobody has said anything of.
        pending: pictures of train and validation that go to another class with the next version.
        pending_test: the same of test.
    """

    likely: int
    open: int
    pending: int
    pending_test: int


def request_check(session: Session, queue: Queue | None, version: DatasetVersion) -> LabelCheck:
    """The check of this version: a new one, the one that is there, or one that failed or was cancelled, queued again."""
    again = {
        "status": LabelCheckStatus.QUEUED,
        "progress": {"message": "Queued", "done": 0, "total": 0},
        "rung_at": None if queue is None else database_now(),
    }
    clean = {"error": None, "finished_at": None, "failures": 0, "cancel_requested_at": None}
    # in one statement: two people may press at once
    made = _insert(session, LabelCheck).values(owner_id=version.owner_id, version_id=version.id, **again)
    ended_badly = LabelCheck.status.in_([LabelCheckStatus.FAILED, LabelCheckStatus.CANCELLED])
    queued = made.on_conflict_do_update(index_elements=["version_id"], set_={**again, **clean}, where=ended_badly)
    changed = session.scalar(queued.returning(LabelCheck.id)) is not None
    check = session.scalars(_check_of(version).execution_options(populate_existing=True)).one()
    if queue is not None and changed:
        queue.ring_after_commit(session, LABEL_CHECK_LIFE.queue)
    return check


def _insert(session: Session, table: type[Any]) -> Any:
    maker = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return maker(table)


def _check_of(version: DatasetVersion) -> Select[LabelCheck]:
    return select(LabelCheck).where(LabelCheck.version_id == version.id)


def find_check(session: Session, version: DatasetVersion) -> LabelCheck | None:
    """The check of this version, or None before somebody asked for one."""
    return session.scalar(_check_of(version))


def cancel_check(session: Session, check: LabelCheck) -> None:
    """Ask for its end; a check that waits ends at once, and one that has ended stays as it is."""
    for status, values in (
        (LabelCheckStatus.QUEUED, {"status": LabelCheckStatus.CANCELLED, "finished_at": utc_now()}),
        (LabelCheckStatus.CHECKING, {"cancel_requested_at": database_now()}),
    ):
        mine = update(LabelCheck).where(LabelCheck.id == check.id, LabelCheck.status == status).values(**values)
        session.execute(mine.execution_options(synchronize_session=False))
    session.refresh(check)


# --- the worker's side


def finish_ready(
    session: Session,
    held: Claim,
    found: Iterable[Mapping[str, Any]],
    class_names: Sequence[str],
    summary: dict[str, Any],
) -> None:
    """Write what a check has found.

    Args:
        session: a writing session; the caller commits.
        held: the worker's claim.
        found: `{"image_id", "given", "suggested", "given_probability", "suggested_probability", "likely"}`, the worst first; labels.
        class_names: of the version.
        summary: figures on how it was done.

    Raises:
        Fenced: the check is not this attempt's any more.
    """
    _end(session, held, LabelCheckStatus.READY, summary=summary, error=None)
    session.execute(delete(LabelSuggestion).where(LabelSuggestion.check_id == held.id))
    rows = [
        {
            "check_id": held.id,
            "rank": rank,
            "image_id": one["image_id"],
            "given_class": class_names[one["given"]],
            "suggested_class": class_names[one["suggested"]],
            "given_probability": one["given_probability"],
            "suggested_probability": one["suggested_probability"],
            "likely": one["likely"],
        }
        for rank, one in enumerate(found)
    ]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        session.execute(insert(LabelSuggestion), rows[start : start + ROWS_AT_ONCE])


def finish_failed(session: Session, held: Claim, sentence: str) -> None:
    """The check cannot be done; `sentence` says why."""
    _end(session, held, LabelCheckStatus.FAILED, error=sentence)


def finish_cancelled(session: Session, held: Claim) -> None:
    """Somebody asked for it."""
    _end(session, held, LabelCheckStatus.CANCELLED)


def _end(session: Session, held: Claim, status: LabelCheckStatus, **columns: Any) -> None:
    ended = {"status": status, "lease_owner": None, "lease_expires_at": None, "finished_at": utc_now()}
    write(session, LABEL_CHECK_LIFE, held, **ended, **columns)


# --- what a person sees


def _with_decision(version: DatasetVersion) -> ColumnElement[bool]:
    return and_(
        LabelDecision.dataset_id == version.dataset_id, LabelDecision.image_id == LabelSuggestion.image_id, _holds()
    )


def _holds() -> ColumnElement[bool]:
    """A dismissal holds as long as the picture has the class that was said to be right."""
    return or_(LabelDecision.decision == Decision.RELABEL, LabelDecision.class_name == LabelSuggestion.given_class)


def doubts(
    session: Session,
    version: DatasetVersion,
    check: LabelCheck,
    *,
    decided: bool | None = None,
    likely: bool | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Doubt]:
    """What a check has found, the least believable label first; paged by rank.

    Args:
        decided: only those that a person has (True) or has not (False) said something of.
        likely: only likely errors (True), or only the others (False).
    """
    limit = checked_limit(limit)
    query = _doubts(version, check)
    if decided is not None:
        query = query.where(LabelDecision.image_id.is_not(None) if decided else LabelDecision.image_id.is_(None))
    if likely is not None:
        query = query.where(LabelSuggestion.likely.is_(likely))
    if cursor:
        query = query.where(LabelSuggestion.rank > decode_cursor(cursor, int)[0])
    rows = session.execute(query.limit(limit + 1)).all()
    found = [Doubt(*row) for row in rows[:limit]]
    return Page(found, encode_cursor([found[-1].suggestion.rank]) if len(rows) > limit else None)


def doubts_from(session: Session, version: DatasetVersion, check: LabelCheck, *, rank: int, limit: int) -> list[Doubt]:
    """The first doubts from a rank on that nobody has decided."""
    query = _doubts(version, check).where(LabelDecision.image_id.is_(None), LabelSuggestion.rank >= rank)
    return [Doubt(*row) for row in session.execute(query.limit(limit))]


def last_decided(session: Session, version: DatasetVersion, check: LabelCheck, *, limit: int) -> list[Doubt]:
    """What a person has said of doubts, the last word first: it is the one to take back."""
    query = _doubts(version, check).where(LabelDecision.image_id.is_not(None)).order_by(None)
    newest = query.order_by(LabelDecision.decided_at.desc(), LabelSuggestion.rank.desc()).limit(limit)
    return [Doubt(*row) for row in session.execute(newest)]


def _doubts(version: DatasetVersion, check: LabelCheck) -> Select[LabelSuggestion, VersionImage, LabelDecision]:
    return (
        select(LabelSuggestion, VersionImage, LabelDecision)
        .join(
            VersionImage, and_(VersionImage.version_id == version.id, VersionImage.image_id == LabelSuggestion.image_id)
        )
        .outerjoin(LabelDecision, _with_decision(version))
        .where(LabelSuggestion.check_id == check.id)
        .options(joinedload(VersionImage.image))
        .order_by(LabelSuggestion.rank)
    )


def progress(session: Session, version: DatasetVersion, check: LabelCheck | None) -> Progress:
    """How far a person is with this version."""
    counts = [0, 0]
    if check is not None:
        mine = (LabelSuggestion.check_id == check.id, LabelSuggestion.likely.is_(True))
        nobody = func.sum(case((LabelDecision.image_id.is_(None), 1), else_=0))
        query = (
            select(func.count(), nobody).select_from(LabelSuggestion).outerjoin(LabelDecision, _with_decision(version))
        )
        row = session.execute(query.where(*mine)).one()
        counts = [int(row[0] or 0), int(row[1] or 0)]
    waiting = pending(session, version)
    test = sum(one.split == Split.TEST for one in waiting)
    return Progress(counts[0], counts[1], len(waiting) - test, test)


@dataclass(frozen=True)
class Pending:
    """A picture that goes to another class with the next version."""

    image_id: str
    split: Split
    class_name: str


def pending(session: Session, version: DatasetVersion) -> list[Pending]:
    """Pictures of a version whose class a person has changed since, to one that the version has.

    As many as a person has decided: they fit in memory. Read from the decisions on: joined, SQLite looked at every picture of the version.
    """
    mine = (LabelDecision.dataset_id == version.dataset_id, LabelDecision.decision == Decision.RELABEL)
    said = session.execute(select(LabelDecision.image_id, LabelDecision.class_name).where(*mine))
    labels = {name: label for label, name in enumerate(version.class_names)}
    wanted = {image_id: class_name for image_id, class_name in said if class_name in labels}
    found = []
    for some in chunks(wanted):
        places = select(VersionImage.ordinal, VersionImage.image_id, VersionImage.split, VersionImage.label)
        places = places.where(VersionImage.version_id == version.id, VersionImage.image_id.in_(some))
        found += [row for row in session.execute(places) if row.label != labels[wanted[row.image_id]]]
    found.sort(key=lambda row: row.ordinal)
    return [Pending(row.image_id, row.split, wanted[row.image_id]) for row in found]


# --- what a person does


def decide(
    session: Session, version: DatasetVersion, image_id: str, decision: Decision, class_name: str | None
) -> LabelDecision:
    """Write down what a person says of a picture's label; the last word counts.

    Args:
        class_name: the class it goes to; nothing for a dismissal.

    Raises:
        NotFound: the version has no such picture.
        InputInvalid: a class that the version does not have, or the one that the picture has already.
    """
    place = find_place(session, version, image_id)
    given = version.class_names[place.label]
    wanted = _checked_class(version, decision, class_name, given)
    key = {"dataset_id": version.dataset_id, "image_id": image_id}
    said = {"decision": decision, "class_name": wanted, "decided_at": utc_now()}
    written = _insert(session, LabelDecision).values(**key, owner_id=version.owner_id, **said)
    session.execute(written.on_conflict_do_update(index_elements=list(key), set_=said))
    return session.get_one(LabelDecision, tuple(key.values()), populate_existing=True)


def _checked_class(version: DatasetVersion, decision: Decision, class_name: str | None, given: str) -> str:
    if decision == Decision.DISMISS:
        if class_name not in {None, "", given}:
            raise _bad(
                f'A dismissal says that the label "{given}" is right. Received another class: {class_name!r}.',
                class_name,
            )
        return given
    if class_name not in version.class_names:
        known = ", ".join(version.class_names[:20])
        raise _bad(f"This version has no class {class_name!r}. Allowed: {known}.", class_name)
    if class_name == given:
        raise _bad(f'The picture is "{given}" already. To say that this is right, dismiss the suggestion.', class_name)
    return str(class_name)


def _bad(message: str, received: object) -> InputInvalid:
    return InputInvalid(message, problems=(FieldProblem("class_name", message, received),))


def take_back(session: Session, version: DatasetVersion, image_id: str) -> None:
    """Forget what was said of a picture; nothing said is fine."""
    mine = (LabelDecision.dataset_id == version.dataset_id, LabelDecision.image_id == image_id)
    session.execute(delete(LabelDecision).where(*mine))


def find_place(session: Session, version: DatasetVersion, image_id: str) -> VersionImage:
    """A picture's place in a version, with `.image`.

    Raises:
        NotFound: it is not in it.
    """
    query = select(VersionImage).where(VersionImage.version_id == version.id, VersionImage.image_id == image_id)
    place = session.scalar(query.options(joinedload(VersionImage.image)))
    if place is None:
        raise NotFound(f'Version {version.number} has no picture "{image_id}".')
    return place


def to_apply(session: Session, version: DatasetVersion, *, test: bool) -> dict[str, list[str]]:
    """Pictures by the class they go to, of test or of the rest.

    Raises:
        Conflict: nothing waits.
    """
    found: dict[str, list[str]] = {}
    for one in pending(session, version):
        if (one.split == Split.TEST) == test:
            found.setdefault(one.class_name, []).append(one.image_id)
    if not found:
        where = "test picture" if test else "picture of train or validation"
        raise Conflict(f"No {where} of version {version.number} waits to go to another class.")
    return found


def apply_decisions(database: Database, version: DatasetVersion, *, test: bool) -> DatasetVersion:
    """Make the next version with the labels that a person has changed: of test, or of train and validation.

    They are two verbs because they mean two things: new labels of train and validation leave the test alone, so that what they bring can be
    measured on it; one new label of a test picture makes another test, and earlier scores are no longer comparable.

    Raises:
        Conflict: nothing waits.
        InputInvalid: the result cannot be learned from.
    """
    asked_at = utc_now()
    with database.read() as session:
        wanted = to_apply(session, version, test=test)
    left = MOST_PICKED
    changes = []
    for class_name, image_ids in wanted.items():
        changes.append(Relabel(image_ids=image_ids[:left], class_name=class_name))
        left -= len(changes[-1].image_ids)
        if not left:
            break
    note = "Labels were changed at the label desk"
    note += (
        ", test pictures among them: earlier test scores are not comparable." if test else "; the test is untouched."
    )
    return change_version(database, version, VersionChanges(relabel=changes), notes=[note], asked_at=asked_at)


def next_test_place(session: Session, version: DatasetVersion, after: int = -1) -> VersionImage | None:
    """The next test picture that nobody has looked at, in the order of the version; no model is asked."""
    said = and_(LabelDecision.dataset_id == version.dataset_id, LabelDecision.image_id == VersionImage.image_id)
    query = (
        select(VersionImage)
        .outerjoin(LabelDecision, said)
        .where(
            VersionImage.version_id == version.id,
            VersionImage.split == Split.TEST,
            VersionImage.ordinal > after,
            LabelDecision.image_id.is_(None),
        )
        .options(joinedload(VersionImage.image))
        .order_by(VersionImage.ordinal)
    )
    return session.scalar(query.limit(1))


def test_looked_at(session: Session, version: DatasetVersion) -> int:
    """How many test pictures of a version a person has said something of."""
    said = and_(LabelDecision.dataset_id == version.dataset_id, LabelDecision.image_id == VersionImage.image_id)
    query = select(func.count()).select_from(VersionImage).join(LabelDecision, said)
    return session.scalar(query.where(VersionImage.version_id == version.id, VersionImage.split == Split.TEST)) or 0


def newest_quick_run(session: Session, version_id: str | None) -> Run | None:
    """The newest run of the quick preset, as it is, on a version: what is trained again, and what it is compared with."""
    query = select(Run).where(Run.dataset_version_id == version_id, Run.preset == QUICK, Run.deleted_at.is_(None))
    wanted = PRESETS[QUICK].config.model_dump(mode="json")
    usable = query.where(Run.status.not_in([RunStatus.FAILED, RunStatus.CANCELLED])).order_by(Run.id.desc()).limit(20)
    return next((run for run in session.scalars(usable) if run.config == wanted), None)


def train_again(session: Session, queue: Queue, version: DatasetVersion) -> list[Run]:
    """Queue the quick preset on a version, and on the one it was made from, where no such run is there yet."""
    wish = NewRun(config=PRESETS[QUICK].config, preset=QUICK)
    made = []
    for version_id in filter(None, (version.base_version_id, version.id)):
        one = session.get(DatasetVersion, version_id)
        if one is not None and newest_quick_run(session, one.id) is None:
            made += create_runs(session, queue, one, wish)
    return made
