"""The commands for people who script, against a real server: upload, train, watch, download, lists."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli import resuming
from cli.main import main
from cli.remote import TOKEN_FILE
from core.accounts import create_token, local_user
from core.tables import Scope
from tests.end_to_end.house import House, wait_until
from tests.end_to_end.pictures import COLOURS, write_classes, zip_of
from tests.worker.tiny_dataset import TINY

pytestmark = [pytest.mark.xdist_group("house"), pytest.mark.timeout(240)]
EACH = 10
NAME = "colours for scripts"


@dataclass
class Said:
    """What a command has printed."""

    code: int
    out: str
    error: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Thaw = Callable[..., Said]


@pytest.fixture
def thaw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], house: House) -> Thaw:
    """Run `thaw` beside the server, as a person on the same machine would."""
    for name, value in house.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("THAW_SERVER", "THAW_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["thaw", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders, and one file that is no picture."""
    folder = write_classes(tmp_path_factory.mktemp("scripts") / "pictures", EACH, seed=9)
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def dataset(thaw: Thaw, pictures: Path) -> str:
    """The id of the uploaded dataset; the same folder is uploaded once only."""
    said = thaw("upload", pictures, "--dataset", NAME, "--json")
    assert said.code == 0, said.error
    found: str = said.rows[-1]["dataset_id"]
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a training of seconds, as a file."""
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def test_a_folder_is_uploaded_once_and_its_receipt_shown(
    thaw: Thaw, house: House, pictures: Path, dataset: str
) -> None:
    again = thaw("upload", pictures, "--dataset", dataset)
    assert again.code == 0
    assert f'"{NAME}", version 1: {EACH * 3} pictures, 3 classes ({EACH * 3} kept, 0 fixed, 1 refused' in again.out
    assert "These files were sent already" in again.error
    assert "refused: pictures/red/broken.png: " in again.error
    versions = house.client.get(f"/api/v1/datasets/{dataset}/versions").json()["items"]
    assert len(versions) == 1


def test_an_upload_that_broke_off_sends_the_rest_only(
    thaw: Thaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, house: House
) -> None:
    folder = write_classes(tmp_path / "broken off", 4, seed=21)
    monkeypatch.setattr(resuming, "MOST", 4096)
    piece, sent = resuming.Transfer._piece, []

    def two_pieces(transfer: resuming.Transfer, offset: int) -> int:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(offset)
        return piece(transfer, offset)

    monkeypatch.setattr(resuming.Transfer, "_piece", two_pieces)
    assert thaw("upload", folder, "--json").code == 130
    assert sent == [0, 4096]
    monkeypatch.setattr(resuming.Transfer, "_piece", lambda one, offset: sent.append(offset) or piece(one, offset))
    said = thaw("upload", folder, "--json")
    assert (said.code, sent[:3]) == (0, [0, 4096, 8192])
    assert said.rows[-1]["receipt"]["kept"] == 12
    assert said.rows[-1]["status"] == "ready"
    named = house.client.get("/api/v1/datasets", params={"search": "broken off"}).json()["items"]
    assert len(named) == 1


def test_a_terminal_gets_a_bar_of_bytes_and_one_of_files_and_a_pipe_gets_none(house: House, tmp_path: Path) -> None:
    shown = []
    for name in ("in a terminal", "in a pipe"):
        folder = write_classes(tmp_path / name, 4, seed=len(name))
        command = [sys.executable, "-m", "cli", "upload", str(folder), "--json"]
        environment = {**os.environ, **house.environment, "TERM": "xterm-256color", "COLUMNS": "100"}
        screen, end = pty.openpty() if name == "in a terminal" else os.pipe()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, env=environment, text=True) as process:
            os.close(end)
            shown.append(_everything(screen))
            assert process.stdout is not None
            rows = [json.loads(line) for line in process.stdout]
        assert (process.returncode, rows[-1]["status"]) == (0, "ready"), shown
    bars, nothing = shown
    assert re.search(r"sending.*\u2501.* ([\d.]+)/\1 kB", plain := re.sub(r"\x1b\[[\d;]*m", "", bars)), bars[-2000:]
    assert re.search(r"checking.*\u2501.* \d+/(12|\?)", plain), bars[-2000:]
    assert nothing == ""


def _everything(screen: int) -> str:
    """What a process writes until it ends."""
    parts = []
    with contextlib.suppress(OSError):  # a terminal whose other side is gone is an error, not an end
        while part := os.read(screen, 65536):
            parts.append(part)
    os.close(screen)
    return b"".join(parts).decode()


def test_an_archive_goes_as_it_is(thaw: Thaw, tmp_path: Path) -> None:
    archive = zip_of(write_classes(tmp_path / "zipped", 4, seed=5), tmp_path / "zipped.zip")
    said = thaw("upload", archive, "--json")
    assert said.code == 0, said.error
    assert said.rows[-1]["receipt"]["kept"] == 4 * len(COLOURS)
    assert thaw("upload", archive, "--json").rows[-1]["id"] == said.rows[-1]["id"]


def test_an_upload_without_waiting_ends_once_all_is_sent(thaw: Thaw, tmp_path: Path, house: House) -> None:
    folder = write_classes(tmp_path / "no wait", 3, seed=6)
    said = thaw("upload", folder, "--no-wait", "--json")
    assert said.code == 0
    upload = said.rows[-1]
    assert upload["status"] in {"received", "ingesting", "ready"}
    wait_until(lambda: house.client.get(f"/api/v1/uploads/{upload['id']}").json()["status"] == "ready", 60, "ready")


def test_a_rejected_upload_is_exit_code_1_and_may_be_tried_again(thaw: Thaw, tmp_path: Path) -> None:
    folder = tmp_path / "one class"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"no picture")
    first, second = thaw("upload", folder, "--json"), thaw("upload", folder, "--json")
    assert (first.code, second.code) == (1, 1)
    assert first.error.splitlines()[-1].endswith(".")
    assert first.rows[-1]["status"] == "rejected"
    assert first.rows[-1]["id"] != second.rows[-1]["id"]


def test_a_training_is_watched_to_its_end_and_downloaded(
    thaw: Thaw, dataset: str, config: Path, tmp_path: Path
) -> None:
    changes = ("--set", "phases.0.epochs=3", "--set", "head.dropout=0.1")
    said = thaw("train", NAME, "--config", config, *changes, "--name", "by script", "--watch")
    assert said.code == 0, said.error
    *epochs, score, model = said.out.splitlines()
    assert [line.split()[:3] for line in epochs] == [
        ["epoch", "1", "frozen"],
        ["epoch", "2", "frozen"],
        ["epoch", "3", "frozen"],
        ["epoch", "4", "fine-tune"],
        ["epoch", "5", "fine-tune"],
    ]
    assert "by script: test accuracy" in score
    run = thaw("runs", "--dataset", dataset, "--status", "succeeded", "--json").rows[0]
    assert (run["name"], run["config"]["head"]["dropout"], run["preset"]) == ("by script", 0.1, "standard")
    assert model == f"model {run['model_id']}"
    events = thaw("watch", "by script", "--json").rows
    assert {one["event"] for one in events} == {"status", "progress", "metric", "log"}
    assert (events[-1]["event"], events[-1]["status"]) == ("status", "succeeded")
    assert len([one for one in events if one["event"] == "metric"]) == 5 * 4
    check_download(thaw, run, tmp_path)
    check_lists(thaw, run)


def check_download(thaw: Thaw, run: dict[str, Any], folder: Path) -> None:
    """Whole, by the run's id; then from a part, which is used and checked."""
    target = folder / "model.zip"
    facts = thaw("download", run["id"], "-o", target, "--json").rows[0]
    whole = target.read_bytes()
    assert (facts["size_bytes"], facts["file"]) == (len(whole), str(target))
    part = folder / f".model.zip.{facts['sha256'][:12]}.part"
    half = len(whole) // 2
    target.unlink()
    part.write_bytes(bytes(half))
    damaged = thaw("download", run["model_id"], "-o", target)
    assert damaged.code == 1, "the part was not gone on with"
    assert "another SHA-256" in damaged.error
    assert not target.exists()
    part.write_bytes(whole[:half])
    assert thaw("download", "by script", "-o", target).code == 0
    assert target.read_bytes() == whole
    assert not part.exists()


def check_lists(thaw: Thaw, run: dict[str, Any]) -> None:
    """People get a table, scripts get lines."""
    for kind, wanted in (("runs", run["id"]), ("models", run["model_id"]), ("datasets", run["dataset_id"])):
        table = thaw(kind)
        assert table.out.splitlines()[0].split()[:2] == ["id", "name"]
        assert wanted in table.out
        assert wanted in [row["id"] for row in thaw(kind, "--json").rows]
        assert len(thaw(kind, "--json", "--limit", "1").rows) == 1
        assert thaw(kind, "--json", "--search", "nobody calls it so").rows == []


def test_repeats_are_runs_of_one_group_and_a_cancelled_one_is_exit_code_1(
    thaw: Thaw, dataset: str, config: Path, house: House
) -> None:
    long = ("--set", "phases.0.epochs=900", "--set", "phases.1.epochs=900")
    runs = thaw("train", dataset, "--config", config, *long, "--repeats", "2", "--json").rows
    assert [one["config"]["seed"] for one in runs] == [0, 1]
    assert len({one["group_id"] for one in runs}) == 1
    for one in runs:
        house.client.post(f"/api/v1/runs/{one['id']}/cancel").raise_for_status()
    for one in runs:
        said = thaw("watch", one["id"])
        assert (said.code, said.error) == (1, f'The run "{one["name"]}" was cancelled.\n')


def test_the_token_of_the_command_line_is_private_and_made_again_when_it_was_revoked(thaw: Thaw, house: House) -> None:
    assert thaw("datasets").code == 0
    path = house.folder / TOKEN_FILE
    assert path.stat().st_mode & 0o077 == 0
    kept = path.read_text()
    assert thaw("datasets").code == 0
    assert path.read_text() == kept
    path.write_text("thaw_revoked\n")
    assert thaw("datasets").code == 0
    assert path.read_text() != "thaw_revoked\n"


def test_errors_are_one_sentence_with_the_exit_code_of_their_kind(
    thaw: Thaw, house: House, tmp_path: Path, dataset: str
) -> None:
    with house.database.write() as session:
        _, read_only = create_token(session, local_user(session), "reads", scope=Scope.READ)
    (tmp_path / "notes.txt").write_text("no archive")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        (("train", dataset, "--set", "head.dropout=7"), 2, "head.dropout"),
        (("train", dataset, "--set", "phases.7.epochs=7"), 2, "is no place in a list of 2"),
        (("train", dataset, "--set", "nonsense"), 2, "--set wants PATH=VALUE"),
        (("train", dataset, "--preset", "slow", "--set", "seed=1"), 2, 'There is no preset "slow". Allowed: quick'),
        (("train", "nothing"), 2, 'There is no dataset with the id or name "nothing".'),
        (("train", dataset, "--token", read_only), 2, "This token may only read."),
        (("watch", "no/../run"), 2, "There is no run with the id or name"),
        (("download", "nothing"), 2, "There is no model"),
        (("runs", "--status", "asleep"), 2, "asleep"),
        (("runs", "--token", "thaw_wrong"), 2, "The server does not know this token."),
        (("runs", "--token", "x", "--server", "127.0.0.1:1"), 3, "No Thaw answers at http://127.0.0.1:1."),
        (("upload", tmp_path / "notes.txt"), 2, '"notes.txt" is no archive that Thaw reads.'),
        (("upload", tmp_path / "empty"), 2, "There are no files in"),
        (("upload", tmp_path / "missing"), 2, "is neither a folder nor an archive."),
    ]
    for arguments, code, sentence in cases:
        said = thaw(*arguments, "--json")
        assert (said.code, said.out) == (code, ""), (arguments, said)
        assert sentence in said.error, (arguments, said)
        assert said.error.count("\n") == 1, (arguments, said)


def test_the_doctor_finds_nothing_wrong_beside_a_running_server(thaw: Thaw, house: House) -> None:
    def sound() -> list[dict[str, Any]] | None:
        said = thaw("doctor", "--quick", "--json")
        return said.rows if said.code == 0 else None

    rows = {row["name"]: row for row in wait_until(sound, 60, f"workers are alive\n{house.log}")}
    assert rows["Server"]["detail"] == f"ready at {house.address}"
    assert rows["Workers"]["detail"].startswith("3 alive")
