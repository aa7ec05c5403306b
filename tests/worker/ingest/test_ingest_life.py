"""The life of an ingest: killed, fenced, cancelled, drained, out of room, two at once; with a real database and real decoder processes."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from core.config import Settings
from core.database import Database, database_now
from core.datasets import latest_version
from core.errors import Conflict, Fenced
from core.leases import UPLOAD_LIFE, claim
from core.tables import Upload, UploadStatus
from core.uploads import delete_upload, incoming_folder, retry_upload
from tests.core.rows import RememberingQueue
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import classes, tarred, zipped
from worker.ingest.ingest import Ingest, ingest_next

FLOWERS = classes(["roses", "tulips"])


def test_nothing_waits_nothing_is_done(settings: Settings, database: Database) -> None:
    assert ingest_next(settings, database, owner="test") is False


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


def killed_after(person: Person, upload_id: str, writes: int) -> None:
    """Run an attempt that dies at its n-th write of the receipt; then its lease is taken away."""
    said = []

    def announce(_: str) -> None:
        said.append(1)
        if len(said) == writes:
            raise Killed

    with pytest.raises(Killed):
        ingest_next(person.settings, person.database, owner="first", announce=announce)
    with person.database.write() as session:
        session.execute(
            update(Upload).where(Upload.id == upload_id).values(status=UploadStatus.RECEIVED, lease_owner=None)
        )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("writes", [1, 2, 4])
def test_a_killed_ingest_goes_on_from_its_receipt(
    writes: int, packed: bool, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 3)
    monkeypatch.setattr("worker.ingest.ingest.SECONDS_AT_MOST", 600.0)
    files: dict[str, bytes | Path] = {"x.tar.gz": tarred(FLOWERS, mode="w:gz")} if packed else dict(FLOWERS)
    upload_id = person.send(files)
    killed_after(person, upload_id, writes)
    written = person.receipt(person.look(upload_id))
    assert len(written) == 3 * (writes - 1) if writes < 4 else 8
    assert ingest_next(person.settings, person.database, owner="second")
    upload = person.look(upload_id)
    assert (upload.status, upload.kept, upload.files_done) == (UploadStatus.READY, 8, 8)
    receipt = person.receipt(upload)
    assert [row.ordinal for row in receipt.values()] == list(range(8))
    assert {path: row.image_id for path, row in receipt.items() if path in written} == {
        p: r.image_id for p, r in written.items()
    }
    assert person.version().image_count == 8
    assert not list(person.settings.incoming_folder.glob("*"))


def test_a_fenced_attempt_writes_nothing_more(person: Person) -> None:
    upload_id = person.send(FLOWERS)
    said = []

    def another_takes_it(_: str) -> None:
        if not said:
            with person.database.write() as session:
                session.execute(update(Upload).where(Upload.id == upload_id).values(attempt=Upload.attempt + 1))
        said.append(1)

    assert ingest_next(person.settings, person.database, owner="slow", announce=another_takes_it)
    upload = person.look(upload_id)
    assert (upload.status, upload.attempt) == (UploadStatus.INGESTING, 2)
    assert person.receipt(upload) == {}
    assert incoming_folder(person.settings, upload_id).exists()


def test_a_deleted_upload_stops_its_ingest(person: Person) -> None:
    upload_id = person.send(FLOWERS)

    def somebody_deletes_it(_: str) -> None:
        with person.database.write() as session:
            found = session.get(Upload, upload_id)
            if found is not None:
                delete_upload(session, person.settings, found)

    assert ingest_next(person.settings, person.database, owner="test", announce=somebody_deletes_it)
    with person.database.read() as session:
        assert session.get(Upload, upload_id) is None
        assert latest_version(session, person.dataset_id) is None
    assert not incoming_folder(person.settings, upload_id).exists()


def test_a_cancel_request_is_noticed(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = settings.model_copy(update={"renew_seconds": 0.05})
    monkeypatch.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 1)
    person = Person(quick, database)
    upload_id = person.send(classes(["roses", "tulips"], each=150))

    def ask(_: str) -> None:
        with database.write() as session:
            session.execute(update(Upload).where(Upload.id == upload_id).values(cancel_requested_at=database_now()))

    assert ingest_next(quick, database, owner="test", announce=ask)
    upload = person.look(upload_id)
    assert (upload.status, upload.error) == (UploadStatus.REJECTED, "The upload was cancelled.")
    assert upload.files_done < 300


def test_a_drained_worker_gives_the_upload_back_and_no_failure_is_counted(person: Person) -> None:
    upload_id = person.send(FLOWERS)
    drain = threading.Event()
    drain.set()
    assert ingest_next(person.settings, person.database, owner="first", drain=drain)
    upload = person.look(upload_id)
    assert (upload.status, upload.failures, upload.lease_owner) == (UploadStatus.RECEIVED, 0, None)
    assert ingest_next(person.settings, person.database, owner="second")
    assert person.look(upload_id).status == UploadStatus.READY


def test_a_full_disk_is_a_sentence_and_the_received_bytes_stay(database: Database, settings: Settings) -> None:
    full = settings.model_copy(update={"disk_reserve_bytes": 10**18})
    person = Person(full, database)
    upload_id = person.send(FLOWERS)
    assert ingest_next(full, database, owner="test")
    upload = person.look(upload_id)
    assert upload.status == UploadStatus.REJECTED
    assert upload.error is not None
    assert "reserve" in upload.error
    assert len(list(incoming_folder(full, upload_id).iterdir())) == 8
    queue = RememberingQueue()
    with database.write() as session:
        retry_upload(session, settings, queue, session.get_one(Upload, upload_id))
    assert queue.rung == ["ingest"]
    assert ingest_next(settings, database, owner="test")
    assert (person.look(upload_id).status, person.look(upload_id).error) == (UploadStatus.READY, None)
    with database.write() as session, pytest.raises(Conflict):
        retry_upload(session, settings, queue, session.get_one(Upload, upload_id))


def test_an_archive_that_unpacks_beyond_the_quota_is_rejected_with_a_sentence(
    database: Database, settings: Settings
) -> None:
    person = Person(settings.model_copy(update={"quota_bytes": 6_000}), database)
    first = person.upload({"flowers.zip": zipped(classes(["roses", "tulips"], each=3))})
    assert first.status == UploadStatus.READY, first.error
    second = person.upload({"more.zip": zipped(classes(["asters", "tulips"], each=10, folder="x/"))})
    assert second.status == UploadStatus.REJECTED
    assert "are allowed for one person" in (second.error or "")


def test_what_nobody_foresaw_ends_the_lease_and_is_raised(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nobody foresaw this")

    upload_id = person.send(FLOWERS)
    monkeypatch.setattr("worker.ingest.ingest.make_version", broken)
    with pytest.raises(KeyError):
        ingest_next(person.settings, person.database, owner="test")
    with person.database.read() as session:
        late = select(Upload.lease_expires_at < database_now()).where(Upload.id == upload_id)
        assert session.scalars(late).one()
    assert person.look(upload_id).status == UploadStatus.INGESTING


def test_progress_is_counted_for_the_page(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 2)
    monkeypatch.setattr("worker.ingest.ingest.SECONDS_AT_MOST", 600.0)
    upload_id = person.send(FLOWERS)
    seen = []
    ingest_next(
        person.settings,
        person.database,
        owner="test",
        announce=lambda _: seen.append((person.look(upload_id).files_done, person.look(upload_id).revision)),
    )
    assert [done for done, _ in seen][:5] == [0, 2, 4, 6, 8]
    assert [revision for _, revision in seen] == sorted(revision for _, revision in seen)


def test_what_a_deletion_could_not_remove_under_our_hands_goes_when_we_stop(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = person.send({"x.zip": zipped(FLOWERS)})
    folder = incoming_folder(person.settings, upload_id)

    def delete_it(*_: object) -> None:
        with person.database.write() as session:
            delete_upload(session, person.settings, session.get_one(Upload, upload_id))
        (folder / "spool-1").mkdir(parents=True)  # as when it is emptied and we write the next file into it
        raise Fenced("It is gone.")

    monkeypatch.setattr(Ingest, "_check_pictures", delete_it)
    assert ingest_next(person.settings, person.database, owner="test")
    assert not folder.exists()


def test_an_upload_that_is_gone_before_it_begins_is_left_alone(person: Person) -> None:
    upload_id = person.send(FLOWERS)
    with person.database.write() as session:
        held = claim(session, UPLOAD_LIFE, "test", 60)
        assert held is not None
        session.execute(delete(Upload).where(Upload.id == upload_id))
    Ingest(person.settings, person.database, held, lambda _: None).run()
    assert len(list(incoming_folder(person.settings, upload_id).iterdir())) == 8  # it touched nothing
