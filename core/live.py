"""Wake-ups for watchers through Redis pub/sub. The row is the truth: a lost wake-up costs a watcher two seconds, never a value."""

import logging
import threading
import time
from collections.abc import Callable

import redis

from core.config import Settings
from core.queue import PREFIX, redis_client

_log = logging.getLogger(__name__)
CHANNEL = f"{PREFIX}changed"


class Announcer:
    """Says which row changed. Never waits long and never fails: after an error it stays quiet for five seconds."""

    def __init__(self, settings: Settings) -> None:
        self._client = redis_client(settings, timeout=1.0)
        self._quiet_until = 0.0

    def changed(self, row_id: str) -> None:
        """Wake whoever watches this run or upload. Call it after the commit."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._client.publish(CHANNEL, row_id)
        except (redis.RedisError, OSError):
            self._quiet_until = time.monotonic() + 5.0

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()


class Listener:
    """One subscription per process: calls `wake(row_id)` from its own thread. Reconnects by itself."""

    def __init__(self, settings: Settings, wake: Callable[[str], None]) -> None:
        self._settings = settings
        self._wake = wake
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="live", daemon=True)

    def start(self) -> None:
        """Begin listening."""
        self._thread.start()

    def stop(self) -> None:
        """End within a second or two."""
        self._stopping.set()
        self._thread.join(timeout=3)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen_once()
            except (redis.RedisError, OSError):
                self._stopping.wait(2.0)  # watchers poll meanwhile

    def _listen_once(self) -> None:
        with redis_client(self._settings, timeout=5.0) as client, client.pubsub() as subscription:
            subscription.subscribe(CHANNEL)
            while not self._stopping.is_set():
                message = subscription.get_message(ignore_subscribe_messages=True, timeout=1.0)
                if message is not None:
                    self._wake(message["data"].decode())
