"""The time left that a real phase shows, on a learner that takes as long as the test says."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.workplaces import open_run
from worker.training import events
from worker.training.learner import Learner

TRACE, STEP, JUDGE = 2.5, 0.1, 0.9  # seconds: a phase's first step, any other, one validation
EPOCHS = 4
PHASE = {"kind": "frozen", "features": "live", "epochs": EPOCHS}
COUNTS = {"train": 8, "validation": 3, "test": 1}  # of each of three classes


def test_after_the_first_epoch_a_phase_tells_its_end_within_a_fifth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace at the start and long validations: who forgets either (`begin_here`, `rest`) is far off."""
    monkeypatch.setattr(events, "PROGRESS_INTERVAL", 0.05)
    opened = open_run(make_run_folder(tmp_path / "run", {"phases": [PHASE], "batch_size": 4}, counts=COUNTS))
    calls = {"train": 0, "judge": 0}

    def slow(name: str, first: float, later: float) -> None:
        real = getattr(Learner, name)

        def call(*arguments: Any) -> Any:
            until = time.monotonic() + (later if calls[name] else first)
            calls[name] += 1
            answer = real(*arguments)
            time.sleep(max(0.0, until - time.monotonic()))
            return answer

        monkeypatch.setattr(Learner, name, call)

    slow("train", TRACE, STEP)
    slow("judge", 0.0, JUDGE)  # the first traces it, before the epochs
    said: list[tuple[float, float]] = []
    speak = opened.work.speaker.say

    def say(event: str, **fields: Any) -> None:
        if event == "progress" and fields["epoch"] and fields["epoch"] > 1:
            said.append((time.monotonic(), fields["eta_seconds"]))
        speak(event, **fields)

    monkeypatch.setattr(opened.work.speaker, "say", say)
    opened.run_phases()
    end = time.monotonic()
    assert calls == {"train": EPOCHS * 6, "judge": EPOCHS + 1}
    assert len(said) > 10
    wrong = [(round(end - moment, 1), eta) for moment, eta in said if abs(end - moment - eta) > 0.2 * (end - moment)]
    assert not wrong, f"(really left, said): {wrong}"
