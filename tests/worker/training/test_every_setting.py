"""Every setting of a TrainingConfig reaches the engine: changed alone, it changes what comes out of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config_fields import fields_of_phase, fields_of_run
from core.training_config import merged
from tests.worker.training.run_folders import TINY, make_run_folder, read_images, write_images
from tests.worker.training.workplaces import open_run
from worker.training.evaluate import choose
from worker.training.ledger import every_variable

# what has tests of its own
ELSEWHERE = {
    "backbone": "test_every_backbone: each of them builds and learns",
    "weights": "test_start and test_lite_weights: of ImageNet, none, one's own, uploaded",
}
FROZEN = {"kind": "frozen", "epochs": 2, "optimizer": {"name": "adam", "learning_rate": 0.01}}
TUNE = {"kind": "fine_tune", "epochs": 2, "features": "live", "optimizer": {"name": "adam", "learning_rate": 0.01}}
BASE = {**TINY, "phases": [FROZEN, TUNE]}
WILD = {"epochs": 20, "optimizer": {"name": "sgd", "learning_rate": 5.0}}

# setting -> another value, and what must hold besides for it to matter
RUN: dict[str, tuple[Any, dict[str, Any]]] = {
    "image_size": ([24, 24], {}),
    "resize": ("squash", {}),
    "cut_layer": ("block3_add", {}),
    "head.pooling": ("max", {}),
    "head.hidden_units": ([4], {}),
    "head.activation": ("tanh", {"head": {"hidden_units": [4]}}),
    "head.dropout": (0.5, {}),
    "head.binary": (True, {"classes": 2}),
    "augmentation.horizontal_flip": (False, {}),
    "augmentation.vertical_flip": (True, {}),
    "augmentation.rotation_degrees": (5.0, {}),
    "augmentation.shift": ([0.2, 0.0], {}),
    "augmentation.shear_degrees": (20.0, {}),
    "augmentation.zoom": (0.3, {}),
    "augmentation.brightness": (0.3, {}),
    "augmentation.contrast": (0.3, {}),
    "augmentation.fill_mode": ("constant", {}),
    "batch_size": (5, {}),
    "select": ("last", {"fine_tune": {"optimizer": {"name": "sgd", "learning_rate": 9.0}}, "frozen": {"epochs": 20}}),
    "class_weights": ("none", {"uneven": True}),
    "label_smoothing": (0.0, {}),
    "seed": (1, {}),
    "precision": ("mixed", {}),  # auto is either of the two: test_precision
}
PHASE: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs": (3, {}),
    "steps_per_epoch": (2, {}),
    "features": ("cached", {"features": "live"}),
    "views": (2, {"features": "cached"}),
    "ema_decay": (0.9, {}),
    "keep": ("last", WILD),
    "optimizer.name": ("rmsprop", {}),
    "optimizer.learning_rate": (0.02, {}),
    "optimizer.momentum": (0.9, {"optimizer": {"name": "sgd", "learning_rate": 0.01}}),
    "optimizer.weight_decay": (0.5, {"optimizer": {"name": "adamw", "learning_rate": 0.01}}),
    "schedule.name": ("cosine", {}),
    "schedule.decay_rate": (0.5, {"schedule": {"name": "inverse_time"}}),
    "schedule.warmup_epochs": (1.0, {}),
    "early_stopping.patience": (1, WILD),
}
TUNED = {
    **PHASE,
    "views": (2, {"features": "cached", "unfreeze_from": "block3_conv"}),
    "unfreeze_from": ("block3_conv", {}),
}
# one of each mechanism in every run of the tests, the rest with the slow ones
ALWAYS = {
    "resize",
    "head.pooling",
    "head.binary",
    "augmentation.rotation_degrees",
    "batch_size",
    "select",
    "class_weights",
    "label_smoothing",
    "seed",
    "precision",
}
CASES: list[Any] = [
    *(
        pytest.param(name, *case, id=name, marks=[] if name in ALWAYS else pytest.mark.slow)
        for name, case in RUN.items()
    ),
    *(pytest.param(f"frozen.{n}", *case, id=f"frozen.{n}", marks=pytest.mark.slow) for n, case in PHASE.items()),
    *(pytest.param(f"fine_tune.{n}", *case, id=f"fine_tune.{n}", marks=pytest.mark.slow) for n, case in TUNED.items()),
]
Outcome = tuple[str, list[bytes]]
pytestmark = pytest.mark.xdist_group("every setting")  # the runs that settings are compared with are made once


def test_no_setting_is_left_out() -> None:
    known = {*RUN, *ELSEWHERE, *(f"frozen.{name}" for name in PHASE), *(f"fine_tune.{name}" for name in TUNED)}
    assert known == {one.path for one in (*fields_of_run(), *fields_of_phase("frozen"), *fields_of_phase("fine_tune"))}


def _changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The config with one setting changed, that of a phase in the phase of its kind."""
    first, _, rest = path.partition(".")
    if first in {"frozen", "fine_tune"}:
        phases = [_changed(one, rest, value) if one["kind"] == first else one for one in config["phases"]]
        return {**config, "phases": phases}
    return merged(config, {first: _changed(config.get(first) or {}, rest, value) if rest else value})


def _base(path: str, besides: dict[str, Any]) -> dict[str, Any]:
    config = dict(BASE)
    kind = path.partition(".")[0]
    where = {kind: besides} if kind in {"frozen", "fine_tune"} else besides
    for name, value in where.items():
        if name in {"frozen", "fine_tune"}:
            phases = [merged(one, value) if one["kind"] == name else one for one in config["phases"]]
            config = {**config, "phases": phases}
        elif name == "head":
            config = merged(config, {name: value})
    return config


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any], dict[str, Any]], Outcome]:
    """What comes out of a run: its curve with the phase that becomes the model, and every weight. Equal settings run once."""
    known: dict[str, Outcome] = {}

    def outcome(config: dict[str, Any], besides: dict[str, Any]) -> Outcome:
        data = {one: besides.get(one) for one in ("classes", "uneven")}
        key = json.dumps([config, data], sort_keys=True)
        if key not in known:
            known[key] = _run(tmp_path_factory.mktemp("run") / "run", config, data)
        return known[key]

    return outcome


def _run(path: Path, config: dict[str, Any], data: dict[str, Any]) -> Outcome:
    names = ("red round", "green square", "blue cross")[: data["classes"] or 3]
    make_run_folder(path, config, class_names=names)
    if data["uneven"]:
        few = [row for row in read_images(path) if row["label"] or row["split"] != "train" or row["filename"] < "0-3"]
        write_images(path, few)
    opened = open_run(path).run_phases()
    chosen = choose(opened.ledger.state.results, opened.work.config.select)
    weights = [np.asarray(one.numpy()).tobytes() for one in every_variable(opened.work.network)]
    return json.dumps([opened.curve, chosen["phase"]]), weights


@pytest.mark.parametrize(("path", "value", "besides"), CASES)
def test_a_setting_that_is_changed_changes_the_run(
    outcome_of: Callable[[dict[str, Any], dict[str, Any]], Outcome], path: str, value: Any, besides: dict[str, Any]
) -> None:
    base = _base(path, besides)
    assert outcome_of(base, besides) != outcome_of(_changed(base, path, value), besides)


def test_the_same_settings_give_the_same_run(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    data = {"classes": None, "uneven": None}
    assert _run(tmp_path / "one", BASE, data) == _run(tmp_path / "other", BASE, data)


def test_what_is_said_to_be_unused_by_lbfgs_changes_nothing_there(outcome_of: Callable[..., Outcome]) -> None:
    fields = {one.path: one.help for one in (*fields_of_run(), *fields_of_phase("frozen"))}
    said = {path for path, text in fields.items() if "unused by lbfgs" in text}
    steps = {"steps_per_epoch", "ema_decay", "schedule.name", "schedule.decay_rate", "schedule.warmup_epochs"}
    steps |= {"optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay"}
    assert said == {"batch_size", "head.dropout", *(f"frozen.{one}" for one in steps)}
    base = {**TINY, "phases": [{"kind": "frozen", "epochs": 3, "optimizer": {"name": "lbfgs"}}]}
    changed = base
    for path in said:
        changed = _changed(changed, path, (RUN.get(path) or PHASE[path.removeprefix("frozen.")])[0])
    assert outcome_of(changed, {}) == outcome_of(base, {})
    assert outcome_of(_changed(changed, "frozen.epochs", 2), {}) != outcome_of(base, {})
