"""What is kept of pictures in the cache goes with them: a trainer fills it, the dataset is deleted, the sweeper frees, the worker looks."""

import os
import time
from collections.abc import Callable, Iterator
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
from worker.cache_cleaning import LOCK, CacheCleaner, CacheCleaning
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
    monkeypatch.setattr(cache_cleaning, "REST_SECONDS", 0.0)
    queue_run(place.database, place.settings)
    with place.database.write() as session:
        session.execute(Run.__table__.delete())  # type: ignore[attr-defined]
    cleaning = CacheCleaning(place)
    assert cleaning.look() == 0

    left_segment(place, 7)
    assert cleaning.look() == 0, "nothing was removed"
    free(place, monkeypatch)
    assert cleaning.look() == 1
    assert cached(place) == []


def left_segment(place: Workplace, picture: int) -> None:
    """Features of a picture that has no row."""
    root = place.settings.cache_folder / "features"
    store = SegmentStore(root, {}, (2,), np.dtype(np.float32), limit_bytes=10**6, reserve_bytes=0)
    store.publish(store.begin(np.full((1, 32), picture, np.uint8)))
    store.finish()


def raise_removals(place: Workplace) -> None:
    with place.database.write() as session:
        freeing.hold_removals(session)


def test_while_files_are_being_removed_nothing_is_looked_at(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(cache_cleaning.time, "monotonic", lambda: now[0])
    cleaning = CacheCleaning(place)
    assert cleaning.look() == 0
    left_segment(place, 7)
    raise_removals(place)
    for _ in range(3):
        assert cleaning.look() == 0, "removed a moment ago"
        now[0] += 0.8 * cache_cleaning.REST_SECONDS
        raise_removals(place)
    assert cleaning.look() == 0
    now[0] += 1.1 * cache_cleaning.REST_SECONDS
    assert cleaning.look() == 1, "once, when it rests"
    left_segment(place, 8)
    while not (removed := cleaning.look()):
        now[0] += 0.5 * cache_cleaning.REST_SECONDS
        raise_removals(place)
        assert now[0] < 1000 + 2 * cache_cleaning.LONGEST_SECONDS, "it never rests"
    assert removed == 1


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_process_cleans_a_cache_the_next_takes_over_and_no_fault_ends_it(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_cleaning, "EVERY_SECONDS", 0.01)
    looks: list[CacheCleaning] = []
    look = CacheCleaning.look

    def noted(cleaning: CacheCleaning) -> int:
        looks.append(cleaning)
        if len(looks) == 1:
            raise ValueError("a fault")
        return look(cleaning)

    monkeypatch.setattr(CacheCleaning, "look", noted)
    left_segment(place, 7)
    first, second = CacheCleaner(place), CacheCleaner(place)
    first.start()
    until(lambda: len(looks) >= 2)
    second.start()
    until(lambda: cached(place) == [])
    time.sleep(0.1)
    assert len(set(looks)) == 1
    first.stop()
    until(lambda: len(set(looks)) == 2)
    second.stop()
    assert "a fault" in caplog.text
    assert (place.settings.cache_folder / LOCK).exists()


def test_leftovers_of_a_data_folder_without_a_web_server_are_removed_every_hour(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_cleaning, "EVERY_SECONDS", 0.01)
    left = place.settings.runs_folder / "gone"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    cleaner = CacheCleaner(place)
    cleaner.start()
    time.sleep(0.2)
    assert left.exists(), "the worker has just started, and looked"
    monkeypatch.setattr(cache_cleaning, "TIDY_SECONDS", 0.1)
    until(lambda: not left.exists())
    cleaner.stop()


def test_old_copies_of_deleted_pictures_go_and_those_of_others_stay(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    cleaning = CacheCleaning(place)
    assert cleaning.look() == 2
    assert [path.exists() for path in paths] == [True, True, False, False, True, True]
    monotonic, wall = time.monotonic, time.time
    for passed, removed in ((0.9, 0), (1.1, 2), (3.0, 0)):  # the young ones were of no known picture either
        later = passed * cache_cleaning.YOUNG_SECONDS
        monkeypatch.setattr(cache_cleaning.time, "monotonic", lambda later=later: monotonic() + later)
        monkeypatch.setattr(cache_cleaning.time, "time", lambda later=later: wall() + later)
        assert cleaning.look() == removed
    assert [path.exists() for path in paths] == [True, True, False, False, False, False]
