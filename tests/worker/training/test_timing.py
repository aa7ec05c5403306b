"""Timed steps, on a tiny network."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.training_config import parse_config
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
    assert found["build"] > 0
    assert 0 < found["decode"] < 5
    assert len(found["phases"]) == len(config.phases)
    for phase, speeds in zip(config.phases, found["phases"], strict=True):
        runs_once = (phase.features == "cached" and case != "all of it learns") or phase.kind == "frozen"
        assert (speeds["extract"] > 0) == (runs_once and phase.features == "cached")
        assert (speeds["extract_view"] > 0) == (phase.views > 1)
        assert (speeds["step"] > 0) == (phase.kind == "fine_tune" or phase.features == "live")
        assert speeds["trace"] > 0
