"""Near checks of the batch queue: what features propose and grey copies confirm is found later; what fails, is cancelled or drained."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, select, update

from core import label_desk
from core import near_checks as verbs
from core.backbones import BACKBONES, NEAR_BY, NEAR_BY_WEIGHTS
from core.database import database_now
from core.issues import list_issues
from core.leases import NEAR_CHECK_LIFE, expire, expired
from core.tables import DatasetVersion, Image, LabelCheck, NearCheck, NearCheckStatus, NearPair, VersionImage
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import encoded
from tests.worker.ingest.test_guard import scene
from tests.worker.workplaces import workplace
from worker import near_checks, tasks
from worker.ingest.aligned import ALIKE
from worker.training.segments import SegmentStore
from worker.workplace import Workplace

SIZE = BACKBONES[NEAR_BY].features
MEANING = {
    "name": f"{NEAR_BY}/folded",
    "end": "top_activation/GlobalAveragePooling2D",
    "weights": NEAR_BY_WEIGHTS[0],
    "augmentation": None,
}


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A worker of the batch queue."""
    with workplace(tmp_path, database_address, "batch", lease_seconds=20) as made:
        yield made


def cropped(seed: int) -> np.ndarray:
    """A fifth cut off each side length of a scene: more than hashes find."""
    return scene(seed, 240)[48:, 48:]


@pytest.fixture
def version(place: Workplace) -> DatasetVersion:
    """Twelve scenes in train and validation; of the first three, cropped copies are in test."""
    person = Person(place.settings, place.database)
    files: dict[str, bytes | Path] = {}
    for seed in range(12):
        files[f"{('train', 'train', 'train', 'val')[seed // 3]}/{'ab'[seed % 2]}/{seed}.png"] = encoded(
            scene(seed, 240)
        )
    for seed in range(3):
        files[f"test/{'ab'[seed % 2]}/copy {seed}.png"] = encoded(cropped(seed))
    files["test/b/other.png"] = encoded(scene(99, 240))
    person.upload(files)
    made = person.version()
    assert (made.issues["near_duplicates"], made.image_count) == (0, 16)
    return made


def by_name(place: Workplace, version: DatasetVersion) -> dict[str, tuple[str, str]]:
    """File name -> id and SHA-256."""
    columns = select(VersionImage.filename, Image.id, Image.sha256).join(Image, Image.id == VersionImage.image_id)
    with place.database.read() as session:
        rows = session.execute(columns.where(VersionImage.version_id == version.id)).all()
    return {filename.rpartition("/")[2]: (image_id, sha256) for filename, image_id, sha256 in rows}


def store(place: Workplace, version: DatasetVersion, *, without: frozenset[str] = frozenset()) -> None:
    """Features as a run stores them: those of a copy are near its original's, and so are those of "other.png" near 5.png's."""
    random = np.random.default_rng(0)
    directions = {name: random.normal(size=SIZE) for name in (*(f"{seed}.png" for seed in range(12)),)}
    for name, like in (("other.png", "5.png"), *((f"copy {seed}.png", f"{seed}.png") for seed in range(3))):
        directions[name] = directions[like] + 0.2 * random.normal(size=SIZE)
    there = {name: row for name, row in by_name(place, version).items() if name not in without}
    root, dtype = place.settings.cache_folder / "features", np.dtype(np.float32)
    made = SegmentStore(root, MEANING, (SIZE,), dtype, limit_bytes=10**9, reserve_bytes=0)
    segment = made.begin(np.stack([np.frombuffer(bytes.fromhex(sha256), np.uint8) for _, sha256 in there.values()]))
    segment.records[:] = [directions[name] for name in there]
    made.publish(segment)
    made.finish()


def ask(place: Workplace, version: DatasetVersion) -> None:
    with place.database.write() as session:
        verbs.request_check(session, version)


def look(place: Workplace) -> NearCheck:
    with place.database.read() as session:
        return session.scalars(select(NearCheck)).one()


def test_copies_that_hashes_miss_are_found_and_what_only_features_find_alike_is_not(
    place: Workplace, version: DatasetVersion
) -> None:
    store(place, version)
    ask(place, version)
    tasks.batch(place)
    check = look(place)
    assert (check.status, check.compared, check.pairs, check.lease_owner) == (NearCheckStatus.READY, 16, 3, None)
    names = by_name(place, version)
    wanted = {tuple(sorted((names[f"{seed}.png"][0], names[f"copy {seed}.png"][0]))) for seed in range(3)}
    with place.database.read() as session:
        found = {(one.image_id, one.other_id): one.score for one in session.scalars(select(NearPair))}
        issues = list_issues(session, version, kind="found_later", limit=100).items
        now = session.get_one(DatasetVersion, version.id)
    assert set(found) == wanted
    assert all(ALIKE <= score <= 1 for score in found.values())
    assert {(one.image_id, one.other_id) for one in issues} == wanted
    assert all("leak between" in one.detail for one in issues)
    assert now.issues == {**version.issues, "found_later": 3}


def test_with_nothing_stored_nothing_is_compared_and_a_later_run_asks_again(
    place: Workplace, version: DatasetVersion
) -> None:
    ask(place, version)
    tasks.batch(place)
    assert (look(place).status, look(place).compared) == (NearCheckStatus.READY, 0)
    store(place, version, without=frozenset({"copy 1.png"}))
    ask(place, version)
    tasks.batch(place)
    assert (look(place).status, look(place).compared, look(place).pairs) == (NearCheckStatus.READY, 15, 2)


@pytest.mark.parametrize("how", ["cancel", "drain", "others"])
def test_a_check_is_cancelled_or_given_back(
    place: Workplace, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store(place, version)
    ask(place, version)
    scores = near_checks._scores

    def stop(*given: object) -> list[float]:
        if how == "drain":
            place.drain.set()
        with place.database.write() as session:
            if how == "cancel":
                session.execute(update(NearCheck).values(cancel_requested_at=database_now()))
            if how == "others":
                label_desk.request_check(session, None, version)
        return scores(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(near_checks, "_scores", stop)
    monkeypatch.setattr(near_checks, "PAIRS_AT_ONCE", 1)
    monkeypatch.setattr("worker.hold.CANCEL_POLL_SECONDS", 0.0)
    monkeypatch.setattr(near_checks, "LOOK_SECONDS", 0.0)
    assert near_checks.near_check_next(place)
    expected = NearCheckStatus.CANCELLED if how == "cancel" else NearCheckStatus.QUEUED
    assert (look(place).status, look(place).failures) == (expected, 0)
    if how == "others":
        assert not near_checks.near_check_next(place), "they still wait"
        with place.database.write() as session:
            session.execute(delete(LabelCheck))
    if how != "cancel":
        monkeypatch.setattr(near_checks, "_scores", scores)
        place.drain.clear()
        tasks.batch(place)
        assert (look(place).status, look(place).pairs) == (NearCheckStatus.READY, 3)


def test_a_fault_is_tried_three_times(
    place: Workplace, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[float]:
        raise ValueError("a fault")

    store(place, version)
    ask(place, version)
    monkeypatch.setattr(near_checks, "_scores", broken)
    for _ in range(3):
        with pytest.raises(ValueError, match="a fault"):
            tasks.batch(place)
        with place.database.write() as session:
            for lost in expired(session, NEAR_CHECK_LIFE):
                expire(session, NEAR_CHECK_LIFE, lost, error="It failed three times.")
    assert (look(place).status, look(place).failures) == (NearCheckStatus.FAILED, 3)
    assert look(place).error == "It failed three times."
