from typing import Any

import pytest

from app.pages.progress import status_words, steps
from core.presets import PRESETS
from core.tables import Run, RunStatus


def run(status: RunStatus, **progress: Any) -> Run:
    config = PRESETS["standard"].config.model_dump(mode="json")
    config["phases"][0]["epochs"], config["phases"][1]["epochs"] = 20, 8
    return Run(config=config, status=status, progress=progress, cancel_requested_at=None)


def states(one: Run, epochs: dict[int, int]) -> list[str]:
    return [step.state for step in steps(one, epochs)]


def test_a_queued_run_has_everything_before_it() -> None:
    assert states(run(RunStatus.QUEUED, phase=None), {}) == ["waiting"] * 5


def test_a_done_run_has_everything_behind_it() -> None:
    assert states(run(RunStatus.SUCCEEDED, phase=None), {0: 20, 1: 8}) == ["done"] * 5


def test_a_phase_that_stopped_early_shifts_the_epochs_of_the_next() -> None:
    one = run(RunStatus.RUNNING, phase="fine_tune", phase_index=1, epoch=18, step=45, steps_total=75)
    found = steps(one, {0: 14, 1: 3})
    assert [step.state for step in found] == ["done", "done", "now", "waiting", "waiting"]
    assert found[1].info == "14 of 20 epochs, stopped early"
    assert found[2].info == "epoch 4 of 8, step 45 of 75"
    assert found[2].value == pytest.approx(3.6)


def test_a_finished_epoch_is_not_counted_twice() -> None:
    one = run(RunStatus.RUNNING, phase="frozen", phase_index=0, epoch=5, step=75, steps_total=75)
    assert steps(one, {0: 5})[1].value == 5


def test_preparing_shows_pictures_done() -> None:
    one = run(RunStatus.RUNNING, phase="prepare", step=120, steps_total=480)
    first = steps(one, {})[0]
    assert (first.state, first.percent, first.info) == ("now", 25, "120 of 480")


def test_a_run_that_has_only_begun_is_starting() -> None:
    one = run(RunStatus.RUNNING, phase=None)
    assert status_words(one)[1] == "Starting"
    assert states(one, {})[0] == "now"


def test_a_run_asked_to_stop_says_so() -> None:
    one = run(RunStatus.RUNNING, phase="frozen", phase_index=0, epoch=3, epochs_total=28)
    assert status_words(one)[1] == "Frozen phase, epoch 3 of 28"
    one.cancel_requested_at = 1.0
    assert status_words(one)[1] == "Cancelling"


def test_the_exported_model_is_what_is_evaluated_so_export_comes_first() -> None:
    one = run(RunStatus.RUNNING, phase="export", step=0, steps_total=1)
    found = steps(one, {0: 20, 1: 8})
    assert [step.title for step in found] == ["Prepare", "Frozen phase", "Fine-tune phase", "Export", "Evaluate"]
    assert [step.state for step in found] == ["done", "done", "done", "now", "waiting"]
    assert states(run(RunStatus.RUNNING, phase="evaluate", step=3, steps_total=9), {})[-2:] == ["done", "now"]


def test_a_phase_that_still_computes_features_has_no_epoch_yet() -> None:
    one = run(RunStatus.RUNNING, phase="fine_tune", phase_index=1, epoch=None, step=224, steps_total=1040)
    found = steps(one, {0: 20})[2]
    assert (found.state, found.value, found.info) == ("now", 0, "getting ready, 224 of 1,040")
