"""bfloat16: who may have it, which pictures it is checked on, and that what a run says it computed in is what it computed in.

Computing in bfloat16 works on every processor, slowly: `mixed` asks for it on those of the tests, too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest

from tests.worker.training.run_folders import make_run_folder, read_images, write_images
from tests.worker.training.workplaces import Opened, open_run
from worker.training import features, label_errors, materials, precision, train
from worker.training.data import DecodedPictures
from worker.training.features import Extractor, make_extractor
from worker.training.materials import make_setup
from worker.training.orders import Orders
from worker.training.precision import bfloat16_cosine, drawn_across_classes, in_bfloat16, may_use_bfloat16

FROZEN: dict[str, Any] = {"kind": "frozen", "epochs": 1}
TUNE: dict[str, Any] = {"kind": "fine_tune", "epochs": 1, "unfreeze_from": "block3_conv"}
MIXED = {"precision": "mixed", "phases": [FROZEN, TUNE]}


@pytest.mark.parametrize(
    ("wanted", "has_it", "may"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("float32", True, False),
        ("float32", False, False),
        ("mixed", True, True),
        ("mixed", False, True),
    ],
)
def test_auto_asks_the_machine_and_the_others_do_not(
    monkeypatch: pytest.MonkeyPatch, wanted: str, has_it: bool, may: bool
) -> None:
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: has_it)
    assert may_use_bfloat16(wanted) is may


class Reached(Exception):
    """What the test wanted to see has been made."""


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("wanted", ["auto", "float32", "mixed"])
def test_a_run_and_the_search_for_label_errors_go_by_that_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, has_it: bool
) -> None:
    made = []

    def workplace(*arguments: Any) -> None:
        made.append(arguments[6])
        raise Reached

    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: has_it)
    opened = open_run(make_run_folder(tmp_path / "run", {"precision": wanted}))
    for module in (train, label_errors):
        monkeypatch.setattr(module, "Workplace", workplace)
        monkeypatch.setattr(module, "prepare_tensorflow", lambda _: None)
        folder = opened.work.folder
        run = train.train if module is train else label_errors.find_label_errors
        with pytest.raises(Reached):
            run(folder, DecodedPictures(folder, Orders()), opened.work.speaker, Orders())
    assert made == [wanted == "mixed" or (wanted == "auto" and has_it)] * 2
    (said,) = [event["precision"] for event in opened.events if event["event"] == "started"]
    assert said == ("bfloat16" if made[0] else "float32")


def test_what_passes_its_check_is_computed_and_stored_in_bfloat16(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run", MIXED))
    assert opened.work.wants_bfloat16
    assert opened.work.precision == "float32"
    setups = [make_setup(opened.work, phase, index) for index, phase in enumerate(opened.work.config.phases)]
    assert [setup.precision for setup in setups] == ["bfloat16", "bfloat16"]
    stored = [setup.train_features for setup in setups]
    assert [one and one.dtype for one in stored] == [np.float32, ml_dtypes.bfloat16]  # the head's vectors are exact
    assert opened.work.precision == "bfloat16"


def test_what_fails_its_check_is_float32_and_the_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materials, "ENOUGH", 1.1)
    failed = open_run(make_run_folder(tmp_path / "failed", MIXED)).run_phases()
    exact = open_run(make_run_folder(tmp_path / "exact", {**MIXED, "precision": "float32"})).run_phases()
    assert failed.curve == exact.curve
    assert failed.work.precision == "float32"
    assert [result["precision"] for result in failed.ledger.state.results] == ["float32", "float32"]
    assert sum("bfloat16 differs too much from float32 here (cosine" in line for line in failed.log) == 2
    assert not any("bfloat16" in line for line in exact.log)
    setup = make_setup(failed.work, failed.work.config.phases[1], 1)
    assert setup.train_features is not None
    assert setup.train_features.dtype == np.float32


def test_the_log_the_results_and_the_run_say_what_each_phase_computed_in(tmp_path: Path) -> None:
    whole = {"kind": "fine_tune", "epochs": 1, "features": "cached"}  # everything learns: steps through all of it
    opened = open_run(make_run_folder(tmp_path / "run", {**MIXED, "phases": [FROZEN, whole]})).run_phases()
    assert opened.work.network.form == "folded"
    assert any("images/s, bfloat16)" in line for line in opened.log)
    assert any("in bfloat16 from its fourth convolution on" in line for line in opened.log)
    assert [result["precision"] for result in opened.ledger.state.results] == ["bfloat16", "bfloat16"]


def test_a_run_that_is_gone_on_with_remembers_what_its_finished_phases_computed_in(tmp_path: Path) -> None:
    config = {**MIXED, "phases": [FROZEN, {"kind": "fine_tune", "epochs": 1, "features": "live"}]}
    first = open_run(make_run_folder(tmp_path / "first", config))
    make_setup(first.work, first.work.config.phases[0], 0)
    first.run_phases()
    kept = [str(tmp_path / "first" / "checkpoints")]
    second = open_run(make_run_folder(tmp_path / "second", config, checkpoints=kept)).run_phases()
    assert second.ledger.resumed_from is not None
    assert second.work.precision == "bfloat16"


@pytest.mark.parametrize(
    ("features", "reason"),
    [("live", "a phase with live features computes in float32"), ("cached", "BatchNorms that are not folded")],
)
def test_mixed_in_vain_is_said_and_is_float32(tmp_path: Path, features: str, reason: str) -> None:
    # the live frozen phase makes the network plain: BatchNorms are left for the phase that follows
    phases = [{**FROZEN, "features": "live"}, {"kind": "fine_tune", "epochs": 1, "features": features}]
    opened = open_run(make_run_folder(tmp_path / "run", {"precision": "mixed", "phases": phases})).run_phases()
    assert any(line.startswith('precision "mixed" cannot be honoured') and reason in line for line in opened.log)
    assert opened.work.precision == "float32"
    auto = open_run(make_run_folder(tmp_path / "auto", {"precision": "float32", "phases": phases})).run_phases()
    assert auto.curve == opened.curve
    assert not any("honoured" in line for line in auto.log)


def test_pictures_are_drawn_from_every_class_whatever_their_order() -> None:
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (40, 32), dtype=np.uint8)
    labels = np.array([0] * 30 + [1] * 8 + [2] * 2)
    drawn = drawn_across_classes(digests, labels, 16)
    assert np.bincount(labels[drawn]).tolist() == [7, 7, 2]
    mixed = random.permutation(40)
    again = drawn_across_classes(digests[mixed], labels[mixed], 16)
    np.testing.assert_array_equal(digests[mixed][again], digests[drawn])
    first = min(digests[labels == 1].tolist())
    assert first in digests[drawn[:3]].tolist()
    assert len(drawn_across_classes(digests[:5], labels[:5], 16)) == 5


def _memory(opened: Opened) -> set[str]:
    """Names of the answers that are kept, made by one phase of a run."""
    make_setup(opened.work, opened.work.config.phases[0], 0)
    opened.work.store.finish()
    return {path.name for path in opened.work.folder.feature_store.glob("bfloat16-*.json")}


@pytest.mark.parametrize("change", ["pictures", "image_size", "resize", "order"])
def test_the_check_is_made_anew_for_other_pictures_or_other_pixels(tmp_path: Path, change: str) -> None:
    config = {"precision": "mixed"}
    known = _memory(open_run(make_run_folder(tmp_path / "one", config, shared=tmp_path)))
    assert len(known) == 1
    changes: dict[str, Any] = {"image_size": {"image_size": [16, 20]}, "resize": {"resize": "squash"}}
    path = make_run_folder(tmp_path / "two", {**config, **changes.get(change, {})}, shared=tmp_path)
    rows = read_images(path)
    if change == "pictures":
        rows = [row for row in rows if row["split"] != "train" or not row["filename"].endswith("-0.png")]
    write_images(path, rows[::-1] if change == "order" else rows)
    assert len(_memory(open_run(path)) - known) == (0 if change == "order" else 1)


def test_the_answer_is_kept_and_nothing_is_read_again(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run"))
    backbone = opened.work.network.backbone
    pixels = opened.work.pictures.batch(np.arange(8))
    looked_at = {"pictures": ["one"]}
    fast, memory = _fast(backbone, in_bfloat16(backbone)), tmp_path / "memory"
    cosine = bfloat16_cosine(backbone, "tiny_cnn", fast, lambda: pixels, looked_at, memory)
    assert 0.99 < cosine <= 1.0001
    other = keras.models.clone_model(backbone)
    other.set_weights([-weight for weight in backbone.get_weights()])
    broken = _fast(backbone, other)
    assert bfloat16_cosine(backbone, "tiny_cnn", broken, lambda: 1 / 0, looked_at, memory) == cosine
    assert bfloat16_cosine(backbone, "tiny_cnn", broken, lambda: pixels, {"pictures": ["two"]}, memory) < 0.99
    assert [set(json.loads(path.read_text())) for path in memory.iterdir()] == [{"cosine"}] * 2


def _fast(frozen: keras.Model, answer: Callable[[Any], Any]) -> Extractor:
    return make_extractor(frozen, "tiny_cnn", None, np.dtype(np.float32), compute="bfloat16", answer=answer)


def test_a_gpu_and_a_processor_of_one_host_do_not_share_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(make_run_folder(tmp_path / "run", {"precision": "mixed"}))
    known = _memory(opened)
    assert opened.work.store.computed == 24 + 9  # of train and validation
    monkeypatch.setattr(features, "computed_by", lambda: "GPU some card 8.6")
    monkeypatch.setattr(precision, "computed_by", lambda: "GPU some card 8.6")
    assert len(_memory(opened) - known) == 1
    assert opened.work.store.computed == 2 * (24 + 9)
