"""What the exit codes of `thaw` mean; docs/command-line.md has the same table."""

from core.errors import ThawError

DONE = 0
ENDED_BADLY = 1
REFUSED = 2
AWAY = 3
INTERRUPTED = 130


class EndedBadly(ThawError):
    """What was asked for was begun and did not end well: a rejected upload, a failed run, a wrong checksum."""

    exit_code = ENDED_BADLY


class ServerAway(ThawError):
    """The server cannot be reached or is not able to answer now: trying again later may help."""

    exit_code = AWAY


def exit_code_of(error: BaseException) -> int:
    """The exit code that an error stands for."""
    code: int = getattr(error, "exit_code", REFUSED)
    return code
