"""Our own tus client against a real server, over lines that break and servers that are killed."""

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from app.main import create_app
from cli import resuming
from cli.exits import ServerAway
from cli.remote import Remote
from cli.resuming import Transfer, opened
from core import accounts, datasets
from core.config import Settings
from core.database import Database
from core.errors import ThawError
from core.tables import UploadFile, User
from core.uploads import incoming_folder
from tests.app.server import serving
from tests.broker import embedded_valkey

MEGABYTE = 1 << 20


class Noise:
    """Bytes that no disk holds: the same at the same place, every time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tile = random.Random(7).randbytes(MEGABYTE + 13)

    def read(self, start: int, length: int) -> bytes:
        """See `cli.virtual_tar.Source.read`."""
        length = min(length, self.size - start)
        first = start % len(self._tile)
        return (self._tile[first:] + self._tile * (length // len(self._tile) + 1))[:length]

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.size, MEGABYTE):
            digest.update(self.read(start, MEGABYTE))
        return digest.hexdigest()


class Cutting:
    """A line to the server that breaks after so many bytes, so many times."""

    def __init__(self, port: int, after: int, times: int) -> None:
        self._target = port
        self._after = after
        self.left = times
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                target.sendall(data)
                passed += len(data)
                if counted and self.left > 0 and passed > self._after:
                    self.left -= 1
                    return
        except OSError:
            pass
        finally:
            for one in (source, target):
                with contextlib.suppress(OSError):  # wakes whoever reads it in the other direction
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "PAUSES", (0.1,) * 300)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with embedded_valkey() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, database: Database) -> Settings:
    given = {"data_dir": tmp_path, "redis_url": redis_url, "database_url": database.address}
    return Settings(**given, disk_reserve_bytes=0, sweep_seconds=600)


@pytest.fixture
def token(database: Database) -> str:
    with database.write() as session:
        user = User(name="ada")
        session.add(user)
        session.flush()
        return accounts.create_token(session, user, "test")[1]


@pytest.fixture
def dataset_id(token: str, database: Database) -> str:  # noqa: ARG001 - made before
    with database.write() as session:
        owner = session.scalars(select(User.id)).one()
        return datasets.create_dataset(session, owner, "noise").id


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as found:
        yield found


def sent(remote: Remote, source: Noise, dataset_id: str) -> str:
    """Send it; the upload's id."""
    where, now = opened(remote, source, dataset_id=dataset_id, filename="noise.zip", key="one key")
    Transfer(remote, source, where, lambda _: None).send()
    return str(now["id"])


def check_received(settings: Settings, database: Database, upload_id: str, source: Noise) -> None:
    """The server has what was sent, and knows its hash."""
    with database.read() as session:
        file = session.scalars(select(UploadFile).where(UploadFile.upload_id == upload_id)).one()
    assert (file.size_bytes, file.sha256) == (source.size, source.sha256())
    with (incoming_folder(settings, upload_id) / file.id).open("rb") as body:
        assert hashlib.file_digest(body, "sha256").hexdigest() == file.sha256


@pytest.mark.parametrize(
    ("size", "cut_after"),
    [(30 * MEGABYTE, MEGABYTE), pytest.param(1000 * MEGABYTE, 45 * MEGABYTE, marks=pytest.mark.slow)],
    ids=["30 MB", "1 GB"],
)
def test_twenty_cuts_give_the_same_hash(
    settings: Settings, database: Database, token: str, dataset_id: str, address: str, size: int, cut_after: int
) -> None:
    line = Cutting(int(address.rsplit(":", 1)[1]), cut_after, 20)
    source = Noise(size)
    with Remote(line.address, token) as remote:
        upload_id = sent(remote, source, dataset_id)
    line.close()
    assert line.left == 0
    check_received(settings, database, upload_id, source)


@contextmanager
def running_server(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The web application in a process of its own."""
    code = f"import uvicorn; from app.main import create_app; uvicorn.run(create_app(), port={port}, log_level='error')"
    environment = {**os.environ, "THAW_DATA_DIR": str(settings.folder), "THAW_REDIS_URL": str(settings.redis_url)}
    environment["DATABASE_URL"] = settings.database_address
    process = subprocess.Popen([sys.executable, "-c", code], env={**environment, "THAW_DISK_RESERVE_BYTES": "0"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def waited(done: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v1/health/live", timeout=5).is_success
    except httpx.HTTPError:
        return False


def test_a_killed_server_claims_only_what_it_has(
    settings: Settings, database: Database, token: str, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "MOST", MEGABYTE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    source = Noise(20 * MEGABYTE)
    told: list[int] = []
    ended: list[str] = []

    def send() -> None:
        with Remote(f"http://127.0.0.1:{port}", token) as remote:
            where, now = opened(remote, source, dataset_id=dataset_id, filename="noise.zip", key="k")
            Transfer(remote, source, where, told.append).send()
            ended.append(now["id"])

    sender = threading.Thread(target=send)
    with running_server(settings, port) as server:
        waited(lambda: answers(port))
        sender.start()
        waited(lambda: bool(told) and told[-1] >= 8 * MEGABYTE)
        server.send_signal(signal.SIGKILL)
        server.wait()
    (folder,) = settings.incoming_folder.iterdir()
    (file,) = folder.iterdir()
    assert file.stat().st_size >= told[-1]
    with running_server(settings, port):
        sender.join(60)
    assert not sender.is_alive()
    check_received(settings, database, ended[0], source)


def test_an_upload_that_ended_is_not_sent_again_and_one_that_was_deleted_is(
    settings: Settings, database: Database, token: str, dataset_id: str, address: str
) -> None:
    source = Noise(1000)
    with Remote(address, token) as remote:
        first = sent(remote, source, dataset_id)
        assert opened(remote, source, dataset_id=dataset_id, filename="noise.zip", key="one key")[1]["id"] == first
        remote.raw("DELETE", f"/uploads/{first}")
        second = sent(remote, source, dataset_id)
    assert second != first
    check_received(settings, database, second, source)


def test_a_server_that_stays_away_is_said(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "PAUSES", (0.0, 0.0))
    with Remote("http://127.0.0.1:9", token) as remote, pytest.raises(ServerAway, match="No Thaw answers"):
        Transfer(remote, Noise(10), "/uploads/tus/x", lambda _: None).send()


def test_a_refusal_ends_it_with_its_sentence(token: str, dataset_id: str, address: str) -> None:
    with Remote(address, token) as remote, pytest.raises(ThawError, match="at most 10,000,000,000"):
        opened(remote, Noise(10_000_000_001), dataset_id=dataset_id, filename="a.zip", key="large")
