"""A child never outlives its parent, however the parent dies (`kill -9` included), and knows no secret of the house.

Linux: PR_SET_PDEATHSIG. Elsewhere: a thread looks at the parent's id once a second. The signal is SIGKILL: with SIGTERM a Celery
worker lived on to the end of its task.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# loaded here and not after a fork, where the loader's locks may be held by a thread that does not exist in the child
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PARENT_VARIABLE = "THAW_PARENT_PID"
_SECRET = ("REDIS", "DATABASE_URL", "PASSWORD", "TOKEN", "SECRET")


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment without what leads to the database, the queue or the storage; and `more`.

    For a child that is handed files and nothing else of the house: a trainer, a reader of what people send.
    """
    kept = {name: value for name, value in os.environ.items() if not any(part in name.upper() for part in _SECRET)}
    return kept | more


def child_setup(*, nice: int = 0, expendable: bool = False) -> Callable[[], None]:
    """A `preexec_fn`: the child is killed when the thread that started it ends, and runs at this niceness.

    When memory runs out, Linux picks an `expendable` child before anything else of ours.

    Start such children from the main thread, or from a thread that lives as long as the process.
    """
    parent = os.getpid()

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died between the fork and the line above
                os._exit(1)
        if nice:
            os.nice(nice)
        if expendable and _LIBC is not None:
            _mark_expendable()

    return prepare


def _mark_expendable() -> None:
    with contextlib.suppress(OSError):  # no such file in some containers
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"500")
        os.close(descriptor)


def die_with_parent() -> None:
    """Tie this process to the one that named itself in THAW_PARENT_PID; without that variable nothing happens.

    For our own Python processes. On Linux `child_setup` has done it already; doing it again after exec covers a parent that
    could not.
    """
    named = os.environ.pop(PARENT_VARIABLE, None)
    if named is None:
        return
    tie_to(int(named))


def tie_to(parent: int) -> None:
    """Die when `parent`, this process's parent, dies. Also fit as the initializer of a process pool."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)
