"""Uploads as they come in: paths, limits, broken requests, and what is left on disk."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app.dependencies import House
from app.errors import MediaTypeUnknown
from app.receiving import FormReader, MemorySink, clean_path, is_archive
from core.config import Settings
from core.errors import InputInvalid, TooLarge
from core.tables import Upload, UploadFile
from core.uploads import incoming_folder
from tests.app.people import Caller

Files = list[tuple[str, tuple[str, bytes]]]


def files(*named: tuple[str, bytes]) -> Files:
    """A form with these files."""
    return [("files", one) for one in named]


@pytest.fixture
def dataset_id(ada: Caller) -> str:
    """An empty dataset of Ada's."""
    made: str = ada.client.post("/api/v1/datasets", json={"name": "Pets"}).json()["id"]
    return made


def on_disk(house: House) -> list[Path]:
    """Every received file."""
    return sorted(path for path in house.settings.incoming_folder.rglob("*") if path.is_file())


def recorded(house: House, upload_id: str) -> dict[str, UploadFile]:
    """Rows of an upload's files by path."""
    with house.database.read() as session:
        rows = session.scalars(select(UploadFile).where(UploadFile.upload_id == upload_id)).all()
    return {row.path: row for row in rows}


# --- way 1: a form


def test_a_folder_arrives_with_its_relative_paths(ada: Caller, house: House, dataset_id: str) -> None:
    sent = files(("flowers/roses/a.jpg", b"rose"), ("flowers/tulips/é ü 花.jpg", b"tulip"))
    answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=sent)
    assert answer.status_code == 202, answer.text
    upload = answer.json()
    assert answer.headers["location"] == f"/api/v1/uploads/{upload['id']}"
    assert (upload["status"], upload["received_bytes"], upload["total_bytes"]) == ("received", 9, 9)
    rows = recorded(house, upload["id"])
    assert set(rows) == {"flowers/roses/a.jpg", "flowers/tulips/é ü 花.jpg"}
    rose = rows["flowers/roses/a.jpg"]
    assert rose.sha256 == hashlib.sha256(b"rose").hexdigest()
    assert (incoming_folder(house.settings, upload["id"]) / rose.id).read_bytes() == b"rose"


def test_more_than_a_thousand_files_fit_into_one_form(ada: Caller, house: House, dataset_id: str) -> None:
    sent = files(*((f"c{index % 2}/{index}.png", str(index).encode()) for index in range(1100)))
    answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=sent)
    assert answer.status_code == 202, answer.text
    assert len(recorded(house, answer.json()["id"])) == len(on_disk(house)) == 1100


def test_a_form_without_files_begins_nothing(ada: Caller, house: House, dataset_id: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename=""\r\n\r\n\r\n--b--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", content=body, headers=kind)
    assert answer.status_code == 409, answer.text
    assert "no files" in answer.json()["detail"]
    with house.database.read() as session:
        assert session.scalars(select(Upload)).all() == []


def test_an_unknown_form_field_is_refused(ada: Caller, house: House, dataset_id: str) -> None:
    sent = [*files(("a.jpg", b"x")), ("pictures", ("b.jpg", b"y"))]
    answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=sent)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "pictures"
    assert on_disk(house) == []


@pytest.mark.parametrize("cut", [10, 150, 2_000_000])
def test_a_form_that_was_cut_off_leaves_nothing(ada: Caller, house: House, dataset_id: str, cut: int) -> None:
    whole = httpx.Request("POST", "http://x", files=files(("a.jpg", b"x" * 1000), ("b.jpg", b"y" * 3_000_000)))
    answer = ada.client.post(
        f"/api/v1/datasets/{dataset_id}/uploads",
        content=whole.read()[:cut],
        headers={"Content-Type": whole.headers["Content-Type"]},
    )
    assert answer.status_code == 422, answer.text
    assert "cut off" in answer.json()["detail"]
    assert on_disk(house) == []


async def call(web: FastAPI, path: str, token: str, kind: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send ASGI messages by hand, so that a client can go away in the middle; gives the answer's messages."""
    waiting, answer = iter(messages), []

    async def receive() -> dict[str, Any]:
        return next(waiting, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        answer.append(message)

    headers = [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {token}".encode()),
        (b"content-type", kind.encode()),
    ]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    more = {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "root_path": ""}
    await web({**scope, **more}, receive, send)
    return answer


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "application/zip"])
def test_a_client_that_goes_away_leaves_nothing(
    web: FastAPI, ada: Caller, house: House, dataset_id: str, kind: str
) -> None:
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    pieces = [start + b"x" * 2_000_000, b"x" * 2_000_000]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    path = f"/api/v1/datasets/{dataset_id}/uploads"
    anyio.run(call, web, path, ada.token, kind, messages)
    assert on_disk(house) == []
    with house.database.read() as session:
        assert session.scalars(select(Upload)).all() == []


# --- way 2: an archive as the body


@pytest.mark.parametrize(
    ("kind", "filename", "path"),
    [
        ("application/zip", "set.zip", "set.zip"),
        ("application/zip", None, "upload.zip"),
        ("application/x-tar", "../../etc/set.tar", "etc/set.tar"),
        ("application/gzip", "set.tgz", "set.tgz"),
        ("application/x-tar", "set.exe", "upload.tar"),
    ],
)
def test_an_archive_is_the_body(
    ada: Caller, house: House, dataset_id: str, kind: str, filename: str | None, path: str
) -> None:
    answer = ada.client.post(
        f"/api/v1/datasets/{dataset_id}/uploads",
        params={"filename": filename} if filename else {},
        content=b"PK" * 1_500_000,
        headers={"Content-Type": kind},
    )
    assert answer.status_code == 202, answer.text
    row = recorded(house, answer.json()["id"])[path]
    assert row.size_bytes == 3_000_000
    assert row.sha256 == hashlib.sha256(b"PK" * 1_500_000).hexdigest()


def test_another_kind_of_body_is_refused_with_the_allowed_ones(ada: Caller, house: House, dataset_id: str) -> None:
    answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", json={"files": []})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["detail"]
    with house.database.read() as session:
        assert session.scalars(select(Upload)).all() == []


# --- way 3: batches


def test_batches_make_one_upload_and_repeats_are_harmless(ada: Caller, house: House, dataset_id: str) -> None:
    opened = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", params={"complete": "false"})
    assert opened.status_code == 202, opened.text
    upload_id = opened.json()["id"]
    assert opened.json()["status"] == "receiving"
    path = f"/api/v1/uploads/{upload_id}"
    assert ada.client.post(f"{path}/complete").status_code == 409
    first = ada.client.post(f"{path}/files", files=files(("a/1.png", b"1"), ("a/2.png", b"2"))).json()
    assert (first["added"], first["repeated"], first["upload"]["received_bytes"]) == (2, 0, 2)
    again = ada.client.post(f"{path}/files", files=files(("a/2.png", b"2"), ("a/2.png", b"other"))).json()
    assert (again["added"], again["repeated"], again["upload"]["received_bytes"]) == (1, 1, 7)
    assert len(on_disk(house)) == 3
    assert ada.client.post(f"{path}/complete").status_code == 202
    assert ada.client.post(f"{path}/complete").json()["status"] == "received"
    late = ada.client.post(f"{path}/files", files=files(("b.png", b"late")))
    assert late.status_code == 409
    assert len(on_disk(house)) == 3


def test_a_batch_that_breaks_off_keeps_the_upload_and_its_earlier_files(
    ada: Caller, house: House, dataset_id: str
) -> None:
    upload_id = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads?complete=false").json()["id"]
    ada.client.post(f"/api/v1/uploads/{upload_id}/files", files=files(("a/1.png", b"1")))
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a/2.png"\r\n\r\nhalf'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ada.client.post(f"/api/v1/uploads/{upload_id}/files", content=body, headers=kind).status_code == 422
    assert set(recorded(house, upload_id)) == {"a/1.png"}
    assert len(on_disk(house)) == 1


def test_deleting_an_upload_removes_its_bytes(ada: Caller, house: House, dataset_id: str) -> None:
    upload = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=files(("a.jpg", b"x"))).json()
    assert ada.client.delete(f"/api/v1/uploads/{upload['id']}").status_code == 204
    assert on_disk(house) == []
    assert ada.client.get(f"/api/v1/uploads/{upload['id']}").status_code == 404


# --- limits


class TestLimits:
    """With small limits."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Small limits."""
        small = {"max_archive_bytes": 5000, "max_image_bytes": 1000, "max_unpacked_bytes": 8000, "max_entries": 3}
        return settings.model_copy(update=small)

    def test_an_archive_over_the_limit_is_refused_while_it_comes(
        self, ada: Caller, house: House, dataset_id: str
    ) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 100_000

        kind = {"Content-Type": "application/zip"}
        answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", content=endless(), headers=kind)
        assert answer.status_code == 413
        assert "5,000 bytes" in answer.json()["detail"]
        assert on_disk(house) == []

    def test_a_picture_over_the_limit_is_left_to_the_receipt(self, ada: Caller, house: House, dataset_id: str) -> None:
        sent = files(("a/big.png", b"x" * 2500), ("a/good.png", b"y"))
        answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=sent)
        assert answer.status_code == 202
        rows = recorded(house, answer.json()["id"])
        assert rows["a/big.png"].size_bytes == 2500
        path = incoming_folder(house.settings, answer.json()["id"]) / rows["a/big.png"].id
        assert path.stat().st_size == 1001

    def test_too_much_together_is_refused(self, ada: Caller, house: House, dataset_id: str) -> None:
        sent = files(*((f"{index}.png", b"x" * 900) for index in range(10)))
        answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=sent)
        assert answer.status_code == 413
        assert on_disk(house) == []

    def test_too_many_files_are_refused(self, ada: Caller, house: House, dataset_id: str) -> None:
        sent = files(*((f"{index}.png", b"x") for index in range(4)))
        answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=sent)
        assert answer.status_code == 413
        assert "at most 3 files" in answer.json()["detail"]
        assert on_disk(house) == []


class TestFullDisk:
    """With a reserve that no disk has."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Too large a reserve."""
        return settings.model_copy(update={"disk_reserve_bytes": 10**18})

    def test_a_full_disk_is_a_sentence_and_leaves_nothing(self, ada: Caller, house: House, dataset_id: str) -> None:
        answer = ada.client.post(f"/api/v1/datasets/{dataset_id}/uploads", files=files(("a.jpg", b"x")))
        assert answer.status_code == 507
        assert "disk is nearly full" in answer.json()["detail"]
        with house.database.read() as session:
            assert session.scalars(select(Upload)).all() == []


# --- parts


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("flowers/roses/a.jpg", "flowers/roses/a.jpg"),
        ("C:\\pets\\cat\\1.png", "C:/pets/cat/1.png"),
        ("../../../etc/passwd", "etc/passwd"),
        ("/absolute//twice/./a.png", "absolute/twice/a.png"),
        ("a/\x00b\n.png", "a/b.png"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("花/ü.png", "花/ü.png"),
        (" / a.png", " a.png"),
    ],
)
def test_paths_are_cleaned_and_kept(given: str, kept: str) -> None:
    assert clean_path(given) == kept


def test_the_end_of_a_long_path_is_kept() -> None:
    path = clean_path("x/" * 2000 + "roses/a.png")
    assert len(path) <= 1024
    assert path.endswith("/roses/a.png")


def test_archives_are_known_by_their_name() -> None:
    assert is_archive("A.ZIP")
    assert is_archive("set.tar.gz")
    assert not is_archive("zip.png")


def memory() -> MemorySink:
    """A sink with room."""
    return MemorySink(most_files=3, most_bytes=10, most_together=100)


def test_a_form_is_read_the_same_in_pieces_of_any_size() -> None:
    request = httpx.Request(
        "POST",
        "http://x",
        data={"name": "Pets"},
        files=[("images", ("a.png", b"1\r\n2")), ("images", ('q"2.png', b""))],
    )
    body, kind = request.read(), request.headers["Content-Type"]
    for size in (1, 2, 7, 64, len(body)):
        sink = memory()
        reader = FormReader(kind, sink, "images", frozenset({"name"}))
        for start in range(0, len(body), size):
            reader.feed(body[start : start + size])
        reader.finish()
        assert [(name, bytes(content)) for name, content in sink.files] == [("a.png", b"1\r\n2"), ('q"2.png', b"")]
        assert sink.count.texts == {"name": "Pets"}


def test_a_body_that_is_no_form_is_refused() -> None:
    with pytest.raises(MediaTypeUnknown):
        FormReader("text/plain", memory(), "images", frozenset())
    with pytest.raises(MediaTypeUnknown):
        FormReader("multipart/form-data", memory(), "images", frozenset())
    with pytest.raises(InputInvalid, match="cannot be read"):
        FormReader("multipart/form-data; boundary=b", memory(), "images", frozenset()).feed(b"nonsense here")


def test_memory_has_limits() -> None:
    sink = memory()
    sink.begin("a")
    sink.write(memoryview(b"x" * 50))
    assert len(sink.files[0][1]) == 11
    with pytest.raises(TooLarge, match="together"):
        sink.write(memoryview(b"x" * 51))
    sink.begin("b")
    sink.begin("c")
    with pytest.raises(TooLarge, match="At most 3"):
        sink.begin("d")
