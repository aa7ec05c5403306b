"""What tells a death for want of memory from any other: Linux counts the processes that it kills for it, C++ says `bad_alloc`."""

import signal
from collections.abc import Sequence
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/vmstat")
_LAST_WORDS = ("bad_alloc", "out of memory", "cannot allocate memory")
KILLED = "The training needed more memory than there is: the system ended its process (signal 9)."
ABORTED = "The training needed more memory than there is: its process ended itself (SIGABRT) when it got no more."


def counters() -> tuple[Path, ...]:
    """Files with a line `oom_kill N`, the nearest first: of our own cgroup (version 2), of the whole machine. Any may be absent."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return ()
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    return (*(_CGROUP / path / "memory.events" for path in own), _MACHINE)


def memory_kills() -> int | None:
    """Processes that the kernel has killed so far because memory ran out, in our cgroup or else on this machine; None: nobody counts."""
    for path in counters():
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def memory_sentence(code: int, kills_before: int | None, last_words: Sequence[str]) -> str | None:
    """Why a process is dead, if memory ran out; None where nothing proves that.

    Args:
        code: its exit code, negative for a signal that was not ours.
        kills_before: `memory_kills` before it began.
        last_words: the end of what it wrote to standard error.
    """
    if code == -signal.SIGKILL and kills_before is not None and (memory_kills() or 0) > kills_before:
        return KILLED
    said = "\n".join(last_words).lower()
    if code == -signal.SIGABRT and any(words in said for words in _LAST_WORDS):
        return ABORTED
    return None
