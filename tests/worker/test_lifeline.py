"""Children die with their parents."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.house import wait_until

_PARENT = """
import subprocess, sys, time
from worker.lifeline import child_setup
child = subprocess.Popen(["sleep", "60"], process_group=0, preexec_fn=child_setup(nice=3))
print(child.pid, flush=True)
time.sleep(60)
"""
_TIED = """
import os, sys, time
from worker.lifeline import die_with_parent
die_with_parent()
print("tied", "THAW_PARENT_PID" in os.environ, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_in_its_own_group_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert os.getpriority(os.PRIO_PROCESS, child) - os.getpriority(os.PRIO_PROCESS, 0) == 3
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: is_gone(child), 5, "the child is gone")


def is_gone(pid: int) -> bool:
    """True once a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_whose_named_parentis_gone_already_ends_at_once() -> None:
    # its parent is this test, not process 1
    environment = {**os.environ, "THAW_PARENT_PID": "1"}
    done = subprocess.run([sys.executable, "-c", _TIED], env=environment, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_without_a_named_parent_nothing_happens() -> None:
    with subprocess.Popen([sys.executable, "-c", _TIED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tied False\n"
        process.kill()
