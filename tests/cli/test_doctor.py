"""`thaw doctor` finds what is wrong and says what to do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import text

from cli import doctor
from cli.doctor import Finding, State, examine
from core.config import Settings
from core.database import Database
from tests.cli.test_main import Thaw, thaw  # noqa: F401 - a fixture


def found(settings: Settings) -> dict[str, Finding]:
    return {one.name: one for one in examine(settings, quick=True)}


def states(settings: Settings) -> dict[str, State]:
    return {name: one.state for name, one in found(settings).items()}


def test_a_fresh_installation_is_sound(tmp_path: Path) -> None:
    told = found(Settings(data_dir=tmp_path / "new"))
    assert [one for one in told.values() if one.state == State.PROBLEM] == []
    assert "EfficientNet-Lite0: here" in told["Weights"].detail
    assert "made at the first start" in told["Data folder"].detail
    assert not (tmp_path / "new").exists(), "looking changes nothing"


def test_what_is_wrong_is_a_problem_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 1_000_000_000)
    settings = Settings(
        data_dir=tmp_path,
        disk_reserve_bytes=10**18,
        redis_url="redis://127.0.0.1:1/0",
        database_url="postgresql://nobody@127.0.0.1:1/nothing",
    )
    told = found(settings)
    wrong = {name for name, one in told.items() if one.state == State.PROBLEM}
    assert wrong == {"Memory", "Disk", "Broker", "Database"}
    assert all(told[name].advice for name in wrong)


@pytest.mark.both_databases
def test_a_database_of_a_newer_thaw_is_a_problem_and_an_older_one_a_note(tmp_path: Path, database: Database) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database.address)
    told = found(settings)["Database"]
    assert told.state == State.OK
    assert told.detail.startswith("SQLite 3" if database.is_sqlite else "PostgreSQL, schema ")
    with database.read() as session:
        newest = session.scalar(text("SELECT version_num FROM alembic_version"))
    try:
        with database.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert found(settings)["Database"].state == State.PROBLEM
        with database.write() as session:
            session.execute(text("DELETE FROM alembic_version"))
        assert found(settings)["Database"].state == State.NOTE
    finally:  # other tests use this very database of PostgreSQL
        with database.write() as session:
            session.execute(text("DELETE FROM alembic_version"))
            session.execute(text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": newest})


@contextmanager
def answering(folder: Path, **parts: bool) -> Iterator[None]:
    """A server that says how ready it is."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"ok": all(parts.values()), "parts": parts}).encode()
            self.send_response(200 if all(parts.values()) else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        facts = {"address": f"http://127.0.0.1:{server.server_port}"}
        (folder / "server.json").write_text(json.dumps(facts))
        yield
        server.shutdown()
        thread.join(5)


def test_a_server_is_asked_itself_and_needs_workers(tmp_path: Path, database: Database) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database.address)
    assert states(settings)["Workers"] == State.OK, "without a server nobody expects workers"
    assert database.alive()
    with answering(tmp_path, database=True, broker=True):
        told = found(settings)
        assert told["Server"].state == State.OK
        assert told["Workers"].state == State.PROBLEM
        assert "none for train, ingest, predict" in told["Workers"].detail
    with answering(tmp_path, database=True, broker=False):
        assert "is not ready: broker" in found(settings)["Server"].detail
    assert states(settings)["Server"] == State.NOTE, "it has ended"


def test_a_folder_that_others_can_read_is_a_note(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert states(Settings(data_dir=tmp_path))["Data folder"] == State.OK
    tmp_path.chmod(0o755)
    assert states(Settings(data_dir=tmp_path))["Data folder"] == State.NOTE


def test_weights_that_may_not_be_downloaded_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no keras"))
    assert states(Settings(data_dir=tmp_path))["Weights"] == State.OK
    assert states(Settings(data_dir=tmp_path, download_weights=False))["Weights"] == State.NOTE


def test_a_tensorflow_that_does_not_start_is_told_by_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libstdc++ is too old')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = doctor.tensorflow()
    assert (told.state, told.detail) == (State.PROBLEM, "ImportError: libstdc++ is too old")


def test_the_exit_code_is_1_where_something_is_wrong(
    thaw: Thaw,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = thaw("doctor", "--quick")
    assert said.code == 0
    assert said.out.splitlines()[0].split() == ["what", "found", "what", "to", "do"]
    monkeypatch.setenv("THAW_DISK_RESERVE_BYTES", str(10**18))
    said = thaw("doctor", "--quick", "--json")
    assert said.code == 1
    rows = {row["name"]: row for row in map(json.loads, said.out.splitlines())}
    assert rows["Disk"]["state"] == "problem"
    assert rows["Disk"]["advice"]
