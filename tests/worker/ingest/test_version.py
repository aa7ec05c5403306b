"""The end of an ingest, while others make versions too, sweep, or stop this worker; with a real database and real files."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import update

from core import unseen_versions
from core.database import Database
from core.datasets import VersionDraft
from core.errors import Conflict
from core.leases import UPLOAD_LIFE, claim, expire, expired
from core.tables import Dataset, UploadStatus
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import classes, picture
from worker.ingest import version as version_module
from worker.ingest.ingest import Ingest, ingest_next

FLOWERS = classes(["roses", "tulips"])


@pytest.mark.parametrize(("step", "written"), [("_draft", 2), ("write_rows", 3)])
def test_two_uploads_of_one_dataset_build_on_each_other(
    person: Person, monkeypatch: pytest.MonkeyPatch, step: str, written: int
) -> None:
    """A second upload becomes ready between the first one's reading and writing of the version, or while its rows are written."""
    first = person.send(FLOWERS)
    with person.database.write() as session:
        held = claim(session, UPLOAD_LIFE, "slow", 60)
    assert held is not None
    second = person.send(classes(["lilies", "asters"]))
    calls = dict.fromkeys(("_draft", "write_rows"), 0)

    def watched(name: str) -> Callable[..., object]:
        honest = getattr(version_module, name)

        def call(*arguments: object) -> object:
            calls[name] += 1
            if name == step and calls[name] == 1:
                assert ingest_next(person.settings, person.database, owner="quick")
            return honest(*arguments)

        return call

    for name in calls:
        monkeypatch.setattr(version_module, name, watched(name))
    Ingest(person.settings, person.database, held, lambda _: None).run()
    assert {person.look(first).status, person.look(second).status} == {UploadStatus.READY}
    version = person.version()
    assert (version.number, version.class_names) == (2, ["asters", "lilies", "roses", "tulips"])
    assert calls == {"_draft": 3, "write_rows": written}, "rows are not written where it is known already to be in vain"


def test_others_write_while_a_version_is_described(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, written = version_module.described, []

    def call(draft: VersionDraft) -> dict[str, object]:
        with person.database.write() as session:
            session.execute(update(Dataset).values(description="somebody else's"))
        written.append(1)
        return honest(draft)

    monkeypatch.setattr(version_module, "described", call)
    assert person.upload(FLOWERS).status == UploadStatus.READY
    assert written == [1]


@pytest.mark.both_databases
def test_an_upload_whose_version_was_taken_for_abandoned_says_so_and_is_tried_again(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = version_module.write_rows

    def swept(database: Database, version_id: str, *others: Any) -> None:
        unseen_versions.forget(database, version_id)
        honest(database, version_id, *others)

    upload_id = person.send(FLOWERS)
    with monkeypatch.context() as patched:
        patched.setattr(version_module, "write_rows", swept)
        with pytest.raises(Conflict, match="took too long"):
            ingest_next(person.settings, person.database, owner="test")
    assert person.look(upload_id).status == UploadStatus.INGESTING
    with person.database.write() as session:
        assert [expire(session, UPLOAD_LIFE, lost) for lost in expired(session, UPLOAD_LIFE)] == [UploadStatus.RECEIVED]
    assert ingest_next(person.settings, person.database, owner="test")
    assert person.look(upload_id).status == UploadStatus.READY


@pytest.mark.both_databases
def test_doubles_are_told_in_short_transactions_and_a_crash_between_two_changes_nothing(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseen_versions, "ROWS_AT_ONCE", 2)
    copies = {f"roses/copy {number}.png": FLOWERS["roses/1.png"] for number in range(3)}
    wrong = {f"{name}/wrong {number}.png": picture(7) for name in ("roses", "tulips") for number in range(2)}
    upload = person.upload(FLOWERS | copies | wrong)
    told = {path: (row.code, row.reason) for path, row in person.receipt(upload).items()}
    assert Counter(code for code, _ in told.values()) == {"": 8, "duplicate": 3, "label_conflict": 4}
    honest, stopped = version_module._write_changes, 0
    for steps in range(1, 9):
        left = iter(range(steps))

        def crash(*arguments: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError("the machine stops")
            honest(*arguments)

        again = Person(person.settings, person.database, name=f"person {steps}")
        upload_id = again.send(FLOWERS | copies | wrong)
        with monkeypatch.context() as patched:
            patched.setattr(version_module, "_write_changes", crash)
            try:
                ingest_next(again.settings, again.database, owner="test")
            except OSError:
                stopped += 1
                with again.database.write() as session:
                    for lost in expired(session, UPLOAD_LIFE):
                        expire(session, UPLOAD_LIFE, lost)
        if again.look(upload_id).status == UploadStatus.RECEIVED:
            assert ingest_next(again.settings, again.database, owner="test")
        upload = again.look(upload_id)
        assert (upload.status, upload.by_reason) == (UploadStatus.READY, {"duplicate": 3, "label_conflict": 4})
        assert {path: (row.code, row.reason) for path, row in again.receipt(upload).items()} == told
    assert stopped >= 2
