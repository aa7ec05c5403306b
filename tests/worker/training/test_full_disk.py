"""A disk that becomes full in the middle of a run: a real trainer whose real write is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.training.run_folders import make_run_folder

ROOT = Path(__file__).resolve().parents[3]
PHASES = [{"kind": "frozen", "epochs": 1}, {"kind": "fine_tune", "epochs": 1, "unfreeze_from": "block3_conv"}]
# the trainer itself; the disk takes the first `room` files of its caches and no more
PROGRAM = """
import errno, os, sys
room = int(sys.argv.pop(1))
real = os.posix_fallocate
def reserve(*arguments):
    global room
    room -= 1
    if room < 0:
        raise OSError(errno.ENOSPC, "No space left on device")
    real(*arguments)
os.posix_fallocate = reserve
from worker.training.__main__ import _leave, main
_leave(main)
"""


def heard(folder: Path, room: int) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and events of a trainer."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(room), str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS reserves by writing zeros")
# written in this order: decoded pictures; features of train, then of validation, phase by phase
@pytest.mark.parametrize(
    "room", [0, pytest.param(3, marks=pytest.mark.slow)], ids=["decoding", "features of the second phase"]
)
def test_a_write_that_the_disk_refuses_ends_the_run_with_a_sentence_and_costs_no_finished_epoch(
    tmp_path: Path, room: int
) -> None:
    folder = make_run_folder(tmp_path / "run", {"phases": PHASES})
    code, events = heard(folder, room)
    assert code == 5
    failed = events[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "disk_full")
    assert "The disk is full" in failed["message"]
    assert "Free disk space" in failed["advice"]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == ([1] if room else [])
    assert not list(folder.glob("cache/*/*/*.part")), "nothing half-written is left"
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir()) if room else []
    assert kept == (["00-000001-epoch", "00-000001-over"] if room else [])
    if room:
        # with room again the run goes on behind its first phase, which it does not train again
        code, events = heard(folder, 100)
        assert code == 0
        assert events[0]["resumed_from"] == "00-000001-over"
        assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2]
