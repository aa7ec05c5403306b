"""The parts of the commands for scripts that need no server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import training, uploading
from cli.exits import ServerAway
from cli.remote import API, connect, local_address
from cli.training import Event, parsed, placed
from cli.uploading import files_below, key_of, trying
from core.config import Settings
from core.errors import NotAuthenticated, ThawError

PHASES = {"phases": [{"kind": "frozen", "epochs": 20}, {"kind": "fine_tune", "early_stopping": None}]}


def test_a_value_is_placed_in_objects_and_lists_without_changing_the_preset() -> None:
    before = json.dumps(PHASES)
    assert placed(PHASES, ["phases", "0", "epochs"], 5, "x")["phases"][0] == {"kind": "frozen", "epochs": 5}
    tuned = placed(PHASES, ["phases", "1", "early_stopping", "patience"], 2, "x")["phases"][1]
    assert tuned["early_stopping"] == {"patience": 2}
    assert json.dumps(PHASES) == before


@pytest.mark.parametrize("place", ["2", "frozen", "-1"])
def test_a_place_that_a_list_does_not_have_is_refused(place: str) -> None:
    with pytest.raises(ThawError, match="is no place in a list of 2"):
        placed(PHASES["phases"], [place, "epochs"], 5, f"phases.{place}.epochs")


def test_a_changed_file_makes_another_upload(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"one")
    first = key_of("d", files_below(tmp_path))
    assert first == key_of("d", files_below(tmp_path))
    assert first != key_of("e", files_below(tmp_path))
    (tmp_path / "cat" / "1.png").write_bytes(b"two!")
    assert first != key_of("d", files_below(tmp_path))


def test_files_go_by_their_path_from_the_folders_name_and_links_that_lead_nowhere_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "花"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "1.png").write_bytes(b"one")
    (folder / "a.png").write_bytes(b"a")
    (folder / "gone.png").symlink_to(tmp_path / "nothing")
    assert [one.name for one in files_below(folder)] == ["花/a.png", "花/b/1.png"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ThawError, match="There are no files in"):
        files_below(tmp_path)


def test_what_the_server_could_not_do_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "PAUSES", (0.0, 0.0))
    answers: Iterator[Any] = iter([ServerAway("away"), ServerAway("away"), "done"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert trying(ask) == "done"
    answers = iter([ServerAway("1"), ServerAway("2"), ServerAway("3")])
    with pytest.raises(ServerAway, match="3"):
        trying(ask)


def test_an_event_stream_is_read_as_the_standard_says() -> None:
    lines = [": keep-alive", "", "event: metric", "id: 7", 'data: {"a":', "data: 1}", "", "data: {}", "", "event: log"]
    assert list(parsed(iter(lines))) == [Event("metric", "7", {"a": 1}), Event("message", "", {})]


def test_a_repeated_batch_tells_each_metric_once() -> None:
    seen: set[tuple[Any, ...]] = set()
    metric = Event("metric", "3", {"phase_index": 0, "epoch": 1, "split": "train", "name": "loss", "value": 1.0})
    assert [training._is_new(metric, seen), training._is_new(metric, seen)] == [True, False]
    assert training._is_new(Event("status", "3", {}), seen)


def remember(folder: Path, address: str) -> Settings:
    (folder / "server.json").write_text(json.dumps({"address": address}))
    return Settings(data_dir=folder)


def test_without_an_address_the_server_of_the_data_folder_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THAW_SERVER", raising=False)
    with pytest.raises(ServerAway, match="No server has run in"):
        connect(Settings(data_dir=tmp_path), None, "x")
    settings = remember(tmp_path, "http://127.0.0.1:41234")
    assert local_address(settings) == connect(settings, None, "x").address == "http://127.0.0.1:41234"


def test_the_flag_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = remember(tmp_path, "http://127.0.0.1:41234")
    monkeypatch.setenv("THAW_SERVER", "https://thaw.example.org/")
    monkeypatch.setenv("THAW_TOKEN", "from the environment")
    assert connect(settings, None, None).address == "https://thaw.example.org"
    remote = connect(settings, f"thaw.example.org:8000{API}/", "mine")
    assert remote.address == "http://thaw.example.org:8000"
    assert remote.client.headers["authorization"] == "Bearer mine"


def test_a_server_elsewhere_needs_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THAW_TOKEN", raising=False)
    settings = remember(tmp_path, "http://127.0.0.1:41234")
    with pytest.raises(NotAuthenticated, match=r"A token is needed for https://thaw\.example\.org"):
        connect(settings, "https://thaw.example.org", None)


def test_a_config_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ThawError, match="cannot be read"):
        training.read_config(path)
    for text, sentence in (("{", "is not JSON"), ("[1]", "holds no JSON object")):
        path.write_text(text)
        with pytest.raises(ThawError, match=sentence):
            training.read_config(path)
