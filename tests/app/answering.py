"""Stands where the prediction worker stands: takes questions by the real keys of the real queue and answers them."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from core.config import Settings
from core.queue import PREFIX, give_answer, redis_client

Answer = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def answering(settings: Settings, answer: Answer, questions: int = 1) -> Iterator[list[dict[str, Any]]]:
    """Answers so many questions while the block runs; gives what was asked."""
    asked: list[dict[str, Any]] = []

    def work() -> None:
        with redis_client(settings, timeout=10) as client:
            for _ in range(questions):
                found = client.blpop([f"{PREFIX}predict"], timeout=5)
                if not found:
                    return
                number, question, _deadline = json.loads(base64.b64decode(json.loads(found[1])["body"]))[0]
                asked.append(question)
                give_answer(client, number, answer(question))

    with redis_client(settings) as client:
        client.delete(f"{PREFIX}predict")  # no question of another test waits
    thread = threading.Thread(target=work)
    thread.start()
    yield asked
    thread.join(10)
