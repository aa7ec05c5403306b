"""What is kept of pictures in the cache goes with them: a trainer fills it, the dataset is deleted, the sweeper frees, the worker looks."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from core import freeing
from core.datasets import delete_dataset
from core.storage import blob_key, open_storage, thumbnail_key
from core.tables import Dataset, Image, Run, RunStatus
from tests.worker.tiny_dataset import queue_run
from tests.worker.workplaces import workplace
from worker import cache_cleaning
from worker.cache_cleaning import CacheCleaning
from worker.supervisor import Supervisor
from worker.training.segments import SegmentStore
from worker.workplace import Workplace

_STORED = {
    "phases": [
        {"kind": "frozen", "epochs": 1, "features": "cached"},
        {"kind": "fine_tune", "epochs": 1, "features": "cached", "views": 2, "unfreeze_from": {"fraction": 0.3}},
    ]
}


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A training worker."""
    with workplace(tmp_path, database_address, "train", lease_seconds=20) as made:
        yield made


def free(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete every dataset, and free its pictures as the sweeper does an hour later."""
    with place.database.write() as session:
        for dataset in session.scalars(select(Dataset)).all():
            delete_dataset(session, dataset, force=True)
    monkeypatch.setattr(freeing, "KEPT_SECONDS", 0.0)
    sweeping = freeing.Freeing(place.settings, place.database, open_storage(place.settings))
    while sweeping.step(time.monotonic() + 60):
        pass


def cached(place: Workplace) -> list[Path]:
    return [path for path in place.settings.cache_folder.rglob("*") if path.suffix in {".data", ".keys", ".part"}]


def test_pixels_features_and_cut_activations_go_with_the_pictures(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue_run(place.database, place.settings, _STORED)
    supervisor = Supervisor(place)
    try:
        supervisor.task()
    finally:
        supervisor.close()
    with place.database.read() as session:
        assert session.get_one(Run, run_id).status == RunStatus.SUCCEEDED
    there = cached(place)
    assert len({path.parent for path in there}) >= 4, (
        "pixels, pooled features, and activations at the cut, plain and in views"
    )
    assert CacheCleaning(place).look() == 0, "every picture has its row"
    free(place, monkeypatch)
    assert CacheCleaning(place).look() == len(there) / 2
    assert cached(place) == []


def test_the_cache_is_looked_at_only_when_files_were_removed_since(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_cleaning, "AGAIN_SECONDS", 0.0)
    queue_run(place.database, place.settings)
    with place.database.write() as session:
        session.execute(Run.__table__.delete())  # type: ignore[attr-defined]
    cleaning = CacheCleaning(place)
    assert cleaning.look() == 0

    root = place.settings.cache_folder / "features"
    store = SegmentStore(root, {}, (2,), np.dtype(np.float32), limit_bytes=10**6, reserve_bytes=0)
    store.publish(store.begin(np.full((1, 32), 7, np.uint8)))
    store.finish()
    assert cleaning.look() == 0, "nothing was removed"
    free(place, monkeypatch)
    assert cleaning.look() == 1
    assert cached(place) == []


def test_old_copies_of_deleted_pictures_go_and_those_of_others_stay(place: Workplace) -> None:
    queue_run(place.database, place.settings)
    with place.database.read() as session:
        known = session.scalars(select(Image.sha256)).first()
    assert known is not None
    paths = [
        place.settings.copies_folder / key
        for sha256 in (known, "5" * 64, "6" * 64)
        for key in (blob_key(sha256), thumbnail_key(sha256))
    ]
    long_ago = time.time() - 2 * cache_cleaning.YOUNG_SECONDS
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a copy")
        os.utime(path, (long_ago, long_ago))
    for path in paths[4:]:
        os.utime(path)
    assert CacheCleaning(place).look() == 2
    assert [path.exists() for path in paths] == [True, True, False, False, True, True]
