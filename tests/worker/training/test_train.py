"""The trainer as its supervisor sees it: a process, its events, its end."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigInvalid, DiskFull, PicturesUnreadable, WeightsUnavailable
from tests.worker.training.run_folders import make_run_folder, read_images
from worker.training.__main__ import failure_of

ROOT = Path(__file__).resolve().parents[3]
SLOW_LIVE = {"kind": "frozen", "features": "live", "steps_per_epoch": 150}


class Trainer:
    """A trainer process and what it says."""

    def __init__(self, *arguments: str | Path, most_memory: int | None = None, **environment: str) -> None:
        command = [sys.executable, "-m", "worker.training", *map(str, arguments)]
        if most_memory is not None:  # bytes of address space
            command = ["prlimit", f"--as={most_memory}", *command]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.heard: list[dict[str, Any]] = []

    def events(self) -> Iterator[dict[str, Any]]:
        """Events as they come; a line that is not JSON fails the test here."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.heard.append(event)
            yield event

    def until(self, kind: str, count: int = 1) -> None:
        """Read until the `count`-th event of this kind."""
        for event in self.events():
            count -= event["event"] == kind
            if not count:
                return
        raise AssertionError(f"The trainer ended before that: {self.heard[-3:]}, {self.complaint()}")

    def say(self, word: str) -> None:
        """Write one word to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def end(self) -> int:
        """Read everything that is left and return the exit code."""
        for _ in self.events():
            pass
        return self.process.wait(60)

    def complaint(self) -> str:
        """Its standard error, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode(errors="replace")

    def close(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    @property
    def curve(self) -> dict[int, Any]:
        """Epoch -> metrics."""
        return {event["epoch"]: event["metrics"] for event in self.heard if event["event"] == "epoch"}


@pytest.fixture
def start() -> Iterator[Any]:
    """Start trainers that do not outlive the test."""
    started: list[Trainer] = []

    def run(*arguments: str | Path, most_memory: int | None = None, **environment: str) -> Trainer:
        started.append(Trainer(*arguments, most_memory=most_memory, **environment))
        return started[-1]

    yield run
    for trainer in started:
        trainer.close()


def test_lbfgs_whose_features_do_not_fit_the_cache_ends_with_what_to_do(tmp_path: Path, start: Any) -> None:
    phases = [{"kind": "frozen", "epochs": 5, "optimizer": {"name": "lbfgs"}}]
    trainer = start(make_run_folder(tmp_path / "run", {"phases": phases}, cache_limit_bytes=5_000))
    assert trainer.end() == 5
    assert trainer.heard[-1] == {
        "event": "failed",
        "kind": "config",
        "message": "lbfgs needs its features stored, and the cache limit is too small for them. Raise it, or choose adam.",
        "advice": "Change the setting that the message names and start the run again.",
    }
    assert not trainer.curve


def test_a_whole_run_leaves_what_the_contract_names(tmp_path: Path, start: Any) -> None:
    phases = [{"kind": "frozen", "epochs": 2}, {"kind": "fine_tune", "epochs": 1, "unfreeze_from": "block3_conv"}]
    path = make_run_folder(tmp_path / "run", {"phases": phases})
    (tmp_path / "temporary").mkdir()
    trainer = start(path, TMPDIR=str(tmp_path / "temporary"))
    assert trainer.end() == 0, trainer.complaint()
    assert not list((tmp_path / "temporary").iterdir())
    assert not (path / "tmp").exists()
    kinds = [event["event"] for event in trainer.heard]
    assert kinds[0] == "started"
    assert trainer.heard[0]["resumed_from"] is None
    assert kinds.count("layers") == 2
    assert kinds[-1] == "succeeded"
    assert list(trainer.curve) == [1, 2, 3]

    result = json.loads((path / trainer.heard[-1]["result"]).read_text())
    for file in result["files"]:
        data = (path / file["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size_bytes"], file["sha256"])
    names = {file["path"] for file in result["files"]}
    assert {"evaluation.json", "predictions.jsonl", "layers.json", "model/saved_model.zip"} <= names
    assert {f"model/backbone_and_head/{kind}.npz" for kind in ("frozen", "fine_tune")} <= names
    assert result["agreement"]["top1"] == 1.0

    evaluation = json.loads((path / "evaluation.json").read_text())
    assert set(evaluation["phases"]) == {"frozen", "fine_tune"}
    assert result["summary"]["test_accuracy"] == evaluation["phases"][result["chosen_phase"]]["accuracy"]
    rows = [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (12 + 9)
    mine = [row for row in rows if row["phase"] == result["chosen_phase"] and row["split"] == "test"]
    assert np.mean([row["true_label"] == row["predicted_label"] for row in mine]) == result["summary"]["test_accuracy"]


HEAD = {"kind": "frozen", "epochs": 1}
TUNE = {"kind": "fine_tune", "epochs": 3, "ema_decay": 0.9, "schedule": {"name": "cosine", "warmup_epochs": 1}}


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param([{**SLOW_LIVE, "epochs": 4}], id="frozen", marks=pytest.mark.slow),
        pytest.param([HEAD, {**TUNE, "features": "live", "steps_per_epoch": 150}], id="fine-tune"),
        pytest.param(
            [HEAD, {**TUNE, "views": 2, "unfreeze_from": "block2_conv", "steps_per_epoch": 4000}],
            id="fine-tune on stored activations",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_trainer_killed_in_the_middle_of_an_epoch_goes_on_with_the_same_curve(
    tmp_path: Path, start: Any, phases: list[dict[str, Any]]
) -> None:
    """The same to the last bit, whichever phase it was in: no tolerance."""
    config = {"phases": phases, "head": {"dropout": 0.3}}
    whole = start(make_run_folder(tmp_path / "whole", config))
    whole.until("epoch", 4)
    whole.process.kill()
    first = start(make_run_folder(tmp_path / "first", config))
    first.until("epoch", 2)
    first.until("progress")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    second = start(make_run_folder(tmp_path / "second", config, checkpoints=[str(tmp_path / "first" / "checkpoints")]))
    second.until("epoch", 4)
    # a busy machine may hear of the second epoch's end when the third is over
    resumed = {f"{len(phases) - 1:02d}-{epoch:06d}-epoch" for epoch in (2, 3)}
    assert second.heard[0]["resumed_from"] in resumed
    assert second.curve == whole.curve


def test_cancel_ends_a_run_within_five_seconds(tmp_path: Path, start: Any) -> None:
    trainer = start(make_run_folder(tmp_path / "run", {"phases": [{**SLOW_LIVE, "epochs": 1000}]}), "--supervised")
    trainer.until("epoch")
    said = time.monotonic()
    trainer.say("cancel")
    assert trainer.end() == 3
    assert time.monotonic() - said < 5
    assert not (tmp_path / "run" / "result.json").exists()


def test_cancel_ends_a_run_within_five_seconds_while_it_computes_features(tmp_path: Path, start: Any) -> None:
    config = {"image_size": [96, 96], "phases": [{"kind": "frozen", "views": 64, "epochs": 1}]}
    folder = make_run_folder(tmp_path / "run", config, counts={"train": 40, "validation": 1, "test": 1})
    trainer = start(folder, "--supervised")
    assert any(event.get("message") == "Computing features" for event in trainer.events()), trainer.complaint()
    said = time.monotonic()
    trainer.say("cancel")
    assert trainer.end() == 3
    assert time.monotonic() - said < 5
    last = trainer.heard[-1]
    assert last["event"] == "progress"
    assert last["step"] < last["steps_total"] == 3 * 40 * 64, "it did not wait for the rest of them"


LARGE = {
    "backbone": "efficientnet_lite0",
    "image_size": [224, 224],
    "phases": [
        {"kind": "frozen", "epochs": 100, "optimizer": {"name": "lbfgs"}},
        {"kind": "fine_tune", "epochs": 50, "features": "live", "steps_per_epoch": 2},
    ],
}
MOMENTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "building the network": lambda event: event["event"] == "started",
    "computing features": lambda event: event.get("message") == "Computing features",
    "looking for the strength": lambda event: event["event"] == "log" and "eatures" in event["message"],
    "a step of the head": lambda event: event["event"] == "epoch",
    "tracing a large phase": lambda event: event["event"] == "layers" and event["phase_index"] == 1,
    "a step of everything": lambda event: event["event"] == "epoch" and event["phase"] == "fine_tune",
    "the export": lambda event: event.get("phase") == "export",
    "the judgement": lambda event: event.get("phase") == "evaluate",
    "waiting for the check": lambda event: str(event.get("message")).startswith("Waiting for the check"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("later", [0.0, 4.0])
def test_cancel_ends_a_large_network_within_five_seconds_whatever_it_does(
    tmp_path: Path, start: Any, moment: str, later: float
) -> None:
    """`later`: seconds after the moment began, well inside a trace, an export or its check."""
    config = LARGE
    if moment in {"the export", "the judgement", "waiting for the check"}:
        config = {**LARGE, "phases": [{**phase, "epochs": 1} for phase in LARGE["phases"]]}
    counts = {"train": 40, "validation": 4, "test": 20}
    folder = make_run_folder(tmp_path / "run", config, counts=counts)
    trainer = start(folder, "--supervised", THAW_TRAINER_TICK_LIMIT="600")  # nobody ticks here
    assert any(MOMENTS[moment](event) for event in trainer.events()), trainer.complaint()
    time.sleep(later)
    said = time.monotonic()
    trainer.say("cancel")
    assert trainer.end() == 3
    assert time.monotonic() - said < 5
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_lack_of_memory_is_a_failed_event_with_advice(tmp_path: Path, start: Any) -> None:
    phase = {"kind": "fine_tune", "features": "live", "epochs": 1}
    config = {"image_size": [1024, 1024], "batch_size": 96, "phases": [phase]}
    folder = make_run_folder(tmp_path / "run", config, counts={"train": 33, "validation": 1, "test": 1})
    trainer = start(folder, most_memory=6 * 10**9)
    assert trainer.end() == 5, trainer.complaint()
    failed = trainer.heard[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "out_of_memory")
    assert "more memory than there is" in failed["message"]
    assert "smaller batch" in failed["advice"]


def test_drain_keeps_the_last_checkpoint_and_ends_with_four(tmp_path: Path, start: Any) -> None:
    trainer = start(make_run_folder(tmp_path / "run", {"phases": [{**SLOW_LIVE, "epochs": 1000}]}), "--supervised")
    trainer.until("epoch")
    trainer.say("drain")
    assert trainer.end() == 4
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_trainer_without_ticks_ends_by_itself(tmp_path: Path, start: Any) -> None:
    folder = make_run_folder(tmp_path / "run", {"phases": [{**SLOW_LIVE, "epochs": 1000}]})
    trainer = start(folder, "--supervised", THAW_TRAINER_TICK_LIMIT="1.5")
    started = time.monotonic()
    while time.monotonic() - started < 4:  # with ticks it lives on
        trainer.say("tick")
        time.sleep(0.3)
    assert trainer.process.poll() is None
    assert trainer.end() == 6


def test_a_trainer_ends_when_its_supervisor_closes_standard_input(tmp_path: Path, start: Any) -> None:
    trainer = start(make_run_folder(tmp_path / "run", {"phases": [{**SLOW_LIVE, "epochs": 1000}]}), "--supervised")
    trainer.until("started")
    trainer.process.stdin.close()
    assert trainer.end() == 6


def test_a_spare_runs_the_folder_it_is_given(tmp_path: Path, start: Any) -> None:
    folder = make_run_folder(tmp_path / "a run", {"phases": [{"kind": "frozen", "epochs": 1}]})
    trainer = start("--spare", "--supervised")
    trainer.say(f"run {folder}")
    trainer.until("epoch")
    assert list(trainer.curve) == [1]


def test_a_broken_picture_is_a_failed_event_that_names_it(tmp_path: Path, start: Any) -> None:
    path = make_run_folder(tmp_path / "run")
    row = read_images(path)[5]
    Path(row["path"]).write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    trainer = start(path)
    assert trainer.end() == 5
    failed = trainer.heard[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "data")
    assert row["filename"] in failed["message"]
    assert failed["advice"]


def test_a_config_that_cannot_be_trained_is_a_failed_event(tmp_path: Path, start: Any) -> None:
    trainer = start(make_run_folder(tmp_path / "run", {"backbone": "resnet_9000"}))
    assert trainer.end() == 5
    assert trainer.heard[-1]["kind"] == "config"
    assert "resnet_9000" in trainer.heard[-1]["message"]


def test_the_disk_reserve_is_a_failed_event(tmp_path: Path, start: Any) -> None:
    trainer = start(make_run_folder(tmp_path / "run", disk_reserve_bytes=2**62))
    assert trainer.end() == 5
    assert trainer.heard[-1]["kind"] == "disk_full"


class ResourceExhaustedError(Exception):
    """TensorFlow's error, which is known by its name."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (ResourceExhaustedError("OOM when allocating tensor"), "out_of_memory"),
        (ResourceExhaustedError("x; No space left on device"), "disk_full"),
        (ResourceExhaustedError(f"x; {os.strerror(errno.EDQUOT)}"), "disk_full"),
        (OSError(28, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EIO, "Input/output error"), "crash"),
        (DiskFull("full"), "disk_full"),
        (ConfigInvalid("wrong"), "config"),
        (PicturesUnreadable("gone"), "data"),
        (WeightsUnavailable("none"), "weights"),
        (ZeroDivisionError("division by zero"), "crash"),
    ],
)
def test_every_failure_has_its_kind(error: Exception, kind: str) -> None:
    assert failure_of(error)[0] == kind


def test_a_crash_carries_the_last_line_of_the_error() -> None:
    assert failure_of(ZeroDivisionError("division by zero")) == ("crash", "ZeroDivisionError: division by zero")
