"""A dataset version leaves as a ZIP archive and comes back as the same version; memory stays flat; what is damaged breaks the download."""

import csv
import hashlib
import io
import json
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import insert, select

from app.dependencies import House
from app.version_zip import VersionZip, ZipStream, entry_name
from core import datasets
from core.database import Database
from core.ids import new_id
from core.storage import FolderStorage, blob_key
from core.tables import Dataset, DatasetVersion, Image, Split, Upload, UploadStatus, User, VersionImage
from tests.app.people import Caller
from tests.core.rows import add_version
from tests.worker.ingest.corpus import picture
from worker.ingest.ingest import ingest_next

ODD_NAMES = ["=1+1", "a/b", "roses", "Roses", ".hidden", "train", 'con, "quoted"\u00e9', "動物", "__pycache__"]


def imported(house: House, ada: Caller, body: bytes) -> DatasetVersion:
    """Send an archive as a new dataset and ingest it."""
    made = ada.client.post("/api/v1/datasets", json={"name": "again"}).json()["id"]
    answer = ada.client.post(
        f"/api/v1/datasets/{made}/uploads?filename=again.zip", content=body, headers={"Content-Type": "application/zip"}
    )
    assert answer.status_code == 202, answer.text
    assert ingest_next(house.settings, house.database, owner="test")
    with house.database.read() as session:
        upload = session.get_one(Upload, answer.json()["id"])
        assert (upload.status, upload.error) == (UploadStatus.READY, None)
        assert upload.dataset_version_id is not None
        return session.get_one(DatasetVersion, upload.dataset_version_id)


def odd_version(house: House, ada: Caller) -> DatasetVersion:
    """A version with names, groups and splits of every kind, its pictures stored. Groups are torn, and one class lacks test pictures."""
    placed = []
    with house.database.write() as session:
        dataset = datasets.create_dataset(session, ada.user.id, "Odd: 動物/1")
        for label, name in enumerate(ODD_NAMES):
            for index in range(6):
                body = picture(label * 100 + index)
                sha = hashlib.sha256(body).hexdigest()
                house.storage.put(blob_key(sha), body)
                facts = {"width": 24, "height": 16, "format": "PNG", "size_bytes": len(body)}
                image_id = datasets.remember_image(session, ada.user.id, sha, facts)
                split = (Split.TRAIN, Split.VALIDATION, Split.TEST if name != "roses" else Split.TRAIN)[index % 3]
                group = f"patient {label}, {index % 2}" if label % 2 else None
                placed.append(datasets.Placed(image_id, sha, "x/same name.png", name, split, group))
        return add_version(session, dataset, datasets.VersionDraft(placed))


def test_an_exported_version_imports_again_to_the_same_fingerprint(house: House, ada: Caller) -> None:
    version = odd_version(house, ada)
    answer = ada.client.get(f"/api/v1/dataset-versions/{version.id}/export")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "filename*=UTF-8''Odd%3A%20" in answer.headers["content-disposition"]
    again = imported(house, ada, answer.content)
    assert (again.fingerprint, again.test_fingerprint) == (version.fingerprint, version.test_fingerprint)
    assert (again.class_names, again.counts) == (version.class_names, version.counts)
    assert ada.client.get(f"/api/v1/dataset-versions/{version.id}/export").content == answer.content, "equal bytes"


def test_the_archive_says_what_is_in_it(house: House, ada: Caller) -> None:
    version = odd_version(house, ada)
    body = ada.client.get(f"/api/v1/dataset-versions/{version.id}/export").content
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("manifest.csv"), encoding="utf-8", newline="")))
        facts = json.loads(archive.read("dataset_version.json"))
        names = archive.namelist()
    assert names == ["dataset_version.json", "manifest.csv", *(row["filename"] for row in rows)]
    assert len(set(names)) == len({name.casefold() for name in names}) == 2 + version.image_count
    assert {row["class_name"] for row in rows} == set(ODD_NAMES)
    assert (facts["fingerprint"], facts["class_names"]) == (version.fingerprint, version.class_names)


def test_a_damaged_or_missing_picture_breaks_the_download_instead_of_being_given_out(house: House, ada: Caller) -> None:
    version = odd_version(house, ada)
    with house.database.read() as session:
        sha = session.scalars(
            select(Image.sha256).join(VersionImage, VersionImage.image_id == Image.id).order_by(Image.sha256)
        ).first()
        dataset = session.get_one(Dataset, version.dataset_id)
    assert sha is not None
    house.storage.put(blob_key(sha), b"other bytes")
    with pytest.raises(Exception, match="damaged"):
        list(VersionZip(house.database, house.storage, dataset, version).stream())
    house.storage.delete(blob_key(sha))
    with pytest.raises(Exception, match="not in the storage"):
        list(VersionZip(house.database, house.storage, dataset, version).stream())


def test_the_larger_form_of_zip_is_written_where_the_small_one_ends(tmp_path: Path) -> None:
    out = ZipStream(datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC))
    path = tmp_path / "many.zip"
    with path.open("wb") as file:
        for number in range(65_540):
            file.writelines(out.entry(f"{number}", 0, 0, []))
        file.writelines(out.end())
    out.close()
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 65_540
        assert archive.infolist()[0].date_time == (2026, 1, 2, 3, 4, 6)


def test_offsets_beyond_four_gigabytes_are_read_back(tmp_path: Path) -> None:
    out = ZipStream(datetime(2026, 1, 2, tzinfo=UTC))
    path, large = tmp_path / "large.zip", 3_000_000_000
    with path.open("wb") as file:
        for name in ("a", "b"):  # with holes instead of bytes: nobody reads these two
            file.writelines(out.entry(name, 0, large, []))
            file.seek(large, 1)
        file.writelines(out.entry("c", 0xE8B7BE43, 1, [b"a"]))
        file.writelines(out.end())
    out.close()
    with zipfile.ZipFile(path) as archive:
        assert archive.read("c") == b"a"
        assert archive.getinfo("c").header_offset > 1 << 32


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path, database: Database) -> None:
    body = bytes(200_000)
    sha = hashlib.sha256(body).hexdigest()
    storage = FolderStorage(tmp_path / "storage", reserve_bytes=0)
    storage.put(blob_key(sha), body)

    def peak(count: int) -> int:
        version = same_picture_version(database, sha, len(body), count)
        with database.read() as session:
            dataset = session.get_one(Dataset, version.dataset_id)
        tracemalloc.start()
        archive = VersionZip(database, storage, dataset, version)
        assert sum(len(piece) for piece in archive.stream()) == archive.size
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is loaded once
    small, large = peak(300), peak(1500)
    assert large < 1.2 * small + 500_000, (small, large)


def same_picture_version(database: Database, sha: str, size: int, count: int) -> DatasetVersion:
    """A version of `count` pictures that all have one content (of as many owners, or the tables would refuse them)."""
    with database.write() as session:
        owner = User(name=new_id())
        session.add(owner)
        session.flush()
        dataset = datasets.create_dataset(session, owner.id, "large")
        version = add_version(session, dataset, datasets.VersionDraft([]))
        people = [{"id": new_id(), "name": new_id(), "is_admin": False} for _ in range(count)]
        session.execute(insert(User), people)
        facts = {"sha256": sha, "width": 1, "height": 1, "format": "PNG", "size_bytes": size}
        images = [{"id": new_id(), "owner_id": person["id"], **facts} for person in people]
        session.execute(insert(Image), images)
        rows = [
            {"version_id": version.id, "ordinal": n, "image_id": one["id"], "label": 0, "split": Split.TRAIN}
            | {"group": None, "filename": f"a/{n}.png"}
            for n, one in enumerate(images)
        ]
        session.execute(insert(VersionImage), rows)
        version.class_names, version.image_count = ["a"], count
        return version


def test_names_in_the_archive_are_plain_and_short() -> None:
    def name(class_name: str, filename: str) -> str:
        place = SimpleNamespace(label=0, split=Split.TEST, ordinal=7, filename=filename)
        return entry_name(place, [class_name])  # type: ignore[arg-type]

    assert name("roses", "flowers/roses/a.jpg") == "test/roses/000007-a.jpg"
    assert name("../x", "a.jpg") == "test/class 0/000007-a.jpg"
    assert len(name("r" * 200, "b" * 300 + ".jpg")) < 130
