import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from worker.training import checkpoints
from worker.training.checkpoints import State, forget_others, newest, save


def _groups(value: float) -> dict[str, dict[str, np.ndarray]]:
    return {"now": {"00000": np.full((3, 2), value, np.float32)}, "best": {"00000": np.zeros(2, np.float32)}}


def _state(epoch: int, **fields: object) -> State:
    return State(run="run", epoch=epoch, phase_epoch=epoch, **fields)  # type: ignore[arg-type]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, _state(1, history=[{"epoch": 1}], best={"loss": 0.5}), _groups(1.5))
    found = newest([tmp_path], "run")
    assert found is not None
    assert found.state == _state(1, history=[{"epoch": 1}], best={"loss": 0.5})
    np.testing.assert_array_equal(found.groups["now"]["00000"], np.full((3, 2), 1.5, np.float32))


def test_two_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save(tmp_path, _state(epoch), _groups(epoch), unchanged=("best",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00-000003-epoch", "00-000004-epoch"]


def test_an_unchanged_group_is_linked_and_the_two_that_are_kept_share_no_file(tmp_path: Path) -> None:
    first: dict[int, int] = {}
    for epoch in range(1, 5):
        path = tmp_path / save(tmp_path, _state(epoch), _groups(epoch), unchanged=("best",) if epoch > 1 else ())
        first[epoch] = (path / "best.npz").stat().st_ino
    assert (first[3], first[4]) == (first[1], first[2]), "linked from the one that goes"
    assert first[3] != first[4]
    found = newest([tmp_path], "run")
    assert found is not None
    assert set(found.groups) == {"now", "best"}


def test_a_group_that_has_changed_meanwhile_is_not_linked_from_the_one_that_goes(tmp_path: Path) -> None:
    save(tmp_path, _state(1), _groups(1))
    better = {**_groups(2), "best": {"00000": np.ones(2, np.float32)}}
    save(tmp_path, _state(2), better)
    save(tmp_path, _state(3), {**better, "now": _groups(3)["now"]}, unchanged=("best",))
    found = newest([tmp_path], "run")
    assert found is not None
    np.testing.assert_array_equal(found.groups["best"]["00000"], np.ones(2, np.float32))


@pytest.mark.parametrize("epochs", [2, 3, 4])
@pytest.mark.parametrize("damaged", ["the newest", "the one before"])
def test_a_damaged_group_that_did_not_change_is_found_and_one_whole_checkpoint_is_left(
    tmp_path: Path, epochs: int, damaged: str
) -> None:
    names = [save(tmp_path, _state(epoch), _groups(epoch), unchanged=("best",)) for epoch in range(1, epochs + 1)]
    broken = names[-1 if damaged == "the newest" else -2]
    _flip(tmp_path / broken / "best.npz")
    told: list[str] = []
    found = newest([tmp_path], "run", told.append)
    assert found is not None
    assert found.state.epoch == (epochs - 1 if damaged == "the newest" else epochs)
    assert told == ([broken] if damaged == "the newest" else [])
    # and damage that went by unseen does not come into the next checkpoint
    save(tmp_path, _state(epochs + 1), _groups(epochs + 1), unchanged=("best",))
    after = newest([tmp_path], "run")
    assert after is not None
    assert after.state.epoch == epochs + 1


def test_what_says_its_right_digest_and_is_no_archive_is_broken(tmp_path: Path) -> None:
    save(tmp_path, _state(1), _groups(1))
    name = save(tmp_path, _state(2), _groups(2))
    path = tmp_path / name / "best.npz"
    before = checkpoints._file_sha256(path)
    _flip(path)
    os.truncate(path, path.stat().st_size - 30)
    state = tmp_path / name / "state.json"
    body = json.loads(state.read_bytes())["body"].replace(before, checkpoints._file_sha256(path))
    state.write_text(json.dumps({"sha256": checkpoints._sha256(body.encode()), "body": body}))
    with path.open("rb") as stream, pytest.raises(zipfile.BadZipFile):
        np.load(stream)
    found = newest([tmp_path], "run")
    assert found is not None
    assert found.state.epoch == 1


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("victim", ["state.json", "now.npz", "best.npz"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path: Path, victim: str, damage: str) -> None:
    save(tmp_path, _state(1), _groups(1))
    path = tmp_path / save(tmp_path, _state(2), _groups(2)) / victim
    data = bytearray(path.read_bytes())
    if damage == "cut":
        os.truncate(path, len(data) // 2)
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    found = newest([tmp_path], "run")
    assert found is not None
    assert found.state.epoch == 1


def test_the_furthest_of_all_folders_wins(tmp_path: Path) -> None:
    save(tmp_path / "1", _state(7), _groups(7))
    save(tmp_path / "2", _state(3), _groups(3))
    found = newest([tmp_path / "2", tmp_path / "1", tmp_path / "absent"], "run")
    assert found is not None
    assert found.state.epoch == 7


def test_the_end_of_a_phase_is_newer_than_its_last_epoch(tmp_path: Path) -> None:
    save(tmp_path, _state(3), _groups(1))
    save(tmp_path, _state(3, phase_over=True), {})
    found = newest([tmp_path], "run")
    assert found is not None
    assert found.state.phase_over


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path: Path) -> None:
    save(tmp_path, _state(1), _groups(1))
    assert newest([tmp_path], "another") is None


def test_a_death_while_writing_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, _state(1), _groups(1))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for point in ("_write_arrays", "_write", "_sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, point, die)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, _state(2), _groups(2))
        found = newest([tmp_path], "run")
        assert found is not None
        assert found.state.epoch == 1


def test_what_is_not_gone_on_from_is_removed(tmp_path: Path) -> None:
    save(tmp_path, _state(1), _groups(1))
    path = tmp_path / save(tmp_path, _state(2), _groups(2))
    (path / "now.npz").write_bytes(b"broken")
    found = newest([tmp_path], "run")
    forget_others(tmp_path, found)
    assert [one.name for one in tmp_path.iterdir()] == ["00-000001-epoch"]
