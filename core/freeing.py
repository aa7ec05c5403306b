"""Pictures that nobody uses any more are freed: their rows at once, their files an hour later (who reads one now may finish).

What workers keep of them in caches goes then too (`worker.cache_cleaning`).

A picture is in use while a dataset version has it, or the receipt of an upload that may still become one names it. Its row belongs to a
person, its file is shared by all who have the same bytes: the file goes when the last row is gone.

Why no ingest loses a file that it found there already:
- A file is marked as being removed in a transaction that sees no row of it, then removed, then forgotten. Both transactions raise
  the number `REMOVALS`, which is also their lock.
- An ingest reads that number before it looks for files, and again in the transaction that writes its rows (`hold_files`), where it holds
  the lock against both. If a file of its own is being removed, it waits; if the number is another one, it looks again, and
  stores what is gone. So no row can appear between mark and removal, and none without a file after it.
- A remover that is killed leaves its marks; the next one goes on with them.
"""

import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import delete, exists, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import Database, database_now
from core.errors import ThawError
from core.storage import Storage, blob_key, thumbnail_key
from core.tables import (
    Dataset,
    DatasetVersion,
    FreedFile,
    HouseNumber,
    Image,
    ReceiptRow,
    Upload,
    UploadStatus,
    VersionImage,
)

REMOVALS = "removals"  # rises whenever files are marked, or were removed
LEFT = "left"  # rises whenever something was deleted that may have used pictures
LOOKED_AT = 2000  # pictures in one reading step
ROWS_AT_ONCE = 500  # pictures in one writing transaction
FILES_AT_ONCE = 200
KEPT_SECONDS = 3600.0
MOST_COUNTED = 20_000  # places of pictures in the versions of a dataset: a page waits for no more


class BeingRemoved(ThawError):
    """A file that is to be used is being removed in this moment: try again in a second."""


def note_left(session: Session) -> None:
    """Something was deleted that may have used pictures: the sweeper looks for them at its next sweep."""
    _raise_number(session, LEFT)


def note_all_left(session: Session, owner_id: str) -> None:
    """A person is about to be deleted with every row of theirs: have the files looked at that no other person uses."""
    found = select(Image.sha256, database_now(), literal(False)).where(Image.owner_id == owner_id)
    session.execute(_remember(session).from_select(["sha256", "freed_at", "removing"], found))


def removals(session: Session) -> int:
    """The number to give to `hold_files` later. Read it before looking for any file."""
    return _number(session, REMOVALS)


def hold_files(session: Session, sha256s: Collection[str], since: int) -> bool:
    """From now to the end of this transaction no file is removed; nor later, while a row names it.

    Args:
        session: a writing session in which the rows are about to be written; nothing else was written yet.
        sha256s: whose files are needed (at most a few hundred).
        since: what `removals` said before they were looked for.

    Returns:
        True when files were removed since: look again whether all are there.

    Raises:
        BeingRemoved: one of them is being removed now.
    """
    number = select(HouseNumber.number).where(HouseNumber.name == REMOVALS).with_for_update(read=True)
    now = session.scalar(number)
    if now is None:  # nothing was ever removed: the row must be there to be held
        first = _inserting(session)(HouseNumber).values(name=REMOVALS, number=0)
        session.execute(first.on_conflict_do_nothing(index_elements=["name"]))
        now = session.scalars(number).one()
    going = select(FreedFile.sha256).where(FreedFile.sha256.in_(sha256s), FreedFile.removing).limit(1)
    one = session.scalar(going)
    if one is not None:
        raise BeingRemoved(f"The file {one} is being removed now.")
    return now != since


def hold_removals(session: Session) -> None:
    """Be the only one who removes files until this transaction ends; whoever looked for files before looks again."""
    _raise_number(session, REMOVALS)


def bytes_to_free(session: Session, dataset: Dataset) -> tuple[int, int] | None:
    """Pictures, and their bytes, that only this dataset of this person uses; None where counting would take long."""
    listed = select(func.sum(DatasetVersion.image_count)).where(DatasetVersion.dataset_id == dataset.id)
    if (session.scalar(listed) or 0) > MOST_COUNTED:
        return None
    of_it = select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset.id)
    mine = select(VersionImage.image_id).where(VersionImage.version_id.in_(of_it))
    elsewhere = exists().where(VersionImage.image_id == Image.id, VersionImage.version_id.not_in(of_it))
    summed = select(func.count(), func.coalesce(func.sum(Image.size_bytes), 0)).select_from(Image)
    count, size = session.execute(summed.where(Image.id.in_(mine), ~elsewhere)).one()
    return int(count), int(size)


class Freeing:
    """Frees what nobody uses, in small steps. One sweeper at a time calls it; two would be wasteful, and harmless while leases hold."""

    def __init__(self, settings: Settings, database: Database, storage: Storage) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._seen: int | None = None
        self._after: str | None = None

    def look_again(self) -> None:
        """Have every picture looked at, though nobody noted that something was deleted."""
        self._seen = None

    def step(self, good_until: float) -> bool:
        """One step, of a few hundred pictures at most; False when there is nothing to do now.

        Args:
            good_until: no file is touched after this moment of `time.monotonic`: another sweeper may be at it.
        """
        return self._free_rows() or self._remove_files(good_until)

    # --- rows

    def _free_rows(self) -> bool:
        with self._database.read() as session:
            if self._after is None:
                left = _number(session, LEFT)
                if left == self._seen:
                    return False
                self._seen, self._after = left, ""
            page = session.scalars(select(Image.id).where(Image.id > self._after).order_by(Image.id).limit(LOOKED_AT))
            ids = list(page)
            used = _in_use(session, self._settings, ids)
        unused = [one for one in ids if one not in used]
        for start in range(0, len(unused), ROWS_AT_ONCE):
            with self._database.write() as session:
                free_rows(session, self._settings, unused[start : start + ROWS_AT_ONCE])
        self._after = ids[-1] if len(ids) == LOOKED_AT else None
        return True

    # --- files

    def _remove_files(self, good_until: float) -> bool:
        due = select(FreedFile.sha256).where(FreedFile.freed_at <= database_now() - KEPT_SECONDS)
        due = due.order_by(FreedFile.freed_at).limit(FILES_AT_ONCE)
        with self._database.read() as session:
            if session.scalar(due.limit(1)) is None:
                return False
        with self._database.write() as session:
            hold_removals(session)
            some = list(session.scalars(due))
            used = set(session.scalars(select(Image.sha256).where(Image.sha256.in_(some))))
            session.execute(delete(FreedFile).where(FreedFile.sha256.in_(used)))
            going = [one for one in some if one not in used]
            session.execute(update(FreedFile).where(FreedFile.sha256.in_(going)).values(removing=True))
        gone = self._removed(going, good_until)
        with self._database.write() as session:
            hold_removals(session)
            session.execute(delete(FreedFile).where(FreedFile.sha256.in_(gone), FreedFile.removing))
        return len(gone) == len(going)

    def _removed(self, sha256s: Sequence[str], good_until: float) -> list[str]:
        """Those whose files are gone."""

        def remove(sha256: str) -> bool:
            for key in (blob_key(sha256), thumbnail_key(sha256)):
                if time.monotonic() > good_until:
                    return False
                self._storage.delete(key)
            return True

        with ThreadPoolExecutor(self._storage.parallel, thread_name_prefix="freeing") as pool:
            return [one for one, gone in zip(sha256s, pool.map(remove, sha256s), strict=True) if gone]


def free_rows(session: Session, settings: Settings, image_ids: Sequence[str]) -> None:
    """Delete those of some pictures that are not in use, and remember their files for later.

    The rows are locked first, the uses read after: PostgreSQL shows every statement what was committed before it, and whoever
    is about to use one of these rows waits for the lock, and then sees that it is gone (`core.datasets.remember_images`).
    """
    lock = select(Image.id).where(Image.id.in_(image_ids)).order_by(Image.id).with_for_update(skip_locked=True)
    held = list(session.scalars(lock))
    used = _in_use(session, settings, held)
    unused = [one for one in held if one not in used]
    gone = delete(Image).where(Image.id.in_(unused)).returning(Image.sha256)
    sha256s = set(session.scalars(gone.execution_options(synchronize_session=False)))
    sha256s -= set(session.scalars(select(Image.sha256).where(Image.sha256.in_(sha256s))))  # other people's
    if sha256s:
        now = session.scalars(select(database_now())).one()
        rows = [{"sha256": one, "freed_at": now, "removing": False} for one in sorted(sha256s)]
        session.execute(_remember(session), rows)


def _in_use(session: Session, settings: Settings, image_ids: Sequence[str]) -> set[str]:
    """Those of some pictures that a version has, or that an upload needs which goes on, or may (`core.uploads.retry_upload`)."""
    used = set(session.scalars(select(VersionImage.image_id).where(VersionImage.image_id.in_(image_ids)).distinct()))
    rest = [one for one in image_ids if one not in used]
    named = select(ReceiptRow.image_id, Upload.id, Upload.status).join(Upload, Upload.id == ReceiptRow.upload_id)
    named = named.where(ReceiptRow.image_id.in_(rest), Upload.status != UploadStatus.READY).distinct()
    for image_id, upload_id, status in session.execute(named):
        if image_id is not None and (
            status != UploadStatus.REJECTED or (settings.incoming_folder / upload_id).is_dir()
        ):
            used.add(image_id)
    return used


def _remember(session: Session) -> Any:
    """An insert of `FreedFile` rows; for one that is there already the time begins anew."""
    made = _inserting(session)(FreedFile)
    return made.on_conflict_do_update(index_elements=["sha256"], set_={"freed_at": made.excluded.freed_at})


def _raise_number(session: Session, name: str) -> None:
    raised = _inserting(session)(HouseNumber).values(name=name, number=1)
    higher = {"number": HouseNumber.number + 1}
    session.execute(raised.on_conflict_do_update(index_elements=["name"], set_=higher))


def _number(session: Session, name: str) -> int:
    return session.scalar(select(HouseNumber.number).where(HouseNumber.name == name)) or 0


def _inserting(session: Session) -> Any:
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
