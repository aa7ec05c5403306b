"""The sweeper takes back, rings, and tidies."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import func, select, update

from app.sweeper import Sweeper
from core import unseen_versions
from core.accounts import create_start_link, local_user, open_browser_session
from core.config import Settings
from core.database import Database, database_now, open_database
from core.datasets import VersionDraft, create_dataset, delete_dataset, described
from core.leases import RUN_LIFE, UPLOAD_LIFE, claim
from core.queue import Queue
from core.quota import used_bytes
from core.tables import (
    BrowserSession,
    Dataset,
    DatasetVersion,
    FreedFile,
    Run,
    RunStatus,
    Singleton,
    StartLink,
    Upload,
    UploadStatus,
    WorkerRow,
    utc_now,
)
from core.uploads import open_upload
from tests.core.rows import version
from tests.end_to_end.house import wait_until
from tests.worker.tiny_dataset import queue_run

pytestmark = pytest.mark.both_databases


@dataclass
class CountedQueue:
    """Stands where the queue stands: a list whose length the test sets, None for a broker that is away."""

    listed: int | None = 0
    rung: list[str] = field(default_factory=list)

    def length(self, _: str) -> int | None:
        """Messages in the list."""
        return self.listed

    def ring(self, queue: str) -> None:
        """Remember."""
        self.rung.append(queue)


@pytest.fixture
def settings(tmp_path: Path, database_address: str) -> Settings:
    """Without a broker."""
    broker = f"unix://{tmp_path}/nobody.sock"
    return Settings(data_dir=tmp_path, database_url=database_address, redis_url=broker, disk_reserve_bytes=0)


@pytest.fixture
def house(settings: Settings) -> Iterator[Database]:
    """The database of these settings."""
    opened = open_database(settings)
    yield opened
    opened.close()


def sweeper_of(house: Database, settings: Settings, queue: CountedQueue) -> Sweeper:
    return Sweeper(house, settings, cast("Queue", queue))


def lose(house: Database) -> None:
    """A worker claims the run and dies."""
    with house.write() as session:
        assert claim(session, RUN_LIFE, "lost", 60) is not None
        session.execute(update(Run).where(Run.status == RunStatus.RUNNING).values(lease_expires_at=1.0))


def run_of(house: Database) -> Run:
    with house.read() as session:
        return session.scalars(select(Run)).one()


def forget_ring(house: Database) -> None:
    with house.write() as session:
        session.execute(update(Run).values(rung_at=None))


def test_a_lost_run_is_queued_again_and_rung_for(house: Database, settings: Settings) -> None:
    queue_run(house, settings)
    lose(house)
    before, queue = run_of(house).revision, CountedQueue()
    assert sweeper_of(house, settings, queue).sweep()
    run = run_of(house)
    assert (run.status, run.failures, queue.rung) == (RunStatus.QUEUED, 1, ["train"])
    assert run.revision > before, "watchers go by the revision"
    assert run.progress["message"] == "Queued again: its worker disappeared"


def test_a_run_lost_three_times_fails_with_a_sentence(house: Database, settings: Settings) -> None:
    queue_run(house, settings)
    sweeper = sweeper_of(house, settings, CountedQueue())
    for _ in range(3):
        lose(house)
        sweeper.sweep()
    run = run_of(house)
    assert run.status == RunStatus.FAILED
    assert run.failure is not None
    assert "lost 3 times" in run.failure["message"]
    assert run.finished_at is not None


def test_a_lost_upload_is_taken_back_and_rejected_at_the_third_time(house: Database, settings: Settings) -> None:
    with house.write() as session:
        upload = open_upload(session, create_dataset(session, local_user(session).id, "Shapes"))
        upload.status = UploadStatus.RECEIVED
    sweeper = sweeper_of(house, settings, CountedQueue())
    for _ in range(3):
        with house.write() as session:
            assert claim(session, UPLOAD_LIFE, "lost", 60) is not None
            session.execute(update(Upload).values(lease_expires_at=1.0))
        sweeper.sweep()
    with house.read() as session:
        upload = session.scalars(select(Upload)).one()
    assert upload.status == UploadStatus.REJECTED
    assert upload.error is not None
    assert "three times" in upload.error


def test_a_row_is_rung_for_once_in_a_while_only(house: Database, settings: Settings) -> None:
    queue_run(house, settings)
    forget_ring(house)
    queue = CountedQueue()
    sweeper = sweeper_of(house, settings, queue)
    for _ in range(5):
        sweeper.sweep()
    assert queue.rung == ["train"]


def test_nothing_is_rung_while_the_list_is_as_long_as_the_waiting_rows(house: Database, settings: Settings) -> None:
    queue_run(house, settings)
    forget_ring(house)
    queue = CountedQueue(listed=1)
    sweeper_of(house, settings, queue).sweep()
    assert queue.rung == []


def test_with_the_broker_down_lost_runs_are_taken_back_and_rung_for_when_it_is_back(
    house: Database, settings: Settings
) -> None:
    queue_run(house, settings)
    lose(house)
    queue = CountedQueue(listed=None)
    sweeper = sweeper_of(house, settings, queue)
    sweeper.sweep()
    assert (run_of(house).status, queue.rung) == (RunStatus.QUEUED, [])
    queue.listed = 0
    sweeper.sweep()
    assert queue.rung == ["train"], "at once, not after another half minute"


def test_there_is_one_sweeper_among_many_web_processes(house: Database, settings: Settings) -> None:
    first = sweeper_of(house, settings, CountedQueue())
    second = sweeper_of(house, settings, CountedQueue())
    assert first.sweep()
    assert not second.sweep()
    first.start()
    first.stop()
    assert second.sweep()


def test_a_sweeper_that_died_is_followed_by_another(house: Database, settings: Settings) -> None:
    sweeper_of(house, settings, CountedQueue()).sweep()
    with house.write() as session:
        session.execute(update(Singleton).values(expires_at=database_now() - 1))
    assert sweeper_of(house, settings, CountedQueue()).sweep()


def test_its_thread_survives_an_error(house: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = settings.model_copy(update={"sweep_seconds": 0.05})
    sweeper = sweeper_of(house, quick, CountedQueue())
    swept: list[int] = []

    def fail() -> bool:
        swept.append(1)
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(sweeper, "sweep", fail)
    sweeper.start()
    wait_until(lambda: len(swept) >= 3, 10, "a third sweep")
    sweeper.stop()
    assert len(swept) >= 3


def test_what_nobody_needs_any_more_is_removed(house: Database, settings: Settings) -> None:
    with house.write() as session:
        user = local_user(session)
        open_browser_session(session, user, days=1)
        create_start_link(session, user)
        session.add(WorkerRow(id="gone", queues=[], devices=[], heartbeat_at=1.0))
        session.execute(update(BrowserSession).values(expires_at=utc_now() - timedelta(seconds=1)))
        session.execute(update(StartLink).values(expires_at=utc_now() - timedelta(days=2)))
    sweeper_of(house, settings, CountedQueue()).sweep()
    with house.read() as session:
        for table in (BrowserSession, StartLink, WorkerRow):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_folders_of_deleted_uploads_and_runs_are_removed_but_not_young_or_known_ones(
    house: Database, settings: Settings
) -> None:
    run_id = queue_run(house, settings)
    folders = {name: settings.runs_folder / name for name in (run_id, "old-orphan", "young-orphan")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        if name != "young-orphan":
            os.utime(folder, (1, 1))
    sweeper_of(house, settings, CountedQueue()).sweep()
    assert {path.name for path in settings.runs_folder.iterdir()} == {run_id, "young-orphan"}


def test_an_archive_of_a_batch_prediction_that_is_gone_is_removed(house: Database, settings: Settings) -> None:
    file = settings.storage_folder / "batches" / "gone" / "archive"
    spool = settings.folder / "batches" / "gone-1"
    for folder in (file.parent, spool):
        folder.mkdir(parents=True)
    file.write_bytes(b"zip")
    for path in (file, spool):
        os.utime(path, (1, 1))
    sweeper_of(house, settings, CountedQueue()).sweep()
    assert not file.exists()
    assert not spool.exists()


def test_pictures_of_a_deleted_dataset_are_freed_at_the_next_sweep(house: Database, settings: Settings) -> None:
    with house.write() as session:
        made = version(session, local_user(session))
        dataset = session.get_one(Dataset, made.dataset_id)
    sweeper = sweeper_of(house, settings, CountedQueue())
    sweeper.sweep()
    with house.write() as session:
        assert used_bytes(session, dataset.owner_id) == 1000
        delete_dataset(session, dataset, force=False)
    sweeper.sweep()
    with house.read() as session:
        assert used_bytes(session, dataset.owner_id) == 0
        assert session.scalar(select(func.count()).select_from(FreedFile)) == 10


def test_a_version_that_nobody_finished_is_removed(house: Database, settings: Settings) -> None:
    with house.write() as session:
        base = version(session, local_user(session))
        dataset = session.get_one(Dataset, base.dataset_id)
        for age in (timedelta(minutes=5), timedelta(hours=2)):
            begun = unseen_versions.begin(session, dataset, **described(VersionDraft([])))
            begun.created_at = utc_now() - age
    sweeper_of(house, settings, CountedQueue()).sweep()
    with house.read() as session:
        numbers = list(session.scalars(select(DatasetVersion.number)))
        assert (len(numbers), min(numbers) < 0, max(numbers)) == (2, True, 1)
