"""Folders and files that no row needs: removed once they are old, never while work goes on or a file is on its way."""

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from core import leftovers
from core.config import Settings
from core.database import Database
from core.ids import new_id
from core.leases import BATCH_LIFE, EXPORT_LIFE, LABEL_CHECK_LIFE, WEIGHTS_LIFE, Life
from core.storage import FolderStorage, open_storage
from core.tables import BatchPrediction, BatchStatus, Export, LabelCheck, Run, TrainedModel, Weights, WeightsStatus
from tests.core.rows import ended_run, person, version

pytestmark = pytest.mark.both_databases
AREAS = {
    "batches": BATCH_LIFE,
    "exports": EXPORT_LIFE,
    "weights-incoming": WEIGHTS_LIFE,
    "cache/label-checks": LABEL_CHECK_LIFE,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A data folder of this test alone."""
    return Settings(data_dir=tmp_path, disk_reserve_bytes=0)


@pytest.fixture
def ids(database: Database) -> dict[str, str]:
    """The id of a waiting row for each area."""
    with database.write() as session:
        made = version(session, person(session))
        mine = {"owner_id": made.owner_id}
        facts: dict[str, Any] = {"class_names": ["a"], "image_size": [8, 8], "resize": "stretch", "summary": {}}
        facts |= {
            "backbone": "tiny_cnn",
            "name": "model",
            "dataset_title": "Fruit",
            "storage_key": f"models/{new_id()}-1",
        }
        model = TrainedModel(**mine, **facts)
        session.add(model)
        session.flush()
        rows = {
            "batches": BatchPrediction(**mine, model_id=model.id, filename="a.zip", size_bytes=9),
            "exports": Export(**mine, model_id=model.id, format="onnx"),
            "weights-incoming": Weights(**mine, backbone="tiny_cnn", filename="a.h5", size_bytes=9),
            "cache/label-checks": LabelCheck(**mine, version_id=made.id),
        }
        session.add_all(rows.values())
        session.flush()
        return {area: row.id for area, row in rows.items()}


def old(path: Path, *, young: bool = False) -> Path:
    """A folder with a file, both as if written long ago; `young`: the file was written just now."""
    path.mkdir(parents=True)
    (path / "archive").write_bytes(b"bytes")
    if not young:
        os.utime(path / "archive", (1, 1))
    os.utime(path, (1, 1))
    return path


def end(database: Database, life: Life, row_id: str) -> None:
    with database.write() as session:
        session.execute(update(life.table).where(life.table.id == row_id).values(status=life.failed))


@pytest.mark.parametrize("area", AREAS)
def test_folders_of_work_stay_while_it_goes_on(
    database: Database, settings: Settings, ids: dict[str, str], area: str
) -> None:
    mine = old(settings.folder / area / f"{ids[area]}-1")
    nobodys = old(settings.folder / area / f"{new_id()}-1")
    coming = old(settings.folder / area / f"{new_id()}-0", young=True)
    leftovers.remove_left_folders(database, settings)
    assert (mine.exists(), nobodys.exists(), coming.exists()) == (True, False, True)
    end(database, AREAS[area], ids[area])
    leftovers.remove_left_folders(database, settings)
    assert not mine.exists()


def test_stored_files_stay_while_a_row_needs_them(database: Database, settings: Settings, ids: dict[str, str]) -> None:
    storage = open_storage(settings)
    assert isinstance(storage, FolderStorage)
    batch, weights, nobody = ids["batches"], ids["weights-incoming"], new_id()
    needed = {f"batches/{batch}/archive", f"weights/{weights}/received", f"weights/{weights}/arrays.npz"}
    left = {f"batches/{nobody}/archive", f"weights/{nobody}/received", f"weights/{weights}/.arrays.npz.{new_id()}"}
    young = f"batches/{new_id()}/archive"
    for key in needed | left | {young}:
        storage.put(key, b"bytes")
        if key != young:
            os.utime(storage.local(key), (1, 1))

    def there() -> set[str]:
        leftovers.remove_left_files(database, storage)
        return {file.key for area in leftovers.STORED_AREAS for file in storage.listing(area)} - {young}

    assert there() == needed
    with database.write() as session:
        session.execute(update(BatchPrediction).values(status=BatchStatus.READY))
        session.execute(update(Weights).values(status=WeightsStatus.READY))
    assert there() == {f"weights/{weights}/arrays.npz"}
    end(database, WEIGHTS_LIFE, weights)
    assert there() == set()
    assert storage.has(young)


def test_checkpoints_stay_while_a_retry_may_go_on_from_them_and_go_when_it_has_succeeded(
    database: Database, settings: Settings
) -> None:
    with database.write() as session:
        on = version(session, person(session))
        runs = [ended_run(session, on, kind) for kind in ("disk_full", "crash", "crash")]
    kept, spent, young = (
        old(settings.runs_folder / run.id / "attempts" / "2" / "checkpoints", young=run is runs[2]) for run in runs
    )
    os.utime(young)
    leftovers.remove_left_folders(database, settings)
    assert (kept.exists(), spent.exists(), young.exists()) == (True, False, True)
    assert spent.parent.exists(), "what it takes to repeat the run by hand"
    with database.write() as session:
        ended_run(session, on, None, runs[0])
    (left,) = [one for one in leftovers.left_folders(database, settings) if one.path == kept]
    assert left.key == f"runs/{runs[0].id}/attempts/2/checkpoints"
    leftovers.remove_left_folders(database, settings)
    assert not kept.exists()


def test_kept_checkpoints_go_with_their_run(database: Database, settings: Settings) -> None:
    with database.write() as session:
        run = ended_run(session, version(session, person(session)), "disk_full")
    folder = settings.runs_folder / run.id
    kept = old(folder / "attempts" / "1" / "checkpoints")
    os.utime(folder, (1, 1))
    leftovers.remove_left_folders(database, settings)
    assert kept.exists()
    with database.write() as session:
        session.delete(session.get_one(Run, run.id))
    leftovers.remove_left_folders(database, settings)
    assert not folder.exists()
