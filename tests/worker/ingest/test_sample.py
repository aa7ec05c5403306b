import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from core.config import Settings
from core.database import Database
from core.datasets import latest_version
from core.errors import InputInvalid
from core.tables import Dataset, Run, RunStatus, Upload, UploadStatus
from core.uploads import SAMPLE_CLASSES, SAMPLE_PICTURES, make_sample
from tests.core.rows import RememberingQueue
from tests.worker.ingest.conftest import Person
from worker.ingest.ingest import ingest_next
from worker.ingest.sample import sample_pictures


def test_a_seed_gives_the_same_pictures_again_and_another_seed_others() -> None:
    first, again, other = (next(sample_pictures(seed)) for seed in (5, 5, 6))
    assert first == again
    assert first[1] != other[1]


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image.Image]:
    return {path: Image.open(io.BytesIO(body)).convert("RGB") for path, body in sample_pictures(11)}


def test_every_class_has_fifty_pictures_of_both_orientations(drawn: dict[str, Image.Image]) -> None:
    assert Counter(path.split("/")[0] for path in drawn) == dict.fromkeys(SAMPLE_CLASSES, SAMPLE_PICTURES // 3)
    assert {picture.size for picture in drawn.values()} == {(320, 240), (240, 320)}


def test_classes_differ_less_in_colour_and_light_than_pictures_do(drawn: dict[str, Image.Image]) -> None:
    """What tells the classes apart must be shapes: no class is known by its mean colour."""
    means: dict[str, list[Any]] = {name: [] for name in SAMPLE_CLASSES}
    for path, picture in drawn.items():
        means[path.split("/")[0]].append(np.asarray(picture).mean(axis=(0, 1)))
    between = np.std([np.mean(one, axis=0) for one in means.values()], axis=0)
    within = np.mean([np.std(one, axis=0) for one in means.values()], axis=0)
    assert (between < within / 2).all()
    assert (within > 15).all()


def ordered(person: Person, **wish: object) -> str:
    with person.database.write() as session:
        queue = RememberingQueue()
        upload = make_sample(session, queue, person.owner_id, **{"seed": 3, "train_preset": "quick"} | wish)  # type: ignore[arg-type]
        return upload.id


def test_a_sample_becomes_a_dataset_version_and_the_wished_run_is_queued(
    person: Person, settings: Settings, database: Database
) -> None:
    upload_id = ordered(person)
    assert ingest_next(settings, database, owner="test")
    with database.read() as session:
        upload = session.get_one(Upload, upload_id)
        assert (upload.status, upload.kept, upload.refused) == (UploadStatus.READY, SAMPLE_PICTURES, 0)
        assert upload.total_bytes == upload.received_bytes > 500_000
        version = latest_version(session, upload.dataset_id)
        assert version is not None
        assert version.class_names == list(SAMPLE_CLASSES)
        assert all(min(counts.values()) >= 5 for counts in version.counts.values())
        assert "drawn by Thaw, seed 3" in session.get_one(Dataset, upload.dataset_id).description
        run = session.scalars(select(Run)).one()
        assert (run.status, run.preset, run.dataset_version_id) == (RunStatus.QUEUED, "quick", version.id)
        assert run.rung_at is None  # so that the sweeper rings at its next round
    assert not (settings.incoming_folder / upload_id).exists()


def test_without_a_preset_no_run_is_queued(person: Person, settings: Settings, database: Database) -> None:
    ordered(person, train_preset=None)
    ingest_next(settings, database, owner="test")
    with database.read() as session:
        assert session.scalars(select(Run)).all() == []


@pytest.mark.parametrize(
    ("wish", "words"), [({"train_preset": "fastest"}, "no preset"), ({"seed": -1}, "Received: -1")]
)
def test_a_wish_that_cannot_be_met_has_a_sentence(person: Person, wish: dict[str, object], words: str) -> None:
    with pytest.raises(InputInvalid, match=words):
        ordered(person, **wish)
