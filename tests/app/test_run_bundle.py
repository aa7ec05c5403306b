"""A run's bundle is a run folder that the trainer reads, once the pictures of its dataset version are put into it."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.dependencies import House
from core.database import Database
from core.tables import NearPair, VersionImage
from tests.app.people import Caller, belongings, original_of
from worker.training.run_folder import read_run_folder

pytestmark = pytest.mark.both_databases


def test_a_bundle_and_an_export_make_a_run_folder(ada: Caller, house: House, tmp_path: Path) -> None:
    owned = belongings(house, ada.user)
    answer = ada.client.get(f"/api/v1/runs/{owned.run_id}/bundle")
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        packed.extractall(tmp_path)
    exported = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}/export")
    (tmp_path / "export.zip").write_bytes(exported.content)
    fetch = [sys.executable, "fetch.py", "export.zip"]
    fetched = subprocess.run(fetch, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (fetched.returncode, fetched.stdout.strip()) == (0, "8 of 8 pictures are there."), fetched.stderr
    rows = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["sha256"] for row in rows} == {hashlib.sha256(original_of(ada.user, i)).hexdigest() for i in range(8)}
    for row in rows:
        assert hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest() == row["sha256"]
        row["split"] = {"cat/0.png": "validation"}.get(
            row["filename"], row["split"]
        )  # theirs has no validation picture
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = read_run_folder(tmp_path)
    assert (folder.run_id, len(folder.pictures), folder.class_names) == (owned.run_id, 8, ("cat", "dog"))
    original = json.loads((tmp_path / "original.json").read_text(encoding="utf-8"))
    assert original["command"].startswith("python -m worker.training")
    assert original["seed"] == 0


def test_near_duplicates_are_one_group_in_a_bundle_as_they_were_to_the_trainer(ada: Caller, house: House) -> None:
    owned = belongings(house, ada.user)
    with house.database.write() as session:
        asked = select(VersionImage.image_id).where(VersionImage.version_id == owned.version_id)
        one, other = sorted(session.scalars(asked.order_by(VersionImage.ordinal).limit(2)))
        session.add(NearPair(image_id=one, other_id=other, score=0.9))
    answer = ada.client.get(f"/api/v1/runs/{owned.run_id}/bundle")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        rows = [json.loads(line) for line in packed.read("images.jsonl").decode().splitlines()]
    groups = {row["image_id"]: row["group"] for row in rows}
    assert groups.pop(one) == groups.pop(other) is not None
    assert set(groups.values()) == {None}


@pytest.mark.parametrize("where", ["runs/{one.run_id}/bundle", "dataset-versions/{one.version_id}/export"])
def test_no_transaction_is_open_while_a_bundle_or_an_archive_is_written(
    ada: Caller, house: House, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Laying out a version of many pictures takes long; on PostgreSQL it would hold a connection of the pool and ask for another."""
    owned, read, at_once = belongings(house, ada.user), Database.read, []
    opened: list[Session] = []

    @contextmanager
    def noted(database: Database) -> Iterator[Session]:
        with read(database) as session:
            opened.append(session)
            at_once.append(sum(one.in_transaction() for one in opened))
            yield session

    def made(database: Database, *, writes: bool) -> Session:
        opened.append(new_session(database, writes=writes))
        return opened[-1]

    new_session = Database.new_session
    monkeypatch.setattr(Database, "read", noted)
    monkeypatch.setattr(Database, "new_session", made)
    assert ada.client.get("/api/v1/" + where.format(one=owned)).status_code == 200
    assert len(at_once) >= 2
    assert not any(at_once)


def test_a_picture_that_the_export_lacks_is_said(ada: Caller, house: House, tmp_path: Path) -> None:
    owned = belongings(house, ada.user)
    answer = ada.client.get(f"/api/v1/runs/{owned.run_id}/bundle")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        packed.extractall(tmp_path)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as empty:
        empty.writestr("other.png", b"another picture")
    fetch = [sys.executable, "fetch.py", "export.zip"]
    fetched = subprocess.run(fetch, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (fetched.returncode, fetched.stdout.strip()) == (1, "0 of 8 pictures are there.")
