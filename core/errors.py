"""Named domain errors. What they mean over HTTP stands in one table, `app/errors.py`; nothing here knows a status code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """One thing that is wrong with one field of the input.

    Attributes:
        field: dotted path as the person wrote it, e.g. `phases.1.unfreeze_from`.
        message: what is wrong and what is allowed, one sentence.
        received: the offending value (JSON-compatible).
    """

    field: str
    message: str
    received: object = None


class ThawError(Exception):
    """Base of every error that carries a sentence for the person. `str(error)` is that sentence."""

    def __init__(self, message: str, *, problems: tuple[FieldProblem, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems


class NotFound(ThawError):
    """The thing does not exist, or belongs to somebody else (never told apart)."""


class InputInvalid(ThawError):
    """A field of the input is wrong; `problems` says which."""


class ConfigInvalid(InputInvalid):
    """A TrainingConfig that cannot be trained."""


class NotServed(InputInvalid):
    """A field of the contract that this version does not serve yet."""


class Conflict(ThawError):
    """The thing is in a state in which this cannot be done."""


class UploadRejected(ThawError):
    """An upload that cannot become a dataset version."""


class ArchiveRefused(UploadRejected):
    """An archive that is broken, hostile, or over a limit."""


class TooLarge(ThawError):
    """More bytes, files or pixels than the settings allow."""


class QuotaReached(TooLarge):
    """One person's pictures and uploads would need more than the settings allow."""


class DiskFull(ThawError):
    """The disk reserve would be touched; what is stored already stays."""


FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})  # no room on the disk, or in the quota on it


def is_full_disk(error: BaseException) -> bool:
    """Whether the system refused a write because there is no room for it."""
    return isinstance(error, OSError) and error.errno in FULL_DISK


@contextmanager
def full_disk_told(sentence: str) -> Iterator[None]:
    """For writes: a refusal for want of room becomes a DiskFull with this sentence for the person, any other error stays."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise DiskFull(sentence) from error
        raise


class StorageAway(ThawError):
    """The bucket of pictures and models cannot be reached now."""


class WorkersAway(ThawError):
    """No worker answered in time; nothing was changed."""

    def __init__(self, message: str, *, retry_after: int = 10) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BrokerAway(ThawError):
    """The queue cannot be reached now. Queued rows are kept; the sweeper rings again."""


class NotAuthenticated(ThawError):
    """No valid session or token came with the request."""


class Forbidden(ThawError):
    """Known, but not allowed: wrong scope, cross-site request, unknown host."""


class Fenced(ThawError):
    """Another attempt owns the row now: stop, touch nothing."""


class WeightsUnavailable(ThawError):
    """Pretrained weights that are neither cached nor reachable."""


class PicturesUnreadable(ThawError):
    """A picture of the run folder is missing or cannot be decoded."""
