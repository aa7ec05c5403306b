"""A full disk is told as such, by whichever process meets it, and never taken for a damaged file."""

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import DiskFull, is_full_disk


def full_disk_sentence(full: DiskFull) -> str:
    """What the person reads of it."""
    return f"{full.message} This file was not kept: send it again then."


@contextmanager
def disk_told() -> Iterator[None]:
    """For writes.

    Raises:
        DiskFull: the disk has no room, or the quota on it.
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise DiskFull("The disk became full while this file was checked. Free some space and try again.") from error
