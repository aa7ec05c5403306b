"""One upload over two worker processes: both check pictures, a killed helper costs nothing, nobody helping neither."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from sqlalchemy import select

from core.config import Settings
from core.database import Database
from core.datasets import create_dataset
from core.tables import ShareStatus, Upload, UploadShare, UploadStatus
from core.uploads import delete_upload
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import encoded, picture, zipped
from tests.worker.ingest.test_ingest import version_of
from worker.ingest import sharing
from worker.ingest.ingest import ingest_next
from worker.lifeline import child_setup

pytestmark = pytest.mark.timeout(280)
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
    """A person whose uploads are ingested with short leases, one checker a worker, and shares of ten files."""
    monkeypatch.setattr(sharing, "FILES", 10)
    return Person(settings.model_copy(update={"lease_seconds": 3.0, "renew_seconds": 0.5}), database)


@contextmanager
def helping(person: Person, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another worker process, which does nothing but help; it has begun."""
    settings = person.settings
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


def pictures(count: int) -> dict[str, bytes | Path]:
    """Pictures that take a moment to decode, among them a broken one and a text."""

    def body(number: int) -> bytes:
        coarse = PillowImage.fromarray(np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8))
        return encoded(coarse.resize((800, 600), PillowImage.Resampling.BILINEAR), "PNG", compress_level=1)

    files = {f"class {number % 2}/{number:03}.png": body(number) for number in range(count)}
    return {"x.zip": zipped(files | {"class 1/044.txt": b"a text", "class 1/054.png": b"no picture"})}


def statuses(person: Person) -> list[ShareStatus]:
    with person.database.read() as session:
        return list(session.scalars(select(UploadShare.status)))


def ended(person: Person, upload_id: str, count: int) -> str:
    """The fingerprint of the version that the upload has become, with a whole receipt and nothing left."""
    upload = person.look(upload_id)
    assert (upload.status, upload.kept, upload.refused, upload.skipped) == (UploadStatus.READY, count, 1, 1), (
        upload.error
    )
    assert [row.ordinal for row in person.receipt(upload).values()] == list(range(count + 2))
    assert statuses(person) == []
    assert not list(person.settings.incoming_folder.glob("*"))
    return version_of(person).fingerprint


def checked(log: Path) -> int:
    """Files that the helper has checked and handed over."""
    return sum(int(count) for count in re.findall(r"checked (\d+) of its files for another", log.read_text()))


def fingerprint_of_one(person: Person, files: dict[str, bytes | Path], count: int) -> str:
    """What one worker makes of them; then the person goes on with an empty dataset."""
    upload_id = person.send(files)
    assert ingest_next(person.settings, person.database, owner="alone")
    with person.database.write() as session:
        person.dataset_id, before = create_dataset(session, person.owner_id, "again").id, person.dataset_id
    after, person.dataset_id = person.dataset_id, before
    found = ended(person, upload_id, count)
    person.dataset_id = after
    return found


def test_two_workers_check_one_upload_and_the_version_is_that_of_one(ada: Person, tmp_path: Path) -> None:
    files = pictures(120)
    expected = fingerprint_of_one(ada, files, 120)
    with helping(ada, log := tmp_path / "helper.log"):
        upload_id = ada.send(files)
        assert ingest_next(ada.settings, ada.database, owner="holder")
    assert ended(ada, upload_id, 120) == expected
    assert 10 <= checked(log) <= 112, "both did some"


def test_a_helper_that_is_killed_in_the_middle_costs_a_lease_and_no_picture(ada: Person, tmp_path: Path) -> None:
    files = pictures(120)
    expected = fingerprint_of_one(ada, files, 120)
    killed = []
    with helping(ada, log := tmp_path / "helper.log") as process:

        def kill(_: str) -> None:
            if not killed and ShareStatus.CHECKING in statuses(ada):
                killed.append(checked(log))
                process.send_signal(signal.SIGKILL)

        upload_id = ada.send(files)
        with pytest.MonkeyPatch.context() as often:
            often.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 5)
            assert ingest_next(ada.settings, ada.database, owner="holder", announce=kill)
    assert killed, "it was at work when it was killed"
    assert ended(ada, upload_id, 120) == expected


@pytest.mark.parametrize("cancel", [False, True], ids=["deleted", "cancelled"])
def test_an_upload_that_ends_while_it_is_shared_takes_its_shares_along(
    cancel: bool, ada: Person, tmp_path: Path
) -> None:
    with helping(ada, tmp_path / "helper.log") as process:
        upload_id = ada.send(pictures(120))

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
            often.setattr("worker.ingest.ingest.ROWS_AT_ONCE", 5)
            assert ingest_next(ada.settings, ada.database, owner="holder", announce=end)
        assert statuses(ada) == []
        time.sleep(1.0)
        assert process.poll() is None, "the helper goes on with what comes next"
    with ada.database.read() as session:
        upload = session.get(Upload, upload_id)
        assert (upload is None) != cancel
        assert upload is None or upload.status == UploadStatus.REJECTED


def test_a_helper_without_the_files_gives_its_share_back(ada: Person, tmp_path: Path) -> None:
    elsewhere = Person.__new__(Person)
    elsewhere.settings, elsewhere.database = (
        ada.settings.model_copy(update={"data_dir": tmp_path / "other"}),
        ada.database,
    )
    with helping(elsewhere, log := tmp_path / "helper.log"):
        upload_id = ada.send(pictures(60))
        assert ingest_next(ada.settings, ada.database, owner="holder")
    ended(ada, upload_id, 60)
    assert checked(log) == 0


def test_hundreds_of_files_that_are_no_pictures_pass(ada: Person) -> None:
    texts: dict[str, bytes | Path] = {f"a/{number:03}.txt": b"text" for number in range(300)}
    upload_id = ada.send(
        {"x.zip": zipped(texts | {f"{c}/{n}.png": picture(n + 9 * (c == "b")) for c in "ab" for n in range(9)})}
    )
    assert ingest_next(ada.settings, ada.database, owner="holder")
    upload = ada.look(upload_id)
    assert (upload.status, upload.kept, upload.skipped) == (UploadStatus.READY, 18, 300)
