"""Timed steps, on a tiny network."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import estimates
from core.training_config import parse_config
from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.workplaces import open_run
from worker.training import doubt, materials, robustness, timing
from worker.training.machine import device
from worker.training.pictures import PictureLimits
from worker.training.timing import measure

LIMITS = PictureLimits(10**6, 10**6)
TINY: dict[str, Any] = {"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 32], "batch_size": 4}
CASES: dict[str, list[dict[str, Any]]] = {
    "cached": [
        {"kind": "frozen", "optimizer": {"name": "lbfgs"}},
        {"kind": "fine_tune", "views": 2, "unfreeze_from": "block3_add", "ema_decay": 0.9},
    ],
    "live": [{"kind": "frozen", "features": "live"}, {"kind": "fine_tune", "features": "live"}],
    "all of it learns": [{"kind": "frozen", "epochs": 1}, {"kind": "fine_tune"}],
}


def encoded() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_every_way_to_run_a_phase_is_timed(case: str) -> None:
    config = parse_config({**TINY, "phases": CASES[case]})
    found = measure(config, 3, [encoded(), b"no picture"], LIMITS)
    assert found["device"] == device()
    assert found["build"] > 0
    assert 0 < found["decode"] < 5
    assert len(found["phases"]) == len(config.phases)
    for phase, speeds in zip(config.phases, found["phases"], strict=True):
        runs_once = (phase.features == "cached" and case != "all of it learns") or phase.kind == "frozen"
        assert (speeds["extract"] > 0) == (runs_once and phase.features == "cached")
        assert (speeds["extract_view"] > 0) == (phase.views > 1)
        assert (speeds["step"] > 0) == (phase.optimizer.name != "lbfgs")
        assert speeds["trace"] > 0


def step_of(**changes: Any) -> float:
    """Seconds of one picture in one epoch of the only phase."""
    found = measure(parse_config({**TINY, **changes}), 3, [], LIMITS)
    return float(found["phases"][0]["step"])


def test_a_head_with_hidden_layers_costs_more_than_a_linear_one() -> None:
    phases = [{"kind": "frozen"}]
    linear = step_of(phases=phases)
    assert step_of(phases=phases, head={"hidden_units": [1024, 1024]}) > 3 * linear


@pytest.mark.parametrize(
    ("phase", "precision"),
    [
        ({"kind": "fine_tune"}, "mixed"),
        ({"kind": "fine_tune", "views": 3}, "float32"),
        ({"kind": "fine_tune", "features": "live"}, "mixed"),
        ({"kind": "frozen", "features": "live"}, "float32"),
    ],
    ids=["all of it learns", "augmented", "live as wished", "frozen"],
)
def test_what_runs_live_is_timed_in_the_form_and_with_the_changes_that_the_run_makes(
    phase: dict[str, Any], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own `make_setup` is asked for its form and its augmentation, and timing for what it puts into its learner."""
    made: dict[str, list[object]] = {"run": [], "timing": []}

    def recording(module: Any, name: str, where: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            answer = real(*arguments, **named)
            made[where].append((name, named.get("bfloat16", answer is not None)))
            return answer

        monkeypatch.setattr(module, name, call)

    for name in ("augmenting", "live_form"):
        recording(materials, name, "run")
        recording(timing, name, "timing")
    monkeypatch.setattr(materials, "bfloat16_cosine", lambda *_: 1.0)
    changes = {"phases": [phase], "precision": precision}
    opened = open_run(make_run_folder(tmp_path / "run", changes))
    opened.work.wants_bfloat16 = precision == "mixed"
    materials.make_setup(opened.work, opened.work.config.phases[0], 0)
    step_of(**changes)
    assert sorted(map(str, made["timing"])) == sorted(map(str, made["run"]))
    assert len(made["run"]) == 2


def test_an_estimate_counts_as_many_pictures_as_a_run_looks_at_after_training() -> None:
    assert robustness.MOST_PICTURES == estimates.MADE_WORSE_MOST
    assert len(robustness.CHANGES) == estimates.MADE_WORSE
    assert doubt.MOST_TRAIN == estimates.EXPORT_KNOWN
