"""An export in its worker: what the other process is told, what is offered, what is not. The converting itself: test_convert.py."""

import io
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select, update

from core.errors import FULL_DISK
from core.models import exports_of, request_export
from core.queue import Queue
from core.tables import Export, ExportStatus, Run, TrainedModel
from tests.core.rows import RememberingQueue
from tests.worker.test_batch import a_model
from tests.worker.tiny_dataset import queue_run
from tests.worker.workplaces import fill_disk, lose_one_answer, workplace
from worker import exporting
from worker.exporting import KERAS_FILE, export_next
from worker.workplace import Workplace

QUEUE = cast("Queue", RememberingQueue())
CONVERTER = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
order = json.loads((folder / "order.json").read_text())
assert pathlib.Path(order["keras"]).read_bytes() == b"keras"
assert all(pathlib.Path(path).is_file() for path in order["test"] + order["train"])
said = sys.argv[2]
if said == "dies":
    sys.exit("it died")
if said == "waits":
    time.sleep(60)
(folder / (order["format"] + ".zip")).write_bytes(json.dumps(order).encode())
agreement = {"top1": 1.0, "count": len(order["test"])}
result = {"format": order["format"], "size_bytes": 7, "sha256": "ab" * 32, "agreement": agreement}
(folder / "result.json").write_text(json.dumps({"error": "It does not agree."} if said == "differs" else result))
"""


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A workplace with short leases and no broker."""
    with workplace(tmp_path, database_address, "export", lease_seconds=5) as made:
        yield made


def play(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """Have the converting process replaced by one that checks its order and does as it is told."""
    real = exporting.subprocess.Popen

    def started(command: list[str], **settings: Any) -> Any:
        assert command[1:3] == ["-m", "worker.training.convert"]
        return real([sys.executable, "-c", CONVERTER, command[3], said], **settings)

    monkeypatch.setattr(exporting.subprocess, "Popen", started)


def wish(place: Workplace, file_format: str, *, with_keras: bool = True) -> str:
    """Queue an export of a model whose run and dataset are there."""
    run_id = queue_run(place.database, place.settings)
    with place.database.write() as session:
        run = session.get_one(Run, run_id)
        model = a_model(place, run.owner_id)
        model.run_id = run_id
        session.add(model)
        session.flush()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as out:
            for name in ("labels.json", "golden/expected.json", "verify.py", "saved_model/saved_model.pb"):
                out.writestr(name, "{}")
        place.storage.put(f"{model.storage_key}/saved_model.zip", packed.getvalue())
        if with_keras:
            place.storage.put(f"{model.storage_key}/{KERAS_FILE}", b"keras")
        return request_export(session, QUEUE, model, file_format).id


def export_of(place: Workplace, export_id: str) -> Export:
    with place.database.read() as session:
        return session.get_one(Export, export_id)


def test_a_proved_file_is_stored_and_offered(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, "agrees")
    export_id = wish(place, "tflite_int8")
    assert export_next(place)
    assert not export_next(place)
    export = export_of(place, export_id)
    assert (export.status, export.error) == (ExportStatus.READY, None)
    assert export.agreement == {"top1": 1.0, "count": 8}
    with place.storage.open(export.storage_key or "") as stored:
        order = json.loads(stored.read())
    assert (len(order["test"]), len(order["train"]), order["image_size"]) == (8, 16, [16, 16])
    assert not list((place.settings.folder / "exports").iterdir())


def test_a_file_that_its_row_names_stays_when_the_answer_to_the_last_write_is_lost(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "agrees")
    lose_one_answer(monkeypatch, (exporting, "finish_export"))
    export_id = wish(place, "onnx")
    assert export_next(place)
    export = export_of(place, export_id)
    assert export.status == ExportStatus.READY
    assert place.storage.has(export.storage_key or "")


def test_a_file_of_an_attempt_that_was_overtaken_is_removed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, "agrees")
    finish = exporting.finish_export

    def overtaken(session: Any, held: Any, **columns: Any) -> None:
        session.execute(update(Export).values(attempt=Export.attempt + 1))
        session.commit()
        finish(session, held, **columns)

    monkeypatch.setattr(exporting, "finish_export", overtaken)
    export_id = wish(place, "onnx")
    assert export_next(place)
    assert export_of(place, export_id).status == ExportStatus.BUILDING
    assert not list(place.settings.storage_folder.glob("models/*/exports/*"))


@pytest.mark.parametrize(("said", "sentence"), [("differs", "does not agree"), ("dies", "fault of ours")])
def test_a_file_that_is_not_proved_is_not_offered_and_can_be_asked_for_again(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, said: str, sentence: str
) -> None:
    play(monkeypatch, said)
    export_id = wish(place, "onnx")
    assert export_next(place)
    export = export_of(place, export_id)
    assert export.status == ExportStatus.FAILED
    assert sentence in (export.error or "")
    assert export.storage_key is None
    with place.database.write() as session:
        model = session.scalars(select(TrainedModel)).one()
        again = request_export(session, QUEUE, model, "onnx")
        assert (again.id, again.status, again.error) == (export_id, ExportStatus.QUEUED, None)
        assert set(exports_of(session, model.id)) == {"onnx"}


def test_a_model_of_before_says_so(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, "agrees")
    export_id = wish(place, "onnx", with_keras=False)
    assert export_next(place)
    assert "train it again" in (export_of(place, export_id).error or "")


def test_a_stopped_worker_gives_its_export_back(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, "waits")
    export_id = wish(place, "onnx")
    place.drain.set()
    started = time.monotonic()
    assert export_next(place)
    assert time.monotonic() - started < 20
    export = export_of(place, export_id)
    assert (export.status, export.failures) == (ExportStatus.QUEUED, 0)


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_a_full_disk_is_a_sentence_and_no_fault_of_ours(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    play(monkeypatch, "agrees")
    export_id = wish(place, "tflite_int8")
    fill_disk(monkeypatch, "exports", number)
    assert export_next(place)
    export = export_of(place, export_id)
    assert (export.status, export.error) == (
        ExportStatus.FAILED,
        "The disk became full while this format was made. Free some space and try again.",
    )
