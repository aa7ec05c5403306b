"""An ingest finds a picture's file there already, and just then the sweeper removes it: no picture is ever without its file."""

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update

from core import freeing
from core.datasets import create_dataset, delete_dataset
from core.freeing import Freeing
from core.fsck import Fsck
from core.storage import FolderStorage, blob_key, open_storage, thumbnail_key
from core.tables import Dataset, FreedFile, Image, Upload, UploadStatus
from tests.worker.ingest.conftest import Files, Person
from tests.worker.ingest.corpus import classes, zipped
from worker.ingest.checkers import Job
from worker.ingest.ingest import Ingest, ingest_next

pytestmark = pytest.mark.both_databases
FLOWERS = classes(["roses", "tulips"])
PACKED: list[Files] = [dict(FLOWERS), {"flowers.zip": zipped(FLOWERS)}]


def begin_again(person: Person) -> None:
    """Delete the dataset and begin another one."""
    with person.database.write() as session:
        delete_dataset(session, session.get_one(Dataset, person.dataset_id), force=True)
        person.dataset_id = create_dataset(session, person.owner_id, "flowers").id


def sweep(person: Person) -> None:
    """Free what can be freed; nobody waits for an hour."""
    with person.database.write() as session:
        session.execute(update(FreedFile).values(freed_at=1.0))
    going = Freeing(person.settings, person.database, open_storage(person.settings))
    while going.step(time.monotonic() + 60):
        with person.database.write() as session:
            session.execute(update(FreedFile).values(freed_at=1.0))


def files(person: Person) -> int:
    return sum(1 for _ in open_storage(person.settings).listing("blobs"))


def check_all_is_there(person: Person, upload: Upload) -> None:
    assert (upload.status, upload.kept, upload.error) == (UploadStatus.READY, 8, None)
    storage = open_storage(person.settings)
    with person.database.read() as session:
        found = list(session.scalars(select(Image.sha256)))
    assert len(found) == 8
    for sha256 in found:
        assert storage.has(blob_key(sha256))
        assert storage.has(thumbnail_key(sha256))
    assert list(Fsck(person.settings, person.database, storage).run()) == []


def once_before(monkeypatch: pytest.MonkeyPatch, what: Callable[[], None]) -> None:
    """Do something between an ingest's look at its files and its rows."""
    real, done = Ingest._write_rows, []

    def write_rows(self: Ingest, jobs: list[Job], removed: int) -> None:
        if not done:
            done.append(1)
            what()
        real(self, jobs, removed)

    monkeypatch.setattr(Ingest, "_write_rows", write_rows)


@pytest.mark.parametrize("sent", PACKED, ids=["folder", "zip"])
def test_files_removed_between_look_and_rows_are_stored_again(
    sent: Files, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.upload(FLOWERS)
    begin_again(person)
    left = []

    def remove() -> None:
        sweep(person)
        left.append(files(person))

    once_before(monkeypatch, remove)
    upload = person.upload(sent)
    assert left == [0], "they were gone"
    check_all_is_there(person, upload)
    assert upload.attempt == 1


@pytest.mark.parametrize("sent", PACKED, ids=["folder", "zip"])
def test_an_ingest_waits_for_a_file_that_is_being_removed(
    sent: Files, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.upload(FLOWERS)
    begin_again(person)
    begun, go_on = threading.Event(), threading.Event()
    real = FolderStorage.delete

    def slowly(storage: FolderStorage, key: str) -> None:
        begun.set()
        assert go_on.wait(60)
        real(storage, key)

    monkeypatch.setattr(FolderStorage, "delete", slowly)
    sweeping = threading.Thread(target=sweep, args=(person,))
    sweeping.start()
    assert begun.wait(30), "marked, not one removed yet"
    upload_id = person.send(sent)
    ingesting = threading.Thread(target=ingest_next, args=(person.settings, person.database), kwargs={"owner": "test"})
    ingesting.start()
    ingesting.join(4)
    with person.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 0, "no row is without a file"
    assert ingesting.is_alive()
    go_on.set()
    ingesting.join(60)
    sweeping.join(60)
    check_all_is_there(person, person.look(upload_id))


def test_a_file_that_was_given_away_and_removed_costs_one_attempt(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-removed by a sweeper that died: what the ingest stores there is removed by the next one. Its archive is still there."""
    person.upload(FLOWERS)
    begin_again(person)
    going = Freeing(person.settings, person.database, open_storage(person.settings))
    with monkeypatch.context() as dying:
        dying.setattr(freeing, "KEPT_SECONDS", -1.0)
        dying.setattr(Freeing, "_removed", lambda *_: [])
        while going.step(time.monotonic() + 60):
            pass
    open_storage(person.settings).delete("blobs")
    once_before(monkeypatch, lambda: sweep(person))
    upload_id = person.send({"flowers.zip": zipped(FLOWERS)})
    with pytest.raises(FileNotFoundError):
        ingest_next(person.settings, person.database, owner="first")
    with person.database.write() as session:
        session.execute(update(Upload).values(status=UploadStatus.RECEIVED, lease_owner=None))
    assert ingest_next(person.settings, person.database, owner="second")
    check_all_is_there(person, person.look(upload_id))


def test_a_sweeper_that_never_rests_takes_nothing_from_uploads(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeing, "KEPT_SECONDS", -1.0)
    monkeypatch.setattr(freeing, "FILES_AT_ONCE", 3)
    monkeypatch.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 2)
    ended, steps = threading.Event(), []

    def never_rest() -> None:
        going = Freeing(person.settings, person.database, open_storage(person.settings))
        while not ended.is_set():
            going.look_again()
            steps.append(going.step(time.monotonic() + 60))

    sweeping = threading.Thread(target=never_rest)
    sweeping.start()
    try:
        for _ in range(3):
            check_all_is_there(person, person.upload(FLOWERS))
            begin_again(person)
    finally:
        ended.set()
        sweeping.join(30)
    assert sum(steps) > 3
