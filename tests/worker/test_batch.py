"""A batch prediction in its worker: every picture once, resumed after a kill, cancelled, drained, in flat memory."""

import io
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from core.batch_predictions import archive_key, cancel_batch, predict_archive, predict_version, rows_after
from core.errors import FULL_DISK
from core.ids import new_id
from core.leases import BATCH_LIFE, expire, expired
from core.queue import Queue
from core.tables import BatchPrediction, BatchRow, BatchStatus, TrainedModel
from tests.core.rows import RememberingQueue, tiny_model
from tests.worker.tiny_dataset import add_tiny_dataset
from tests.worker.workplaces import fill_disk, lose_one_answer, workplace
from worker import batch as batch_module
from worker.batch import Batch, batch_next
from worker.workplace import Workplace

QUEUE = cast("Queue", RememberingQueue())


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A workplace with short leases and no broker."""
    with workplace(tmp_path, database_address, "batch", lease_seconds=5) as made:
        yield made


@pytest.fixture
def fake_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another answering process, by the same protocol, without TensorFlow: class 1 where the picture is bright."""
    real = batch_module.subprocess.Popen

    def started(command: list[str], **settings: Any) -> Any:
        assert command[1:3] == ["-m", "worker.prediction.batch"]
        return real([sys.executable, "-m", "tests.worker.fake_asker", command[3]], **settings)

    monkeypatch.setattr(batch_module.subprocess, "Popen", started)


def picture(brightness: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((6, 7, 3), brightness, np.uint8)).save(out, "PNG")
    return out.getvalue()


def archive(count: int, texts: int = 0) -> bytes:
    """Dark and bright pictures in turn, so many texts, another text, and a path that climbs out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for number in range(count):
            packed.writestr(f"album/{number:05}.png", picture(250 if number % 2 else 5))
        for number in range(texts):
            packed.writestr(f"album/{number:05}.txt", "where and when")
        packed.writestr("album/notes.txt", "no picture")
        packed.writestr("../evil.png", picture(9))
    return out.getvalue()


def a_model(place: Workplace, owner_id: str) -> TrainedModel:
    model = tiny_model(owner_id)
    place.storage.put(f"{model.storage_key}/saved_model/saved_model.pb", b"stands for a SavedModel")
    return model


def wish_of_version(place: Workplace) -> str:
    """Queue the pictures of a dataset version: no archive, whose first write has no rows."""
    with place.database.write() as session:
        version = add_tiny_dataset(session, place.settings)
        model = a_model(place, version.owner_id)
        session.add(model)
        session.flush()
        return predict_version(session, QUEUE, model, version).id


def queue_archive(place: Workplace, count: int, texts: int = 0) -> str:
    with place.database.write() as session:
        model = a_model(place, add_tiny_dataset(session, place.settings).owner_id)
        session.add(model)
        session.flush()
        body, batch_id = archive(count, texts), new_id()
        place.storage.put(archive_key(batch_id), body)
        return predict_archive(session, QUEUE, model, batch_id, "album.zip", len(body)).id


def rows_of(place: Workplace, batch_id: str) -> list[BatchRow]:
    with place.database.read() as session:
        return list(rows_after(session, batch_id, -1))


def batch_of(place: Workplace, batch_id: str) -> BatchPrediction:
    with place.database.read() as session:
        return session.get_one(BatchPrediction, batch_id)


@pytest.mark.usefixtures("fake_asker")
def test_every_file_of_an_archive_has_one_row_in_order(place: Workplace) -> None:
    batch_id = queue_archive(place, 40)
    assert batch_next(place)
    assert not batch_next(place)
    batch, rows = batch_of(place, batch_id), rows_of(place, batch_id)
    assert (batch.status, batch.pictures_done, batch.pictures_total, batch.refused) == (BatchStatus.READY, 42, 42, 2)
    assert [row.ordinal for row in rows] == list(range(42))
    assert [row.label for row in rows[:40]] == [0, 1] * 20
    assert (rows[40].path, rows[40].label) == ("album/notes.txt", None)
    assert "Not a picture" in (rows[40].error or "")
    assert "climbs out" in (rows[41].error or "")
    assert not place.storage.has(archive_key(batch_id))
    assert not list((place.settings.folder / "batches").iterdir())


@pytest.mark.usefixtures("fake_asker")
def test_few_pictures_among_many_other_files_are_answered(place: Workplace) -> None:
    batch_id = queue_archive(place, 10, texts=600)
    worker = threading.Thread(target=batch_next, args=(place,))
    worker.start()
    worker.join(timeout=30)
    hangs = worker.is_alive()
    place.drain.set()
    worker.join(timeout=20)
    assert not hangs, batch_of(place, batch_id).pictures_done
    batch, rows = batch_of(place, batch_id), rows_of(place, batch_id)
    assert (batch.status, batch.pictures_done, batch.refused) == (BatchStatus.READY, 612, 602)
    assert [row.label for row in rows[:10]] == [0, 1] * 5


@pytest.mark.usefixtures("fake_asker")
def test_the_answering_process_is_hurried_seldom(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    say = batch_module._Asker._say

    def heard(self: Any, line: str) -> None:
        said.append(line)
        say(self, line)

    monkeypatch.setattr(batch_module._Asker, "_say", heard)
    queue_archive(place, 2000)
    assert batch_next(place)
    assert len(said) <= 2000 + 6, "batches stay whole: about once in MOST_UNDERWAY pictures"


@pytest.mark.usefixtures("fake_asker")
def test_rows_are_written_once_when_the_answer_to_a_write_is_lost(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_one_answer(monkeypatch, (batch_module, "record_rows"))
    monkeypatch.setattr(batch_module, "ROWS_AT_ONCE", 16)
    batch_id = wish_of_version(place)
    assert batch_next(place)
    batch = batch_of(place, batch_id)
    assert (batch.status, batch.error, batch.pictures_done) == (BatchStatus.READY, None, 30)
    assert len(rows_of(place, batch_id)) == 30


@pytest.mark.usefixtures("fake_asker")
def test_a_dataset_version_is_answered_too(place: Workplace) -> None:
    batch_id = wish_of_version(place)
    assert batch_next(place)
    rows = rows_of(place, batch_id)
    assert len(rows) == 30
    assert all(row.label is not None for row in rows)
    assert rows[0].path == "c0/0.png"


@pytest.mark.usefixtures("fake_asker")
def test_a_killed_worker_s_batch_goes_on_without_doubles(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "ROWS_AT_ONCE", 16)
    batch_id = queue_archive(place, 300)
    write = Batch._write_rows
    written = 0

    def dying(self: Batch) -> None:
        nonlocal written
        written += len(self._rows)
        write(self)
        if written >= 64:
            raise KeyboardInterrupt  # as abrupt as a process can end within one

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "_write_rows", dying)
        with pytest.raises(KeyboardInterrupt):
            batch_next(place)
    done = len(rows_of(place, batch_id))
    assert 64 <= done < 300
    time.sleep(place.settings.lease_seconds + 0.3)
    with place.database.write() as session:
        (lost,) = expired(session, BATCH_LIFE)
        assert expire(session, BATCH_LIFE, lost) == BatchStatus.QUEUED
    assert batch_next(place)
    batch = batch_of(place, batch_id)
    assert (batch.status, batch.attempt, batch.pictures_done) == (BatchStatus.READY, 2, 302)
    with place.database.read() as session:
        counted = select(func.count()).select_from(BatchRow).where(BatchRow.batch_id == batch_id)
        assert session.scalar(counted) == 302


@pytest.mark.usefixtures("fake_asker")
def test_a_cancelled_batch_stops_and_keeps_what_is_answered(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ASKER_SECONDS", "0.05")
    batch_id = queue_archive(place, 2000)
    worker = threading.Thread(target=batch_next, args=(place,))
    worker.start()
    while not rows_of(place, batch_id):
        time.sleep(0.05)
    with place.database.write() as session:
        cancel_batch(session, place.storage, session.get_one(BatchPrediction, batch_id))
    worker.join(timeout=20)
    batch = batch_of(place, batch_id)
    assert batch.status == BatchStatus.CANCELLED
    assert 0 < batch.pictures_done < 2000


@pytest.mark.usefixtures("fake_asker")
def test_a_stopped_worker_gives_its_batch_back(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ASKER_SECONDS", "0.05")
    batch_id = queue_archive(place, 2000)
    worker = threading.Thread(target=batch_next, args=(place,))
    worker.start()
    while not rows_of(place, batch_id):
        time.sleep(0.05)
    place.drain.set()
    worker.join(timeout=20)
    batch = batch_of(place, batch_id)
    assert (batch.status, batch.failures) == (BatchStatus.QUEUED, 0)


def test_an_answering_process_that_dies_is_a_failure_with_a_sentence(place: Workplace) -> None:
    batch_id = queue_archive(place, 3)
    assert batch_next(place)
    batch = batch_of(place, batch_id)
    assert batch.status == BatchStatus.FAILED
    assert "fault of ours" in (batch.error or "")


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_a_full_disk_is_a_sentence_and_no_fault_of_ours(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    batch_id = queue_archive(place, 3)
    fill_disk(monkeypatch, "batches", number)
    assert batch_next(place)
    batch = batch_of(place, batch_id)
    assert (batch.status, batch.error) == (
        BatchStatus.FAILED,
        "The disk became full while the pictures were answered. Free some space and try again.",
    )
