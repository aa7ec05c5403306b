"""Which graphics processors the prediction worker and the process that times steps see, and with how many threads that works."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worker.prediction import timing_process
from worker.training import machine, timing

ROOT = Path(__file__).resolve().parents[3]
# the real entry, in its own process; in place of TensorFlow stands what it would look at when it is loaded
PROGRAM = """
import contextlib, json, os, sys, types

found = {}
def worker(place, timings):
    found["timing"] = timings._environment.get("CUDA_VISIBLE_DEVICES")
    return types.SimpleNamespace(task=None)
def stand_in(name, **parts):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(parts)
stand_in("worker.prediction.models", warm_up=lambda: found.update(predict=os.environ.get("CUDA_VISIBLE_DEVICES")))
stand_in("worker.prediction.worker", PredictionWorker=worker)
from worker import devices
devices.gpus = lambda: ({"name": "a card"},)
from worker.prediction import __main__ as entry
entry.opened_place = lambda settings, queues: contextlib.nullcontext()
entry.work = lambda place, tasks: 0
assert entry.main() == 0
print(json.dumps(found))
"""


def seen(tmp_path: Path, **environment: str) -> dict[str, Any]:
    """CUDA_VISIBLE_DEVICES of the prediction worker when it loads TensorFlow, and of the process that times steps."""
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**inherited, "THAW_DATA_DIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_prediction_worker_hides_the_gpus_before_it_loads_tensorflow_and_steps_are_timed_where_runs_train(
    tmp_path: Path,
) -> None:
    assert seen(tmp_path) == {"predict": "-1", "timing": "0"}
    assert seen(tmp_path, CUDA_VISIBLE_DEVICES="1") == {"predict": "1", "timing": "1"}


def test_steps_are_timed_with_a_trainers_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(machine, "prepare_tensorflow", done.append)
    monkeypatch.setattr(timing, "measure", lambda *_: done.append("measured") or {})
    question = {"config": {}, "classes": 2, "max_bytes": 1, "max_pixels": 1, "threads": 3, "pictures": []}
    assert timing_process.answer(question) == {"speeds": {}}
    assert done == [3, "measured"]
