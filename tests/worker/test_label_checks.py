"""Label checks of the batch queue: a real search in a process of its own, and what becomes of one that fails, is cancelled or drained."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from core import label_desk, presets
from core.database import database_now
from core.datasets import placed_pictures
from core.errors import FULL_DISK, Fenced
from core.leases import LABEL_CHECK_LIFE, Claim, expire, expired
from core.storage import blob_key
from core.tables import DatasetVersion, Image, LabelCheck, LabelCheckStatus, LabelSuggestion, Split
from core.training_config import parse_config
from tests.worker.tiny_dataset import TINY, add_tiny_dataset
from tests.worker.workplaces import fill_disk, workplace
from worker import label_checks, tasks
from worker.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path, database_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A worker with short leases; the quick preset is a tiny network."""
    config = parse_config({**TINY, "phases": [{"kind": "frozen", "epochs": 2, "features": "cached"}]})
    monkeypatch.setitem(presets.PRESETS, "quick", replace(presets.PRESETS["quick"], config=config))
    monkeypatch.setattr(label_checks, "SIDE", 32)
    with workplace(tmp_path, database_address, "batch", lease_seconds=20) as made:
        yield made


def ask(place: Workplace) -> str:
    """Ask for a check of a tiny dataset; returns its id."""
    with place.database.write() as session:
        version = add_tiny_dataset(session, place.settings, classes=3)
        return label_desk.request_check(session, None, version).id


def look(place: Workplace, check_id: str) -> LabelCheck:
    with place.database.read() as session:
        return session.get_one(LabelCheck, check_id)


def test_a_check_finds_doubts_in_train_and_validation_only(place: Workplace) -> None:
    check_id = ask(place)
    tasks.batch(place)
    check = look(place, check_id)
    assert (check.status, check.error) == (LabelCheckStatus.READY, None)
    assert check.summary["pictures"] == 33
    with place.database.read() as session:
        found = set(session.scalars(select(LabelSuggestion.image_id).where(LabelSuggestion.check_id == check_id)))
        version = session.get_one(DatasetVersion, check.version_id)
        learnt = {one.image_id for one in placed_pictures(session, version) if one.split != Split.TEST}
    assert found == learnt
    assert not list(label_checks.checks_folder(place).glob("*")), "nothing is left behind"


def test_an_attempt_that_was_overtaken_leaves_the_folder_of_the_next_one(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_id = ask(place)
    theirs = label_checks.LabelChecking(place, Claim(check_id, 2))._folder

    def overtaken(self: label_checks.LabelChecking) -> None:
        self._prepare()
        theirs.mkdir(parents=True, exist_ok=True)
        raise Fenced("Attempt 2 has it.")

    monkeypatch.setattr(label_checks.LabelChecking, "_check", overtaken)
    label_checks.check_next(place)
    assert list(label_checks.checks_folder(place).iterdir()) == [theirs]


def play(place: Workplace, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """A check whose process is this Python code."""
    monkeypatch.setattr(label_checks, "trainer_command", lambda: [sys.executable, "-c", code])
    return ask(place)


def test_a_failure_that_a_person_can_mend_is_told(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    event = '{"event": "failed", "kind": "weights", "message": "The weights are away.", "advice": ""}'
    check_id = play(place, monkeypatch, f"print('{event}')")
    tasks.batch(place)
    check = look(place, check_id)
    assert (check.status, check.error) == (LabelCheckStatus.FAILED, "The weights are away.")


def test_a_crash_is_tried_three_times(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    check_id = play(place, monkeypatch, "raise SystemExit(9)")
    for _ in range(3):
        tasks.batch(place)
        with place.database.write() as session:
            for lost in expired(session, LABEL_CHECK_LIFE):
                expire(session, LABEL_CHECK_LIFE, lost, error="It failed three times.")
    check = look(place, check_id)
    assert (check.status, check.failures, check.error) == (LabelCheckStatus.FAILED, 3, "It failed three times.")


@pytest.mark.parametrize("how", ["cancel", "drain"])
def test_a_check_is_cancelled_or_given_back_within_seconds(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    waits = 'import time; print(\'{"event": "progress", "message": "busy"}\', flush=True); time.sleep(60)'
    check_id = play(place, monkeypatch, waits)
    told = label_checks.LabelChecking._tell

    def tell(self: label_checks.LabelChecking, message: str, done: int, total: int) -> None:
        told(self, message, done, total)
        if how == "drain":
            place.drain.set()
        with place.database.write() as session:
            if how == "cancel":
                wanted = update(LabelCheck).where(LabelCheck.id == check_id)
                session.execute(wanted.values(cancel_requested_at=database_now()))

    monkeypatch.setattr(label_checks.LabelChecking, "_tell", tell)
    started = time.monotonic()
    tasks.batch(place)
    assert time.monotonic() - started < 15
    expected = LabelCheckStatus.CANCELLED if how == "cancel" else LabelCheckStatus.QUEUED
    assert (look(place, check_id).status, look(place, check_id).failures) == (expected, 0)


def test_a_missing_picture_is_named(place: Workplace) -> None:
    check_id = ask(place)
    with place.database.read() as session:
        sha256 = session.scalars(select(Image.sha256).limit(1)).one()
        assert session.scalar(select(func.count()).select_from(LabelSuggestion)) == 0
    place.storage.delete(blob_key(sha256))
    tasks.batch(place)
    check = look(place, check_id)
    assert check.status == LabelCheckStatus.FAILED
    assert "is missing" in str(check.error)


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_a_full_disk_is_a_sentence_and_no_fault_of_ours(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    check_id = ask(place)
    fill_disk(monkeypatch, label_checks.checks_folder(place).name, number)
    tasks.batch(place)
    check = look(place, check_id)
    assert (check.status, check.failures, check.error) == (
        LabelCheckStatus.FAILED,
        0,
        "The disk became full while the labels were checked. Free some space and try again.",
    )
