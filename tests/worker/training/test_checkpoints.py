import os
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


def test_an_unchanged_group_is_linked_and_still_whole_when_its_first_checkpoint_is_gone(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save(tmp_path, _state(epoch), _groups(epoch), unchanged=("best",))
    assert (tmp_path / "00-000004-epoch" / "best.npz").stat().st_nlink == 2
    found = newest([tmp_path], "run")
    assert found is not None
    assert set(found.groups) == {"now", "best"}


@pytest.mark.parametrize("victim", ["state.json", "now.npz"])
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
