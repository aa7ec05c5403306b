"""A full disk is told as such, by whichever process meets it, and never taken for a damaged file."""

from contextlib import AbstractContextManager

from core.errors import DiskFull, full_disk_told


def full_disk_sentence(full: DiskFull) -> str:
    """What the person reads of it."""
    return f"{full.message} This file was not kept: send it again then."


def disk_told() -> AbstractContextManager[None]:
    """For writes: DiskFull when the disk has no room, or the quota on it."""
    return full_disk_told("The disk became full while this file was checked. Free some space and try again.")
