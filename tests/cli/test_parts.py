"""Parts are restarted with back-off and stopped completely."""

import os
import sys
import time
from pathlib import Path

import pytest

from cli import parts
from cli.parts import House, Plan
from tests.end_to_end.house import descendants, still_alive, wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
FAMILY = "import subprocess, time; subprocess.Popen(['sleep', '61']); time.sleep(60)"


def plan(code: str, name: str = "part", **more: object) -> Plan:
    return Plan(name, (sys.executable, "-c", code), dict(os.environ), **more)  # type: ignore[arg-type]


def pid_of(house: House) -> int:
    process = house.parts[0].process
    assert process is not None
    return process.pid


def test_a_part_that_ends_is_started_again_after_a_growing_pause() -> None:
    house = House([plan("pass")])
    part = house.parts[0]
    starts: list[float] = []
    while len(starts) < 3:
        house.look_after()
        if part.process is not None and part.started_at not in starts:
            starts.append(part.started_at)
        time.sleep(0.01)
    house.stop()
    assert starts[1] - starts[0] > 0.4
    assert starts[2] - starts[1] > 0.9


def test_everything_in_a_parts_group_goes_with_it() -> None:
    house = House([plan(FAMILY)])
    house.look_after()
    below = wait_until(lambda: (found := descendants(pid_of(house))) and len(found) == 2 and found, 10, "a family")
    house.stop()
    wait_until(lambda: not still_alive(below), 3, "all gone")
    assert not still_alive(below)


def test_a_part_that_does_not_stop_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "STOP_SECONDS", 0.5)
    house = House([plan(STUBBORN)])
    house.look_after()
    pid = pid_of(house)
    time.sleep(0.3)
    began = time.monotonic()
    house.stop()
    assert time.monotonic() - began < 3
    assert not descendants(pid)


def test_early_parts_come_first_and_last_ones_are_stopped_last(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        f"path = pathlib.Path({str(tmp_path / 'stopped')!r})\n"
        "def stop(*_):\n"
        "    path.open('a').write(NAME)\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path({str(tmp_path)!r}, NAME).touch()\n"
        "time.sleep(60)\n"
    )
    house = House([plan(f"NAME = 'a'\n{code}", early=True, last=True), plan(f"NAME = 'b'\n{code}")])
    house.look_after(early_only=True)
    assert [part.running for part in house.parts] == [True, False]
    house.look_after()
    wait_until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists(), 20, "both are up")
    house.stop()
    assert (tmp_path / "stopped").read_text() == "ba"
