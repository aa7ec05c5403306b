"""Whose checkpoints are still good for something: a run that failed because the disk was full has trained well as far as it came, and
is gone on from by the run that a person starts in its place (`retry_of`). Of every other run that has ended they are spent: what made
it fail may be in them.
"""

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.runs import ENDED
from core.tables import Run, RunStatus, utc_now

KEPT_FOR = timedelta(days=7)  # sentences to people call it a week


def goes_on_from(session: Session, run: Run) -> list[str]:
    """Ids of the runs whose checkpoints this one may go on from, nearest first: those that it repeats, while a full disk ended each."""
    found: list[str] = []
    while run.retry_of is not None:
        earlier = session.get(Run, run.retry_of)
        if earlier is None or not _ended_by_full_disk(earlier):
            break
        found.append(earlier.id)
        run = earlier
    return found


def keeps_checkpoints(session: Session, run: Run) -> bool:
    """Whether a run needs its checkpoints: it goes on itself, or a retry may within a week, unless one has succeeded already."""
    if run.status not in ENDED:
        return True
    if not _ended_by_full_disk(run) or run.finished_at is None or run.finished_at < utc_now() - KEPT_FOR:
        return False
    return not _has_succeeded_again(session, run)


def _ended_by_full_disk(run: Run) -> bool:
    return run.status == RunStatus.FAILED and (run.failure or {}).get("kind") == "disk_full"


def _has_succeeded_again(session: Session, run: Run) -> bool:
    """Whether a retry of this run has succeeded, or one of such a retry: each comes after the one that it repeats."""
    line = {run.id}
    later = select(Run.id, Run.retry_of, Run.status).where(Run.owner_id == run.owner_id, Run.id > run.id)
    for one in session.execute(later.where(Run.retry_of.is_not(None)).order_by(Run.id)):
        if one.retry_of in line:
            if one.status == RunStatus.SUCCEEDED:
                return True
            line.add(one.id)
    return False
