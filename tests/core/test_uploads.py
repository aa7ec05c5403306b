"""Uploads: what is added while another request completes the upload is either in it or refused, never forgotten."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core import datasets, uploads
from core.config import Settings
from core.database import Database
from core.errors import Conflict
from core.tables import Upload, UploadFile, UploadStatus
from tests.core.rows import RememberingQueue, person

pytestmark = pytest.mark.both_databases


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings in a folder of this test alone."""
    return Settings(data_dir=tmp_path)


def _open(database: Database) -> str:
    with database.write() as session:
        upload = uploads.open_upload(session, datasets.create_dataset(session, person(session).id, "Fruit"))
        session.add(UploadFile(upload_id=upload.id, path="first.png", sha256="0" * 64, size_bytes=1))
        return upload.id


def _file(path: str) -> UploadFile:
    return UploadFile(path=path, sha256="1" * 64, size_bytes=100)


def _other_request(call: Callable[[], None]) -> Callable[[], BaseException | None]:
    """Begin it on a thread; the returned function waits for its end and gives its error."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.3)  # it gets as far as the row that we hold
    assert thread.is_alive(), "it waits for us"

    def end() -> BaseException | None:
        thread.join(20)
        return errors[0] if errors else None

    return end


def test_a_file_that_is_being_added_is_in_the_upload_that_is_completed(database: Database, settings: Settings) -> None:
    upload_id = _open(database)

    def complete() -> None:
        with database.write() as session:
            uploads.complete_upload(session, RememberingQueue(), session.get_one(Upload, upload_id))  # type: ignore[arg-type]

    with database.write() as session:
        uploads.add_file(session, settings, session.get_one(Upload, upload_id), _file("second.png"))
        end = _other_request(complete)
    assert end() is None
    with database.read() as session:
        upload = session.get_one(Upload, upload_id)
        assert (upload.status, upload.received_bytes, upload.total_bytes) == (UploadStatus.RECEIVED, 100, 100)


def test_a_file_that_comes_while_the_upload_is_completed_is_refused(database: Database, settings: Settings) -> None:
    upload_id = _open(database)

    def add() -> None:
        with database.write() as session:
            uploads.add_file(session, settings, session.get_one(Upload, upload_id), _file("late.png"))

    with database.write() as session:
        uploads.complete_upload(session, RememberingQueue(), session.get_one(Upload, upload_id))  # type: ignore[arg-type]
        session.flush()
        end = _other_request(add)
    assert isinstance(end(), Conflict)
