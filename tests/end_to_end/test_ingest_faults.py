"""What happens to an upload while real workers ingest it: they are killed, it is deleted, its dataset is deleted."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from sqlalchemy import func, select

from core.tables import DatasetVersion, Image, Outcome, ReceiptRow, Upload, UploadStatus
from core.uploads import incoming_folder
from tests.end_to_end.conftest import ON_BOTH_DATABASES, database_of
from tests.end_to_end.house import House, descendants, running_house, still_alive, wait_until
from tests.end_to_end.test_faults import SHORT
from tests.worker.ingest.corpus import encoded, zipped

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(280)]
COUNT = 120
SLOW = {"THAW_INGEST_PROCESSES": "1"}  # as few pictures as take seconds on any machine


@pytest.fixture(scope="module", params=ON_BOTH_DATABASES)
def quick_house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that notices a lost worker within seconds."""
    with running_house(tmp_path_factory.mktemp("ingest"), **SHORT, **SLOW, **database_of(request)) as running:
        yield running


@pytest.fixture(scope="module")
def archive() -> bytes:
    """Pictures whose ingest takes four seconds or more: three megapixels each, which a PNG cannot be decoded without."""
    return pictures(COUNT, (2000, 1500))


def pictures(count: int, size: tuple[int, int]) -> bytes:
    """An archive of patches of colour in four classes: small files."""
    random = np.random.default_rng(5)

    def body() -> bytes:
        coarse = Picture.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        return encoded(coarse.resize(size, Picture.Resampling.NEAREST), "PNG", compress_level=1)

    return zipped({f"class {number % 4}/{number}.png": body() for number in range(count)})


def received(house: House, archive: bytes) -> str:
    """A new upload of a new dataset."""
    dataset = house.client.post("/api/v1/datasets", json={"name": "many"}).raise_for_status().json()["id"]
    headers = {"Content-Type": "application/zip"}
    address = f"/api/v1/datasets/{dataset}/uploads?filename=many.zip"
    made: dict[str, Any] = house.client.post(address, content=archive, headers=headers).raise_for_status().json()
    return str(made["id"])


def begun(house: House, upload_id: str) -> Upload:
    """The upload once some of its files are done, and half of them are not. Progress is written every second."""

    def looked() -> Upload | None:
        with house.database.read() as session:
            upload = session.get_one(Upload, upload_id)
        assert upload.status in {UploadStatus.RECEIVED, UploadStatus.INGESTING}, upload.status
        return upload if upload.files_done else None

    found: Upload = wait_until(looked, 60, f"a worker begins\n{house.log}")
    assert found.files_done < COUNT / 2, "there is time to disturb it"
    return found


def ended(house: House, upload_id: str) -> Upload:
    """The upload once a worker is done with it."""

    def looked() -> Upload | None:
        with house.database.read() as session:
            upload = session.get_one(Upload, upload_id)
            return upload if upload.status in {UploadStatus.READY, UploadStatus.REJECTED} else None

    found: Upload = wait_until(looked, 120, f"the upload ends\n{house.log}")
    return found


def test_an_ingest_whose_worker_is_killed_goes_on_and_nothing_is_twice(quick_house: House, archive: bytes) -> None:
    upload = begun(quick_house, received(quick_house, archive))
    worker = quick_house.pid_of("--queues ingest")
    below = descendants(worker)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not still_alive(below), 5, "its checkers die with it")
    with quick_house.database.read() as session:
        before = session.get_one(Upload, upload.id)
        assert (before.status, before.files_done < COUNT) == (UploadStatus.INGESTING, True)
    after = ended(quick_house, upload.id)
    assert (after.status, after.attempt, after.error) == (UploadStatus.READY, 2, None)
    assert (after.kept, after.files_done) == (COUNT, COUNT)
    with quick_house.database.read() as session:
        rows = session.scalars(select(ReceiptRow).where(ReceiptRow.upload_id == after.id)).all()
        versions = session.scalars(select(DatasetVersion).where(DatasetVersion.dataset_id == after.dataset_id)).all()
        assert session.scalar(select(func.count()).select_from(Image)) == COUNT
    assert sorted(row.ordinal for row in rows) == list(range(COUNT))
    assert len({row.path for row in rows}) == len({row.image_id for row in rows}) == COUNT
    assert {row.outcome for row in rows} == {Outcome.KEPT}
    assert [(one.number, one.image_count) for one in versions] == [(1, COUNT)]
    wait_until(lambda: not incoming_folder(quick_house.settings, after.id).exists(), 10, "received bytes are removed")


@pytest.mark.parametrize("what", ["uploads", "datasets"])
def test_what_is_deleted_while_it_is_ingested_is_gone_and_the_worker_goes_on(
    quick_house: House, archive: bytes, what: str
) -> None:
    upload = begun(quick_house, received(quick_house, archive))
    name = upload.id if what == "uploads" else upload.dataset_id
    assert quick_house.client.delete(f"/api/v1/{what}/{name}").status_code == 204
    assert quick_house.client.get(f"/api/v1/uploads/{upload.id}").status_code == 404
    following = ended(quick_house, received(quick_house, pictures(20, (24, 16))))
    assert (following.status, following.attempt) == (UploadStatus.READY, 1)
    with quick_house.database.read() as session:
        made = select(func.count()).select_from(DatasetVersion).where(DatasetVersion.dataset_id == upload.dataset_id)
        assert session.scalar(made) == 0
        assert session.scalar(select(func.count()).where(ReceiptRow.upload_id == upload.id)) == 0
    gone = incoming_folder(quick_house.settings, upload.id)
    wait_until(
        lambda: not gone.exists(), 10, f"nothing of it is left: {list(gone.rglob('*'))[:5] if gone.exists() else ''}"
    )
