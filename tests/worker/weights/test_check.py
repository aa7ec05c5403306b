"""Weights in their worker: what the reader of a file knows of the house, that it ends with its worker, and a full disk."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from core.accounts import local_user
from core.ids import new_id
from core.queue import Queue
from core.storage import FolderStorage
from core.tables import Weights, WeightsStatus
from core.weights import add_weights, arrays_key, received_key
from tests.core.rows import RememberingQueue
from tests.end_to_end.house import wait_until
from tests.worker.test_lifeline import is_gone
from tests.worker.weights.test_arrays import keras_3_file, tiny_arrays
from tests.worker.workplaces import workplace
from worker.weights.check import check_next
from worker.workplace import Workplace

QUEUE = cast("Queue", RememberingQueue())
ROOT = Path(__file__).resolve().parents[3]
# a reader that answers with its environment instead of a report
_TELLTALE = "import json, os; print(json.dumps({'error': json.dumps(dict(os.environ))}))"
_WORKER = """
import sys
from core.config import Settings
from worker.weights.check import check_next
from worker.workplace import Workplace
place = Workplace(Settings.model_validate_json(sys.argv[1]), ("ingest",))
check_next(place, command=("sh", "-c", f"echo $$ > {sys.argv[2]}; exec sleep 60"))
"""


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A workplace with short leases and no broker."""
    with workplace(tmp_path, database_address, "ingest", lease_seconds=5) as made:
        yield made


def _received(place: Workplace, body: bytes) -> str:
    weights_id = new_id()
    place.storage.put(received_key(weights_id), body)
    facts = {"backbone": "tiny_cnn", "filename": "a.h5", "size_bytes": len(body)}
    with place.database.write() as session:
        add_weights(session, QUEUE, local_user(session).id, weights_id, **facts)
    return weights_id


def _row(place: Workplace, weights_id: str) -> Weights:
    with place.database.read() as session:
        return session.get_one(Weights, weights_id)


def test_the_reader_of_a_file_knows_no_secret_of_the_house(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "THAW_DATABASE_URL",
        "DATABASE_URL",
        "THAW_REDIS_URL",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "THAW_TOKEN",
    )
    for name in secrets:
        monkeypatch.setenv(name, "hidden")
    weights_id = _received(place, b"x")
    assert check_next(place, command=(sys.executable, "-c", _TELLTALE))
    told = json.loads(_row(place, weights_id).error or "")
    assert "hidden" not in told.values()
    assert told["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_reader_of_a_file_ends_with_a_worker_that_is_killed(place: Workplace, tmp_path: Path) -> None:
    _received(place, b"x")
    note = tmp_path / "pid"
    command = [sys.executable, "-c", _WORKER, place.settings.model_dump_json(), str(note)]
    with subprocess.Popen(command, cwd=ROOT) as worker:
        reader = int(wait_until(lambda: note.is_file() and note.read_text(), 30, "the reader begins"))
        assert not is_gone(reader)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        wait_until(lambda: is_gone(reader), 5, "the reader is gone")


def test_a_nearly_full_disk_rejects_a_file_with_a_sentence_that_names_the_disk(
    place: Workplace, tmp_path: Path
) -> None:
    weights_id = _received(place, keras_3_file(tmp_path / "a.h5").read_bytes())
    place.settings = place.settings.model_copy(update={"disk_reserve_bytes": 10**15})
    assert check_next(place)
    row = _row(place, weights_id)
    assert (row.status, row.failures) == (WeightsStatus.REJECTED, 0)
    assert row.error is not None
    assert row.error.startswith("The disk is nearly full:")
    assert row.error.endswith("This file was not kept: send it again then.")
    assert not place.storage.has(received_key(weights_id))


def test_arrays_that_the_storage_has_no_room_for_are_told_alike(place: Workplace, tmp_path: Path) -> None:
    weights_id = _received(place, keras_3_file(tmp_path / "a.h5").read_bytes())
    assert isinstance(place.storage, FolderStorage)
    place.storage.reserve_bytes = 10**15
    assert check_next(place)
    assert (_row(place, weights_id).error or "").startswith("The disk is nearly full:")
    assert not list(place.settings.weights_folder.glob("*"))


def test_weights_in_bfloat16_are_read_by_the_real_reader(place: Workplace) -> None:
    short = {
        f"{layer}.{name}": array.astype(ml_dtypes.bfloat16)
        for layer, one in tiny_arrays().items()
        for name, array in one.items()
    }
    weights_id = _received(place, save(short))
    assert check_next(place)
    row = _row(place, weights_id)
    assert (row.status, row.error, row.matched) == (WeightsStatus.READY, None, 25)
    with np.load(place.storage.local(arrays_key(weights_id)), allow_pickle=False) as kept:
        found = kept["plain:block1_conv/kernel"]
    assert found.dtype == np.float32
    assert np.array_equal(found, short["block1_conv.kernel"].astype(np.float32))
