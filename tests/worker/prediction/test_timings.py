"""Timing in a process of its own: how it begins, fails and ends. The processes are real, what they measure is not."""

import os
import queue
import sys
from collections.abc import Callable
from typing import Any

from tests.end_to_end.house import wait_until
from worker.prediction.timings import TimingAsked, Timings

ECHO = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("die"):
        os._exit(3)
    if asked.get("hang"):
        __import__("time").sleep(600)
    print(json.dumps({"speeds": {"process": os.getpid(), "pictures": len(asked["pictures"])}}), flush=True)
"""
COMMAND = (sys.executable, "-c", ECHO)
Answers = "queue.SimpleQueue[dict[str, Any]]"


def asked(answers: Answers, *, wanted: Callable[[], bool] = lambda: True, **question: Any) -> TimingAsked:
    return TimingAsked(question, lambda: [b"one", b"two"], wanted, answers.put)


def test_questions_that_follow_soon_are_answered_by_one_process_which_then_goes() -> None:
    answers: Answers = queue.SimpleQueue()
    timings = Timings(COMMAND, kept=0.5)
    timings.ask(asked(answers))
    timings.ask(asked(answers))
    first, second = answers.get(timeout=20), answers.get(timeout=20)
    assert first == second
    assert first["speeds"]["pictures"] == 2
    process = first["speeds"]["process"]
    wait_until(lambda: _ended(process), 10, "the process has gone")
    timings.ask(asked(answers))
    assert answers.get(timeout=20)["speeds"]["process"] != process


def _ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_process_that_dies_or_hangs_is_a_sentence_and_the_next_question_is_answered() -> None:
    answers: Answers = queue.SimpleQueue()
    timings = Timings(COMMAND, longest=2.0)
    timings.ask(asked(answers, die=True))
    timings.ask(asked(answers, hang=True))
    timings.ask(asked(answers))
    assert "could not be measured" in answers.get(timeout=20)["error"]
    assert "could not be measured" in answers.get(timeout=20)["error"]
    assert answers.get(timeout=20)["speeds"]["pictures"] == 2


def test_what_is_not_wanted_any_more_is_not_measured() -> None:
    answers: Answers = queue.SimpleQueue()
    timings = Timings(COMMAND)
    timings.ask(asked(answers, wanted=lambda: False, hang=True))
    timings.ask(asked(answers))
    assert answers.get(timeout=20)["speeds"]["pictures"] == 2
    assert answers.empty()


def test_the_process_that_measures_has_the_environment_it_was_given() -> None:
    answers: Answers = queue.SimpleQueue()
    told = (
        "import json, os, sys\nfor line in sys.stdin:\n    print(json.dumps({'speeds': dict(os.environ)}), flush=True)"
    )
    timings = Timings((sys.executable, "-c", told), environment={**os.environ, "CUDA_VISIBLE_DEVICES": "7"})
    timings.ask(asked(answers))
    assert answers.get(timeout=20)["speeds"]["CUDA_VISIBLE_DEVICES"] == "7"
