"""Fixtures for ingest: settings in a temporary folder, and a person who uploads files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from core.config import Settings
from core.database import Database
from core.datasets import create_dataset, latest_version
from core.ids import new_id
from core.tables import DatasetVersion, ReceiptRow, Upload, UploadFile, UploadStatus, User
from core.uploads import incoming_folder
from worker.ingest.ingest import ingest_next

Files = dict[str, bytes | Path]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with everything under the test's own folder."""
    return Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0, ingest_processes=1)


class Person:
    """Somebody with one dataset, who uploads and looks at what came of it."""

    def __init__(self, settings: Settings, database: Database, *, name: str = "ada") -> None:
        self.settings = settings
        self.database = database
        with database.write() as session:
            user = User(name=name, password_hash=None)
            session.add(user)
            session.flush()
            self.dataset_id = create_dataset(session, user.id, "flowers").id
            self.owner_id = user.id

    def send(self, files: Files) -> str:
        """Receive files as the web process would; returns the upload's id. Nothing is ingested yet."""
        with self.database.write() as session:
            upload = Upload(
                owner_id=self.owner_id, dataset_id=self.dataset_id, status=UploadStatus.RECEIVED, by_reason={}
            )
            session.add(upload)
            session.flush()
            folder = incoming_folder(self.settings, upload.id)
            folder.mkdir(parents=True)
            for path, body in files.items():
                received = body if isinstance(body, bytes) else body.read_bytes()
                one = UploadFile(id=new_id(), upload_id=upload.id, path=path, size_bytes=len(received))
                one.sha256 = hashlib.sha256(received).hexdigest()
                (folder / one.id).write_bytes(received)
                session.add(one)
            return upload.id

    def upload(self, files: Files) -> Upload:
        """Send and ingest."""
        upload_id = self.send(files)
        assert ingest_next(self.settings, self.database, owner="test")
        return self.look(upload_id)

    def look(self, upload_id: str) -> Upload:
        """The upload's row."""
        with self.database.read() as session:
            return session.get_one(Upload, upload_id)

    def version(self) -> DatasetVersion:
        """The newest version of the dataset."""
        with self.database.read() as session:
            version = latest_version(session, self.dataset_id)
            assert version is not None
            return version

    def receipt(self, upload: Upload) -> dict[str, ReceiptRow]:
        """The receipt by path."""
        with self.database.read() as session:
            rows = session.scalars(
                select(ReceiptRow).where(ReceiptRow.upload_id == upload.id).order_by(ReceiptRow.ordinal)
            )
            return {row.path: row for row in rows}


@pytest.fixture
def person(settings: Settings, database: Database) -> Person:
    """A person with an empty dataset."""
    return Person(settings, database)


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write bytes to a file of its own."""

    def write(body: bytes) -> Path:
        path = tmp_path / new_id()
        path.write_bytes(body)
        return path

    return write
