"""A trainer finds every picture on this machine, wherever it is stored."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from core.bucket import BucketStorage
from core.config import Settings
from core.errors import PicturesUnreadable
from core.leases import RUN_LIFE, Claim, claim
from core.storage import blob_key
from core.tables import Image
from tests.s3 import Bucket
from tests.worker.tiny_dataset import queue_run
from worker.run_preparation import PICTURES, clear_up, prepare_folder
from worker.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path, database_address: str, bucket: Bucket) -> Iterator[Workplace]:
    """A worker whose pictures are in a bucket, and who has no copy of any."""
    made = Workplace(
        Settings(
            data_dir=tmp_path,
            database_url=database_address,
            redis_url=f"unix://{tmp_path}/nobody.sock",
            disk_reserve_bytes=0,
            **bucket.settings,
        ),
        ("train",),
    )
    yield made
    made.close()


@pytest.fixture
def held(place: Workplace) -> Claim:
    """A claimed run on thirty pictures."""
    queue_run(place.database, place.settings)
    with place.database.write() as session:
        found = claim(session, RUN_LIFE, "tests", 60)
    assert found is not None
    return found


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "images.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_picture_is_fetched_and_stays_until_the_run_has_ended(place: Workplace, held: Claim) -> None:
    folder = prepare_folder(place, held, lambda: None)
    lines = _lines(folder)
    assert len(lines) == 30
    shutil.rmtree(place.settings.copies_folder)  # as if others had needed the room
    for line in lines:
        path = Path(line["path"])
        assert folder / PICTURES in path.parents
        assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
    clear_up(place.settings, held.id)
    assert sorted(path.name for path in folder.iterdir()) == ["images.jsonl", "run.json"]


def test_the_pictures_of_an_earlier_attempt_make_room(place: Workplace, held: Claim) -> None:
    first = prepare_folder(place, held, lambda: None)
    second = prepare_folder(place, Claim(held.id, held.attempt + 1), lambda: None)
    assert not (first / PICTURES).exists()
    assert all(Path(line["path"]).is_file() for line in _lines(second))


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_a_picture_that_is_gone_or_damaged_is_named(place: Workplace, held: Claim, harm: str) -> None:
    with place.database.read() as session:
        key = blob_key(session.scalars(select(Image.sha256).limit(1)).one())
    place.storage.delete(key)
    if harm == "damaged":
        place.storage.put(key, b"something else")
    with pytest.raises(
        PicturesUnreadable, match=r'"c\d/\d+\.png" of the dataset is missing. The file .* Upload it again'
    ):
        prepare_folder(place, held, lambda: None)


def test_a_slow_fetch_keeps_the_lease_says_how_far_it_is_and_stops_when_told(
    place: Workplace, held: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, told, kept = threading.Event(), [], []
    fetch = BucketStorage.keep

    def slow(storage: BucketStorage, key: str, folder: Path) -> Path:
        go_on.wait(10)
        return fetch(storage, key, folder)

    def keep() -> None:
        kept.append(True)
        if len(kept) == 3:
            go_on.set()
            raise InterruptedError

    monkeypatch.setattr(BucketStorage, "keep", slow)
    with pytest.raises(InterruptedError):
        prepare_folder(place, held, keep, lambda done, of: told.append((done, of)))
    assert told == [(0, 30), (0, 30)]
