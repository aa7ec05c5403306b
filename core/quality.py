"""What is odd about a single picture, as bits: measured when it is decoded (`worker/ingest/looks.py`), stored with its look."""

from enum import StrEnum


class Flag(StrEnum):
    """One oddity. The thresholds stand in `worker/ingest/looks.py` and in the guide."""

    BLANK = "blank"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    BLURRY = "blurry"
    TINY = "tiny"
    ODD_ASPECT = "odd_aspect"


def bit(flag: Flag) -> int:
    """The place of a flag in `ImageLook.flags`."""
    return 1 << list(Flag).index(flag)


def bits(flags: set[Flag]) -> int:
    """Several flags as one number."""
    return sum(bit(flag) for flag in flags)
