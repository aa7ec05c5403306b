"""One upload over two worker processes: both check pictures, a killed helper costs nothing, nobody helping neither."""

import functools
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import Database
from core.datasets import create_dataset
from core.leases import SHARE_LIFE, UPLOAD_LIFE, Claim, claim
from core.tables import (
    DatasetVersion,
    LabelCheck,
    LabelCheckStatus,
    ShareStatus,
    Upload,
    UploadShare,
    UploadStatus,
)
from core.upload_shares import finish_share, offer_share, take_back
from core.uploads import delete_upload, incoming_folder
from tests.end_to_end.house import wait_until
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import encoded, picture, zipped
from worker.ingest import sharing, sources
from worker.ingest.checkers import Checkers, Job, answer_of
from worker.ingest.ingest import ingest_next
from worker.ingest.sharing import Sharing, help_next, thumbnail_of
from worker.ingest.sources import Contents
from worker.lifeline import child_setup
from worker.training.pictures import PictureLimits
from worker.workplace import Workplace

pytestmark = pytest.mark.timeout(280)
COUNT = 40
FOLDER = Path(__file__).resolve().parents[3]
HELPER = """
import logging, time
logging.basicConfig(level=logging.INFO)
from core.config import read_settings
from worker.ingest.sharing import help_next
from worker.workplace import Workplace
place = Workplace(read_settings(), ("ingest",))
print("ready", flush=True)
while True:
    help_next(place)
    time.sleep(0.05)
"""


@pytest.fixture
def ada(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Person:
    """A person whose uploads are ingested with one checker a worker, in shares of ten files."""
    monkeypatch.setattr(sharing, "FILES", 10)
    return Person(settings.model_copy(update={"renew_seconds": 0.2}), database)


@contextmanager
def helping(person: Person, log: Path, other: dict[str, float] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Another worker process, which does nothing but help; it has begun. `other`: settings in which it differs."""
    settings = person.settings.model_copy(update=other)
    given = {"DATA_DIR": settings.data_dir, "DATABASE_URL": person.database.address, "INGEST_PROCESSES": 1}
    given["REDIS_URL"] = "redis://127.0.0.1:1/0"  # nobody is there, and nobody is asked
    given |= {"LEASE_SECONDS": settings.lease_seconds, "RENEW_SECONDS": settings.renew_seconds, "DISK_RESERVE_BYTES": 0}
    environment = os.environ | {f"THAW_{name}": str(value) for name, value in given.items()}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", HELPER],
            cwd=FOLDER,
            env=environment,
            stdout=said,
            stderr=said,
            preexec_fn=child_setup(),  # noqa: PLW1509
        )
    try:
        while b"ready" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@functools.cache
def pictures(count: int) -> dict[str, bytes | Path]:
    """Pictures that take a moment to decode, among them a broken one and a text."""

    def body(number: int) -> bytes:
        coarse = PillowImage.fromarray(np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8))
        return encoded(coarse.resize((800, 600), PillowImage.Resampling.BILINEAR), "PNG", compress_level=1)

    files = {f"class {number % 2}/{number:03}.png": body(number) for number in range(count)}
    return {"x.zip": zipped(files | {"class 1/044.txt": b"a text", "class 1/054a.png": b"no picture"})}


def statuses(person: Person) -> list[ShareStatus]:
    with person.database.read() as session:
        return list(session.scalars(select(UploadShare.status)))


def ended(person: Person, upload_id: str) -> str:
    """The fingerprint of the version that the upload has become, with a whole receipt and nothing left."""
    upload = person.look(upload_id)
    assert (upload.status, upload.kept, upload.refused, upload.skipped) == (UploadStatus.READY, COUNT, 1, 1), (
        upload.error
    )
    assert [row.ordinal for row in person.receipt(upload).values()] == list(range(COUNT + 2))
    assert statuses(person) == []
    assert not list(person.settings.incoming_folder.glob("*"))
    return person.version().fingerprint


def checked(log: Path) -> int:
    """Files that the helper has checked and handed over."""
    return sum(int(count) for count in re.findall(r"checked (\d+) of its files for another", log.read_text()))


ALONE: list[str] = []  # the fingerprint of what one worker makes of the pictures


def fingerprint_of_one(person: Person, files: dict[str, bytes | Path]) -> str:
    """What one worker makes of them; then the person goes on with an empty dataset."""
    if not ALONE:
        upload_id = person.send(files)
        assert ingest_next(person.settings, person.database, owner="alone")
        ALONE.append(ended(person, upload_id))
        with person.database.write() as session:
            person.dataset_id = create_dataset(session, person.owner_id, "again").id
    return ALONE[0]


@contextmanager
def waiting_for_a_helper(person: Person, stop: subprocess.Popen[bytes] | None = None) -> Iterator[None]:
    """Whoever ingests an upload goes on only when a helper has taken the first share, however slowly it begins; `stop`: it is
    stopped in the middle of that.
    """
    offer = Sharing._offer
    offered: list[Any] = []

    def offer_and_wait(sharing: Sharing, share: Any) -> None:
        offer(sharing, share)
        if not offered:
            offered.append(share)
            wait_until(lambda: statuses(person) != [ShareStatus.WAITING], 60, "a helper takes the share")
            if stop is not None:
                stop.send_signal(signal.SIGSTOP)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sharing, "_offer", offer_and_wait)
        yield
    assert offered


def test_two_workers_check_one_upload_and_the_version_is_that_of_one(ada: Person, tmp_path: Path) -> None:
    files = pictures(COUNT)
    expected = fingerprint_of_one(ada, files)
    with helping(ada, log := tmp_path / "helper.log"), waiting_for_a_helper(ada):
        upload_id = ada.send(files)
        assert ingest_next(ada.settings, ada.database, owner="holder")
    assert ended(ada, upload_id) == expected
    assert 10 <= checked(log) <= COUNT + 1 - 10, "both did some"


def test_a_helper_that_is_killed_in_the_middle_costs_a_lease_and_no_picture(ada: Person, tmp_path: Path) -> None:
    files = pictures(COUNT)
    expected = fingerprint_of_one(ada, files)
    killed: list[ShareStatus] = []
    # only the helper's lease is short: the holder's renewals come late on a busy machine, and it would be fenced
    short = {"lease_seconds": 2.0, "renew_seconds": 0.5}
    with helping(ada, tmp_path / "helper.log", short) as process, waiting_for_a_helper(ada, stop=process):

        def kill(_: str) -> None:
            if not killed and ShareStatus.CHECKING in (found := statuses(ada)):
                killed.extend(found)
                process.kill()

        upload_id = ada.send(files)
        with pytest.MonkeyPatch.context() as often:
            often.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 1)
            assert ingest_next(ada.settings, ada.database, owner="holder", announce=kill)
    assert killed, "it was at work when it was killed"
    assert ended(ada, upload_id) == expected


@pytest.mark.parametrize("cancel", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["deleted", "cancelled"])
def test_an_upload_that_ends_while_it_is_shared_takes_its_shares_along(
    cancel: bool, ada: Person, tmp_path: Path
) -> None:
    with helping(ada, tmp_path / "helper.log") as process, waiting_for_a_helper(ada, stop=process):
        upload_id = ada.send(pictures(COUNT))

        def end(_: str) -> None:
            with ada.database.write() as session:
                upload = session.get(Upload, upload_id)
                if upload is None or ShareStatus.CHECKING not in statuses(ada):
                    return
                if cancel:
                    upload.cancel_requested_at = 1.0
                else:
                    delete_upload(session, ada.settings, upload)

        with pytest.MonkeyPatch.context() as often:
            often.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 1)
            assert ingest_next(ada.settings, ada.database, owner="holder", announce=end)
        assert statuses(ada) == []
        process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        assert process.poll() is None, "the helper goes on with what comes next"
    with ada.database.read() as session:
        upload = session.get(Upload, upload_id)
        assert (upload is None) != cancel
        assert upload is None or upload.status == UploadStatus.REJECTED
    assert not list(ada.settings.incoming_folder.glob("*"))


class Shared:
    """An upload that another worker ingests, with shares of ten pictures that wait. No process is needed to offer them."""

    def __init__(self, person: Person, count: int) -> None:
        self.person = person
        self.upload_id = person.send({"x.zip": b"never read"})
        folder = incoming_folder(person.settings, self.upload_id)
        names = [f"{number}.png" for number in range(10 * count)]
        for number, name in enumerate(names):
            (folder / name).write_bytes(picture(number))
        with person.database.write() as session:
            held = claim(session, UPLOAD_LIFE, "holder", 60)
            assert held is not None
            for start in range(0, len(names), 10):
                offer_share(session, held, names[start : start + 10])

    def hide(self) -> None:
        """As on a machine that has another disk."""
        shutil.rmtree(incoming_folder(self.person.settings, self.upload_id))

    def seen(self) -> list[tuple[ShareStatus, int, float | None]]:
        """Status, claims and last ring of every share."""
        with self.person.database.read() as session:
            columns = select(UploadShare.status, UploadShare.attempt, UploadShare.rung_at)
            return [(row[0], row[1], row[2]) for row in session.execute(columns.order_by(UploadShare.id))]


@pytest.fixture
def place(ada: Person) -> Iterator[Workplace]:
    """The workplace of a helper in this process, which serves further queues."""
    update = {"redis_url": "redis://127.0.0.1:1/0", "database_url": ada.database.address}
    made = Workplace(ada.settings.model_copy(update=update), ("ingest", "export", "batch"))
    yield made
    made.close()


def test_a_worker_without_the_files_leaves_the_upload_to_others(ada: Person, place: Workplace) -> None:
    shared, good = Shared(ada, 3), Shared(ada, 1)
    with ada.database.write() as session:
        session.execute(update(UploadShare).values(rung_at=5.0))
    shared.hide()
    for _ in range(3):
        help_next(place)
    found = shared.seen()
    assert [status for status, _, _ in found] == [ShareStatus.WAITING] * 3 + [ShareStatus.CHECKED]
    assert [attempt for _, attempt, _ in found] == [1, 0, 0, 1], "it tried one share, once"
    assert [rung_at for _, _, rung_at in found] == [5.0] * 4, "the sweeper does not ring this worker at once again"
    good.hide()


def test_one_thread_of_a_process_helps_and_the_others_are_free(
    ada: Person, place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, go_on, helped = Shared(ada, 2), threading.Event(), []
    check = Checkers.check

    def slow(self: Checkers, jobs: Iterable[Job]) -> Iterator[Job]:
        go_on.wait(60)
        yield from check(self, jobs)

    monkeypatch.setattr(Checkers, "check", slow)
    thread = threading.Thread(target=lambda: helped.append(help_next(place)))
    thread.start()
    try:
        wait_until(lambda: shared.seen()[0][0] == ShareStatus.CHECKING, 30, "the first thread begins")
        begun = time.monotonic()
        other = threading.Thread(target=lambda: helped.append(help_next(place)))
        other.start()
        other.join(20)
        assert helped == [False]
        assert time.monotonic() - begun < 20
        assert [status for status, _, _ in shared.seen()] == [ShareStatus.CHECKING, ShareStatus.WAITING]
    finally:
        go_on.set()
        thread.join()
    assert helped == [False, True]
    assert [status for status, _, _ in shared.seen()] == [ShareStatus.CHECKED] * 2


def test_a_helper_makes_room_for_other_work_after_a_share(ada: Person, place: Workplace) -> None:
    shared = Shared(ada, 2)
    with ada.database.write() as session:
        version = DatasetVersion(
            owner_id=ada.owner_id,
            dataset_id=ada.dataset_id,
            number=1,
            fingerprint="0" * 64,
            test_fingerprint="0" * 64,
            class_names=["a", "b"],
            counts={},
            notes=[],
            issues={},
            image_count=0,
        )
        session.add(version)
        session.flush()
        check = LabelCheck(owner_id=ada.owner_id, version_id=version.id)
        session.add(check)
    assert not help_next(place)
    assert [status for status, _, _ in shared.seen()] == [ShareStatus.CHECKED, ShareStatus.WAITING]
    with ada.database.write() as session:
        session.get_one(LabelCheck, check.id).status = LabelCheckStatus.CHECKING
    assert help_next(place)
    assert [status for status, _, _ in shared.seen()] == [ShareStatus.CHECKED] * 2


def test_the_answer_of_a_slow_helper_is_taken_when_it_is_there(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is full and all of ours is done: what is heard of then is the helper's share, at its front."""
    monkeypatch.setattr(sharing, "MOST", 2)
    helpers: list[Claim] = []
    asked, answered_at = [], []

    def offered(session: Session, held: Claim, files: Sequence[str]) -> str:
        share_id = offer_share(session, held, files)
        if not helpers:
            helper = claim(session, SHARE_LIFE, "helper", 60)
            assert helper is not None
            helpers.append(helper)
        return share_id

    def taken_back(session: Session, share_id: str) -> bool:
        asked.append(share_id)
        return take_back(session, share_id)

    def answer() -> None:
        wait_until(lambda: helpers, 60, "a share is offered")
        time.sleep(2.0)  # by then, the holder has done what it can
        with ada.database.read() as session:
            share = session.get_one(UploadShare, helpers[0].id)
        folder = incoming_folder(ada.settings, share.upload_id)
        thumbnail_of(folder, share.id, "").parent.mkdir()
        jobs = [Job(n, name, source=folder / name) for n, name in enumerate(share.files)]
        for job in jobs:
            job.thumbnail = thumbnail_of(folder, share.id, Path(job.path).name)
        with Checkers(1, PictureLimits()) as checkers:
            answers = [answer_of(job) for job in checkers.check(jobs)]
        with ada.database.write() as session:
            finish_share(session, helpers[0], answers)
        answered_at.append(time.monotonic())

    monkeypatch.setattr(sharing, "offer_share", offered)
    monkeypatch.setattr(sharing, "take_back", taken_back)
    thread = threading.Thread(target=answer)
    thread.start()
    upload_id = ada.send(pictures(COUNT))
    assert ingest_next(ada.settings, ada.database, owner="holder")
    ended_at = time.monotonic()
    thread.join()
    ended(ada, upload_id)
    assert ended_at - answered_at[0] < 4, "the rest takes under a second; 32 looks for nothing would take 8"
    assert helpers[0].id not in asked, "who has it was read, and nothing written"


def test_what_is_unpacked_ahead_is_bounded_in_bytes(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    files = pictures(COUNT)
    with zipfile.ZipFile(io.BytesIO(files["x.zip"])) as opened:  # type: ignore[arg-type]
        sizes = [entry.file_size for entry in opened.infolist()]
    monkeypatch.setattr(sharing, "FILES", 100)
    monkeypatch.setattr(sharing, "MOST", 3)
    monkeypatch.setattr(sharing, "BYTES", 3 * max(sizes), raising=False)
    monkeypatch.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 1)
    ahead = []
    unpack = Contents._unpack

    def measured(self: Contents, ordinal: int, chunks: Iterator[bytes] | None, spool: Path, *given: int) -> Job:
        job = unpack(self, ordinal, chunks, spool, *given)
        ahead.append(sum(file.stat().st_size for file in spool.iterdir() if not file.suffix))
        return job

    monkeypatch.setattr(Contents, "_unpack", measured)
    upload_id = ada.send(files)
    assert ingest_next(ada.settings, ada.database, owner="holder")
    ended(ada, upload_id)
    assert 3 * max(sizes) < max(ahead) < 3 * 4 * max(sizes) + sharing.FILES


def test_the_last_bytes_of_the_disk_are_not_unpacked_into(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    ada.settings = ada.settings.model_copy(update={"disk_reserve_bytes": 1 << 60})
    unpacked: list[object] = []
    monkeypatch.setattr(sources, "_spooled", lambda *given: unpacked.append(given))
    upload = ada.upload(pictures(COUNT))
    assert upload.status == UploadStatus.REJECTED
    assert upload.error is not None
    assert "are kept in reserve" in upload.error
    assert not unpacked


def test_hundreds_of_files_that_are_no_pictures_pass(ada: Person) -> None:
    texts: dict[str, bytes | Path] = {f"a/{number:03}.txt": b"text" for number in range(300)}
    upload_id = ada.send(
        {"x.zip": zipped(texts | {f"{c}/{n}.png": picture(n + 9 * (c == "b")) for c in "ab" for n in range(9)})}
    )
    assert ingest_next(ada.settings, ada.database, owner="holder")
    upload = ada.look(upload_id)
    assert (upload.status, upload.kept, upload.skipped) == (UploadStatus.READY, 18, 300)
