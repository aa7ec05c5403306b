"""Opaque ids that sort by creation: UUID version 7 (RFC 9562), monotonic within a process. Python has them only from 3.14 on."""

import secrets
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A fresh UUIDv7 as text; later calls in one process always sort after earlier ones."""
    global _last  # noqa: PLW0603 - the monotonic counter of this process
    with _lock:
        # 48 bits of milliseconds, then 74 random bits; the sum is kept rising when two fall into one millisecond
        value = (time.time_ns() // 1_000_000 << 74) | secrets.randbits(74)
        _last = value if value > _last else _last + 1
        value = _last
    milliseconds, random_bits = value >> 74, value & ((1 << 74) - 1)
    high, low = random_bits >> 62, random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=(milliseconds << 80) | (7 << 76) | (high << 64) | (2 << 62) | low))
