"""Resumable uploads whose connections break, on a real server."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import transferring
from app.dependencies import House
from core import transfers
from core.config import Settings
from core.tables import Dataset, Transfer, UploadFile
from tests.app.api.tus_client import BODY, PIECE, VERSION, begin, checksum, offset_of, send, whole
from tests.app.people import Caller
from tests.app.server import serving


@pytest.fixture
def dataset_id(ada: Caller) -> str:
    made = ada.client.post("/api/v1/datasets", json={"name": "Розы"})
    return str(made.json()["id"])


@pytest.fixture
def served(web: FastAPI, ada: Caller) -> Iterator[Caller]:
    """Ada, whose client talks to a real server."""
    with serving(web) as address, httpx.Client(base_url=address, headers=ada.client.headers, timeout=20) as client:
        yield Caller(ada.user, client, ada.token)  # type: ignore[arg-type]


class Half:
    """A PATCH that sends some of what it announced, by hand."""

    def __init__(self, who: Caller, where: str, offset: int, announced: int, **headers: str) -> None:
        parts = urlsplit(str(who.client.base_url))
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)
        lines = {
            "Host": parts.netloc,
            "Authorization": f"Bearer {who.token}",
            **VERSION,
            **PIECE,
            "Upload-Offset": str(offset),
            "Content-Length": str(announced),
            **headers,
        }
        head = f"PATCH {where} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        self.socket.sendall(head.encode())

    def send(self, body: bytes) -> None:
        self.socket.sendall(body)

    def answer(self) -> int:
        """The status of the answer."""
        return int(self.socket.recv(4096).split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def waited(call: object, wanted: int, seconds: float = 10.0) -> int:
    """Ask again until the answer is as wanted."""
    end = time.monotonic() + seconds
    while (found := call()) != wanted and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.05)
    return int(found)


def locked(house: House) -> bool:
    """True while a request writes to the one transfer."""
    with house.database.read() as session:
        return session.scalars(select(Transfer)).one().writer is not None


def test_what_came_before_a_cut_is_kept(served: Caller, house: House, dataset_id: str) -> None:
    made = begin(served, dataset_id)
    where = made.headers["Location"]
    with Half(served, where, 0, len(BODY)) as half:
        half.send(BODY[:6000])
        assert waited(lambda: locked(house), True)
        time.sleep(0.3)  # what the server has not read yet is lost with the connection
    assert waited(lambda: offset_of(served, where), 6000) == 6000
    assert send(served, where, 6000, BODY[6000:]).status_code == 204
    assert whole(house, made.json()["id"])[2] == BODY


def test_a_piece_with_a_checksum_that_was_cut_is_not_kept(served: Caller, dataset_id: str) -> None:
    where = begin(served, dataset_id).headers["Location"]
    with Half(served, where, 0, len(BODY), **checksum(BODY)) as half:
        half.send(BODY[:6000])
    time.sleep(0.3)
    assert offset_of(served, where) == 0
    assert waited(lambda: send(served, where, 0, BODY, **checksum(BODY)).status_code, 204) == 204


def test_the_second_of_two_tabs_waits_while_the_first_one_sends(served: Caller, house: House, dataset_id: str) -> None:
    made = begin(served, dataset_id)
    where = made.headers["Location"]
    with Half(served, where, 0, len(BODY)) as first:
        answers = []
        for start in range(0, 8000, 1000):
            first.send(BODY[start : start + 1000])
            time.sleep(0.3)
            answers.append(send(served, where, 0, b"y" * 100).status_code)
        assert set(answers) == {423}
        first.send(BODY[8000:])
        assert first.answer() == 204
    assert whole(house, made.json()["id"])[2] == BODY


def test_a_connection_that_died_in_silence_gives_way(served: Caller, house: House, dataset_id: str) -> None:
    made = begin(served, dataset_id)
    where = made.headers["Location"]
    with Half(served, where, 0, len(BODY)) as dead:
        dead.send(BODY[:4000])  # and never again, but the connection stays open, as behind a router that lost it
        assert waited(lambda: offset_of(served, where), 4000, 6.0) == 4000
        assert waited(lambda: send(served, where, 4000, BODY[4000:]).status_code, 204) == 204
    assert whole(house, made.json()["id"])[2] == BODY


@pytest.mark.parametrize("headers", [{}, checksum(bytes(1 << 21))], ids=["kept", "whole-or-not"])
def test_a_request_that_is_cancelled_counts_its_bytes_on_a_thread_and_lets_go(
    web: FastAPI, ada: Caller, dataset_id: str, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    where = begin(ada, dataset_id, size=1 << 22).headers["Location"]
    broke, threads = transferring._Piece.broken, []

    def noted(piece: transferring._Piece) -> None:
        threads.append(threading.get_ident())
        broke(piece)

    monkeypatch.setattr(transferring._Piece, "broken", noted)
    lines = {"Host": "localhost", "Authorization": f"Bearer {ada.token}", "Upload-Offset": "0", **VERSION, **PIECE}
    scope = {"type": "http", "method": "PATCH", "path": where, "raw_path": where.encode(), "query_string": b""}
    scope |= {"headers": [(name.lower().encode(), value.encode()) for name, value in {**lines, **headers}.items()]}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "root_path": ""}

    async def cancelled() -> None:
        pieces = [bytes(1 << 20)]
        with anyio.CancelScope() as cancelling:

            async def receive() -> dict[str, object]:
                if not pieces:
                    cancelling.cancel()
                    await anyio.sleep_forever()
                return {"type": "http.request", "body": pieces.pop(), "more_body": True}

            async def heard(_: object) -> None:
                pass

            await web(scope, receive, heard)
        assert cancelling.cancelled_caught

    anyio.run(cancelled)
    assert threads
    assert threading.get_ident() not in threads, "the event loop stays free"
    kept = 0 if headers else 1 << 20
    assert offset_of(ada, where) == kept
    assert send(ada, where, kept, b"more").status_code == 204, "nobody holds it"


def test_a_lock_of_a_dead_process_runs_out_and_a_restart_takes_it_away(
    ada: Caller, house: House, dataset_id: str
) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    number = where.rsplit("/", 1)[1]
    with house.database.write() as session:
        assert transfers.lock(session, number, "a dead one")
    assert send(ada, where, 0, BODY[:10]).status_code == 423
    with house.database.write() as session:
        session.execute(update(Transfer).values(locked_until=1.0))
    assert send(ada, where, 0, BODY[:10]).status_code == 204
    with house.database.write() as session:
        assert transfers.lock(session, number, "a dead one")
    with house.database.write() as session:
        transfers.unlock_all(session)
    assert send(ada, where, 10, BODY[10:20]).status_code == 204


def test_a_writer_that_lost_its_lock_counts_nothing(house: House, ada: Caller, dataset_id: str) -> None:
    where = begin(ada, dataset_id).headers["Location"]
    with house.database.write() as session:
        transfer = transfers.find_transfer(session, ada.user.id, where.rsplit("/", 1)[1])
        assert transfers.lock(session, transfer.id, "second")
    with pytest.raises(transfers.Fenced), house.database.write() as session:
        transfers.record_offset(session, house.settings, transfer, "first", 100)
    assert offset_of(ada, where) == 0


def test_deleting_the_upload_ends_its_transfer(served: Caller, house: House, dataset_id: str) -> None:
    made = begin(served, dataset_id)
    where = made.headers["Location"]
    with Half(served, where, 0, len(BODY)) as half:
        half.send(BODY[:4000])
        time.sleep(0.2)
        assert served.client.delete(f"/api/v1/uploads/{made.json()['id']}").status_code == 204
        half.send(BODY[4000:])
        assert half.answer() == 423
    assert served.client.head(where, headers=VERSION).status_code == 404
    with house.database.read() as session:
        assert session.scalars(select(UploadFile)).all() == []
        assert session.scalars(select(Dataset)).one().id == dataset_id


def test_a_long_piece_is_counted_now_and_then(served: Caller, dataset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    record = transfers.record_offset

    def noted(session: Session, settings: Settings, transfer: Transfer, writer: str, offset: int) -> None:
        counted.append(offset)
        record(session, settings, transfer, writer, offset)

    monkeypatch.setattr(transfers, "record_offset", noted)
    size = 30 << 20
    where = begin(served, dataset_id, size=size).headers["Location"]
    assert send(served, where, 0, bytes(size)).status_code == 204
    assert 3 <= len(counted) <= 20
    assert counted == sorted(counted)
    assert offset_of(served, where) == size
