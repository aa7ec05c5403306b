"""Ring a queue: the only Celery import in core.

A message says only "there is work in queue X"; the row is the truth and the sweeper rings again. So a failed or doubled ring
changes nothing, and ringing never makes a person wait: it happens on a thread, after the commit.

Questions to the prediction worker are the one exception that carries content: the pictures travel as an expiring Redis key, the
answer comes back as one (docs/decisions/0003-answers.md).
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session

from core.config import Settings
from core.database import after_commit
from core.errors import BrokerAway, WorkersAway
from core.ids import new_id

QUEUES = ("train", "ingest", "export", "batch", "predict")
TASKS = {queue: f"worker.{queue}" for queue in QUEUES}
PREFIX = "thaw:"
ANSWER_SECONDS = 60
_log = logging.getLogger(__name__)


def broker_address(settings: Settings) -> str:
    """Celery's form of the broker address.

    A unix socket with a password is `redis+socket://:PASSWORD@/path` for kombu and `unix://:PASSWORD@/path` for redis-py.

    Raises:
        BrokerAway: no broker is configured; `thaw serve` starts one and sets REDIS_URL for its parts.
    """
    if not settings.redis_url:
        raise BrokerAway("No broker is configured. Start everything with `thaw serve`, or set REDIS_URL.")
    return settings.redis_url.replace("unix://", "redis+socket://", 1)


def celery_app(settings: Settings, *, producer: bool = True) -> Celery:
    """A Celery application with the settings that docs/decisions/0004-queue.md gives reasons for.

    Args:
        settings: where the broker is.
        producer: True for a process that only rings (short socket timeout), False for a worker.
    """
    app = Celery("thaw", broker=broker_address(settings))
    timeout = 2 if producer else 30
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_default_queue="ingest",
        task_serializer="json",
        accept_content=["json"],
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": PREFIX,
            "socket_timeout": timeout,
            "socket_connect_timeout": 2,
            "max_retries": 0 if producer else None,
        },
    )
    return app


def redis_client(settings: Settings, *, timeout: float | None = 2.0) -> "redis.Redis":
    """A client of the broker's server for keys of our own; every one starts with `thaw:`."""
    if not settings.redis_url:
        raise BrokerAway("No broker is configured. Start everything with `thaw serve`, or set REDIS_URL.")
    address = settings.redis_url.replace("redis+socket://", "unix://", 1)
    return redis.Redis.from_url(address, socket_timeout=timeout, socket_connect_timeout=2.0)


class Queue:
    """Rings queues from one thread of its own; skips the broker for a moment after it failed."""

    pause_seconds = 5.0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._app = celery_app(settings)
        self._client = redis_client(settings)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ring")
        self._away_until = 0.0
        self._lock = threading.Lock()

    def ring_after_commit(self, session: Session, queue: str) -> None:
        """Ring once this transaction is committed; never when it is rolled back."""
        after_commit(session, lambda: self.ring(queue))

    def ring(self, queue: str) -> None:
        """Say that there is work; returns at once and never fails (the sweeper rings again)."""
        self._thread.submit(self._ring, queue)

    def _ring(self, queue: str) -> None:
        if time.monotonic() < self._away_until:
            return
        try:
            self._send(queue, [])
        except BrokerAway:
            _log.warning("the broker is away; the sweeper will ring %s again", queue)

    def _send(self, queue: str, arguments: Sequence[Any]) -> None:
        try:
            with self._lock:
                self._app.send_task(TASKS[queue], args=list(arguments), queue=queue, retry=False, ignore_result=True)
        except (OperationalError, redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + self.pause_seconds
            raise BrokerAway("The broker does not answer now.") from error

    def length(self, queue: str) -> int | None:
        """Messages in a queue's list, or None while the broker is away."""
        try:
            return int(self._client.llen(f"{PREFIX}{queue}"))
        except (redis.RedisError, OSError):
            return None

    def alive(self) -> bool:
        """True when the broker answers."""
        try:
            return bool(self._client.ping())
        except (redis.RedisError, OSError):
            return False

    def ask(self, question: dict[str, Any], pictures: Sequence[bytes] = ()) -> dict[str, Any]:
        """Ask the prediction worker and wait for its answer (blocking: call it on a thread).

        Args:
            question: JSON data, e.g. `{"kind": "predict", "model_id": ...}`.
            pictures: encoded pictures; they travel as an expiring key.

        Returns:
            The worker's answer.

        Raises:
            WorkersAway: nothing came within `predict_timeout`.
        """
        number = new_id()
        answer_key, picture_key = f"{PREFIX}answer:{number}", f"{PREFIX}pictures:{number}"
        away = WorkersAway("The prediction worker did not answer in time. Nothing was changed; try again in a moment.")
        patience = self.settings.predict_timeout
        try:
            if pictures:
                with self._client.pipeline() as pipe:
                    pipe.rpush(picture_key, *pictures)
                    pipe.expire(picture_key, ANSWER_SECONDS)
                    pipe.execute()
            self._send("predict", [number, question, time.time() + patience])
            with redis_client(self.settings, timeout=patience + 5) as waiting:
                found = waiting.blpop([answer_key], timeout=patience)
        except (redis.RedisError, OSError, BrokerAway) as error:
            raise away from error
        if not found:
            raise away
        answer: dict[str, Any] = json.loads(found[1])
        return answer

    def ask_later(self, question: dict[str, Any], patience: float) -> str:
        """Ask the prediction worker without waiting; `answer_of` the number that comes back tells once it has answered.

        Raises:
            BrokerAway: the question could not be sent.
        """
        number = new_id()
        self._send("predict", [number, question, time.time() + patience])
        return number

    def answer_of(self, number: str) -> dict[str, Any] | None:
        """The answer to a question, for a minute after it came; None before and later."""
        try:
            found = self._client.lrange(f"{PREFIX}answer:{number}", 0, 0)
        except (redis.RedisError, OSError) as error:
            raise BrokerAway("The broker does not answer now.") from error
        return json.loads(found[0]) if found else None

    def keep(self, name: str, value: dict[str, Any], seconds: int) -> None:
        """Note something for a while; losing it costs only that it is asked again.

        Raises:
            BrokerAway: it could not be noted.
        """
        try:
            keep_note(self._client, name, value, seconds)
        except (redis.RedisError, OSError) as error:
            raise BrokerAway("The broker does not answer now.") from error

    def kept(self, name: str) -> dict[str, Any] | None:
        """What was noted under a name; None when nothing is, or not any more.

        Raises:
            BrokerAway: nobody knows.
        """
        try:
            return find_note(self._client, name)
        except (redis.RedisError, OSError) as error:
            raise BrokerAway("The broker does not answer now.") from error

    def close(self) -> None:
        """Stop the thread and drop the connections."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._app.close()


def keep_note(client: "redis.Redis", name: str, value: dict[str, Any], seconds: int) -> None:
    """Note something under an expiring key of ours."""
    client.set(f"{PREFIX}note:{name}", json.dumps(value), ex=seconds)


def find_note(client: "redis.Redis", name: str) -> dict[str, Any] | None:
    """What `keep_note` noted; None when nothing is there."""
    found = client.get(f"{PREFIX}note:{name}")
    return json.loads(found) if found else None


def take_pictures(client: "redis.Redis", number: str) -> list[bytes]:
    """The pictures of a question (prediction worker's side); empty when they expired."""
    return list(client.lrange(f"{PREFIX}pictures:{number}", 0, -1))  # type: ignore[arg-type]


def give_answer(client: "redis.Redis", number: str, answer: dict[str, Any]) -> None:
    """Answer a question (prediction worker's side); the answer expires in 60 s."""
    key = f"{PREFIX}answer:{number}"
    with client.pipeline() as pipe:
        pipe.rpush(key, json.dumps(answer))
        pipe.expire(key, ANSWER_SECONDS)
        pipe.delete(f"{PREFIX}pictures:{number}")
        pipe.execute()
