import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigInvalid
from tests.worker.training.run_folders import make_run_folder, read_images, write_images
from tests.worker.training.workplaces import Opened, open_run
from worker.training import features, logistic_phase, materials, phases
from worker.training.evaluate import ask
from worker.training.learner import Learner
from worker.training.ledger import every_variable
from worker.training.materials import make_setup, plain_pooled
from worker.training.orders import Cancelled
from worker.training.phases import EpochPlan, class_weights, plan_epoch

ROOT = Path(__file__).resolve().parents[3]
FAST = {"name": "adam", "learning_rate": 0.01}
FROZEN: dict[str, Any] = {"kind": "frozen", "epochs": 2, "optimizer": FAST}
LARGE = {"train": 4, "validation": 6, "test": 3}  # of each of three classes
TUNE: dict[str, Any] = {"kind": "fine_tune", "epochs": 2, "unfreeze_from": "block3_conv", "optimizer": FAST}


def _run(path: Path, *phases: dict[str, Any], **config: Any) -> Opened:
    return open_run(make_run_folder(path, {"phases": list(phases), **config})).run_phases()


def _weights(opened: Opened) -> dict[str, np.ndarray]:
    return {f"{n}/{one.path}": one.numpy() for n, one in enumerate(every_variable(opened.work.network))}


@pytest.mark.parametrize("features", ["cached", "live"])
def test_a_frozen_phase_changes_the_head_and_nothing_else(tmp_path: Path, features: str) -> None:
    before = _weights(open_run(make_run_folder(tmp_path / "before", {"phases": [{**FROZEN, "features": features}]})))
    after = _weights(_run(tmp_path / "after", {**FROZEN, "features": features}))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.partition("/")[2] for name in changed} == {"head_dense/kernel", "head_dense/bias"}


@pytest.mark.parametrize("unfreeze_from", [None, "block3_conv"])
def test_batch_norm_statistics_are_bit_equal_after_fine_tuning_in_the_plain_form(
    tmp_path: Path, unfreeze_from: str | None
) -> None:
    tune = {**TUNE, "features": "live", "unfreeze_from": unfreeze_from}
    fresh = open_run(make_run_folder(tmp_path / "before", {"phases": [FROZEN, tune]}))
    assert fresh.work.network.form == "plain"
    before, after = _weights(fresh), _weights(_run(tmp_path / "after", FROZEN, tune))
    statistics = [name for name in before if "moving_" in name]
    assert len(statistics) == 10
    for name in statistics:
        np.testing.assert_array_equal(after[name], before[name])
    for part in ("block4_conv/kernel", "block4_bn/gamma", "block4_bn/beta"):
        (name,) = [one for one in before if one.endswith(part)]
        assert not np.array_equal(before[name], after[name]), name
    (first,) = [one for one in before if one.endswith("block1_conv/kernel")]
    assert np.array_equal(before[first], after[first]) == (unfreeze_from is not None)


def test_a_cached_fine_tune_phase_learns_only_what_lies_above_the_cut(tmp_path: Path) -> None:
    before = _weights(open_run(make_run_folder(tmp_path / "before", {"phases": [FROZEN, TUNE]})))
    after = _weights(_run(tmp_path / "after", FROZEN, TUNE))
    changed = {name.partition("/")[2].split("_")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"block3", "block4", "head"}


def test_cached_and_live_give_the_same_curve_on_plain_pictures(tmp_path: Path) -> None:
    plain = {"horizontal_flip": False, "rotation_degrees": 0}
    head = {"dropout": 0.0}
    last = {
        **TUNE,
        "epochs": 1,
        "features": "live",
    }  # a live phase anywhere makes the network plain: equal forms are compared
    curves, computed = [], []
    for kept in ("cached", "live"):
        phases = [{**FROZEN, "features": kept}, {**TUNE, "features": kept}]
        opened = _run(tmp_path / kept, *phases, last, augmentation=plain, head=head)
        assert opened.work.network.form == "plain"
        computed.append(opened.work.store.computed)
        curves.append([metrics[split]["loss"] for _, metrics in opened.curve for split in ("train", "validation")])
    assert computed == [2 * (24 + 9), 0]
    assert len(curves[0]) == 10
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


def test_training_lowers_the_loss_and_the_network_answers_with_the_kept_weights(tmp_path: Path) -> None:
    opened = _run(tmp_path / "run", {**FROZEN, "epochs": 30}, {**TUNE, "epochs": 6})
    losses = [metrics["train"]["loss"] for _, metrics in opened.curve]
    assert losses[-1] < 0.5 * losses[0]
    result = opened.ledger.state.results[-1]
    work = opened.work
    answer = work.network.head(
        work.network.backbone(work.pictures.batch(work.positions("validation")).astype(np.float32))
    )
    right = np.mean(np.argmax(answer, axis=1) == work.labels("validation"))
    assert right == pytest.approx(result["validation"]["accuracy"])


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adamw", "weight_decay": 0.1},
        {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
        {"name": "rmsprop", "momentum": 0.5},
        {"name": "lbfgs"},
    ],
)
def test_every_optimizer_learns(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    curve = _run(tmp_path / "run", {**FROZEN, "epochs": 5, "optimizer": optimizer}).curve
    assert [epoch for epoch, _ in curve] == list(range(1, len(curve) + 1))
    assert curve[-1][1]["train"]["loss"] < 1.1


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": {"name": "cosine", "warmup_epochs": 1}},
        {"schedule": {"name": "inverse_time", "decay_rate": 0.5}},
        {"ema_decay": 0.9},
        {"views": 3},
        {"steps_per_epoch": 2},
        {"steps_per_epoch": 9},
        {"features": "live"},
    ],
)
def test_options_of_a_phase_change_the_curve(tmp_path: Path, plain_end: Any, change: dict[str, Any]) -> None:
    changed = _run(tmp_path / "changed", FROZEN, {**TUNE, **change})
    assert len(changed.curve) == 4
    assert changed.curve[-1] != plain_end


@pytest.fixture(scope="module")
def plain_end(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The last epoch of two phases with no options."""
    return _run(tmp_path_factory.mktemp("plain") / "run", FROZEN, TUNE).curve[-1]


def test_judging_is_traced_before_the_first_epoch_so_that_the_time_left_does_not_count_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    judge, train = Learner.judge, Learner.train

    def judging(learner: Learner, x: Any, labels: Any) -> Any:
        calls.append(("judge", len(labels)))
        return judge(learner, x, labels)

    def training(learner: Learner, batches: Any) -> Any:
        calls.append(("train", batches.pictures))
        return train(learner, batches)

    monkeypatch.setattr(Learner, "judge", judging)
    monkeypatch.setattr(Learner, "train", training)
    opened = _run(tmp_path / "run", FROZEN)
    assert calls[0] == ("judge", 1)
    assert calls[1][0] == "train"
    assert opened.ledger.state.results[0]["seconds"] > sum(event["seconds"] for event in opened.ledger.state.history)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}], ids=["large pictures", "after an out-of-memory failure"])
def test_no_call_takes_more_pictures_than_memory_is_meant_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int]
) -> None:
    """Extraction of both phases, their validation, the check of bfloat16 and the judgement."""
    counts: dict[str, list[int]] = {"judged": [], "extracted": [], "checked": [], "asked": []}
    judge, extract = Learner.judge, features.make_extractor

    def judging(learner: Learner, x: Any, labels: Any) -> Any:
        counts["judged"].append(len(x) if x[0].nbytes > 64 * 1024 else 1)
        return judge(learner, x, labels)

    def making(*arguments: Any, **named: Any) -> features.Extractor:
        made = extract(*arguments, **named)

        def run(pixels: Any, seeds: Any) -> Any:
            counts["extracted"].append(len(pixels))
            return made.run(pixels, seeds)

        return replace(made, run=run)

    def answer(pixels: np.ndarray) -> np.ndarray:
        counts["asked"].append(len(pixels))
        return np.zeros((len(pixels), 3))

    def checked(*arguments: Any) -> float:
        counts["checked"].append(arguments[-1])
        return 1.0

    monkeypatch.setattr(Learner, "judge", judging)
    monkeypatch.setattr(materials, "make_extractor", making)
    monkeypatch.setattr(materials, "bfloat16_cosine", checked)
    tune = {**TUNE, "epochs": 1, "unfreeze_from": "block2_conv"}
    config = {"phases": [{**FROZEN, "epochs": 1}, tune, {**tune, "features": "live"}], "image_size": [448, 448]}
    path = make_run_folder(tmp_path / "run", {**config, "precision": "mixed"}, counts=LARGE, **settings)
    opened = open_run(path).run_phases()
    ask(opened.work, answer, "Asking")
    most = {"judged": 16, "extracted": 8, "checked": 4, "asked": 8}  # a quarter of those of 224 x 224
    if settings:
        most = dict.fromkeys(most, 1)
    assert {name: max(found) for name, found in counts.items()} == most


def test_early_stopping_ends_a_phase_that_no_longer_gets_better(tmp_path: Path) -> None:
    steady = {"name": "sgd", "learning_rate": 10.0}
    opened = _run(tmp_path / "run", {**FROZEN, "epochs": 40, "optimizer": steady, "early_stopping": {"patience": 2}})
    losses = [metrics["validation"]["loss"] for _, metrics in opened.curve]
    assert len(losses) < 40
    assert int(np.argmin(losses)) == len(losses) - 3


def test_the_best_epochs_weights_are_kept(tmp_path: Path) -> None:
    wild = {"name": "sgd", "learning_rate": 5.0}
    opened = _run(tmp_path / "run", {**FROZEN, "epochs": 8, "optimizer": wild})
    best = max((m["validation"]["accuracy"], -m["validation"]["loss"]) for _, m in opened.curve)
    kept = opened.ledger.state.results[0]["validation"]
    assert (kept["accuracy"], -kept["loss"]) == best


def test_the_last_epochs_weights_are_kept_when_wanted(tmp_path: Path) -> None:
    wild = {"name": "sgd", "learning_rate": 5.0}
    opened = _run(tmp_path / "run", {**FROZEN, "epochs": 8, "optimizer": wild, "keep": "last"})
    assert opened.ledger.state.results[0]["validation"] == opened.curve[-1][1]["validation"]


def test_a_class_missing_in_train_and_validation_is_no_obstacle(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run", {"phases": [FROZEN, {**FROZEN, "optimizer": {"name": "lbfgs"}}]})
    write_images(path, [row for row in read_images(path) if row["label"] != 1 or row["split"] == "test"])
    opened = open_run(path).run_phases()
    assert all(np.isfinite(metrics["train"]["loss"]) for _, metrics in opened.curve)


def test_a_sigmoid_head_trains(tmp_path: Path) -> None:
    path = make_run_folder(
        tmp_path / "run",
        {"phases": [{**FROZEN, "epochs": 20}], "head": {"binary": True}},
        class_names=("round", "square"),
    )
    assert open_run(path).run_phases().curve[-1][1]["train"]["accuracy"] > 0.8


@pytest.mark.parametrize("head", [{"pooling": "flatten", "hidden_units": [8]}, {"pooling": "max"}])
def test_every_head_trains_on_stored_features(tmp_path: Path, head: dict[str, Any]) -> None:
    assert len(_run(tmp_path / "run", FROZEN, TUNE, head=head).curve) == 4


def test_features_that_do_not_fit_the_cache_are_trained_live(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run", {"phases": [FROZEN, TUNE]}, cache_limit_bytes=20_000)
    opened = open_run(path).run_phases()
    assert len(opened.curve) == 4
    assert any("runs live" in event.get("message", "") for event in opened.events)


@pytest.mark.parametrize(("short", "live"), [(0, False), (1, True)])
def test_the_features_of_validation_count_under_the_cache_limit_too(tmp_path: Path, short: int, live: bool) -> None:
    opened = open_run(make_run_folder(tmp_path / "run", {"phases": [FROZEN]}))
    extractor = plain_pooled(opened.work)
    records = sum(len(opened.work.positions(split)) for split in ("train", "validation"))
    opened.work.store._limit = records * int(np.prod(extractor.shape)) * extractor.dtype.itemsize - short
    setup = make_setup(opened.work, opened.work.config.phases[0], 0)
    assert (setup.train_features is None) is live


def test_a_diverging_loss_is_a_sentence_about_the_learning_rate(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run", {"phases": [FROZEN]}))
    dense = opened.work.network.head.get_layer("head_dense")
    dense.kernel.assign(np.full(dense.kernel.shape, np.inf))
    with pytest.raises(ConfigInvalid, match=r"learning rate 0\.01"):
        opened.run_phases()


def test_a_validation_loss_that_is_no_number_is_that_sentence_and_nothing_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of training is summed before each step: what the epoch's last step breaks shows in validation first."""
    opened = open_run(make_run_folder(tmp_path / "run", {"phases": [FROZEN]}))
    dense = opened.work.network.head.get_layer("head_dense")
    real = Learner.train

    def broken_after(learner: Learner, *arguments: Any) -> Any:
        sums = real(learner, *arguments)
        dense.kernel.assign(np.full(dense.kernel.shape, np.inf))
        return sums

    monkeypatch.setattr(Learner, "train", broken_after)
    monkeypatch.setattr(phases, "_CALL_STEPS", 1000)  # all steps of an epoch in one call
    with pytest.raises(ConfigInvalid, match=r"validation loss is no longer a number in epoch 1.*learning rate 0\.01"):
        opened.run_phases()
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    assert not any(event["event"] == "epoch" for event in opened.events)


def test_features_that_are_no_numbers_are_a_sentence_about_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(make_run_folder(tmp_path / "run", {"phases": [{**FROZEN, "optimizer": {"name": "lbfgs"}}]}))
    real = logistic_phase._all_views

    def damaged(*arguments: Any) -> Any:
        features, *rest = real(*arguments)
        features[3, 0] = np.nan  # as the square root of a negative variance gives
        return features, *rest

    monkeypatch.setattr(logistic_phase, "_all_views", damaged)
    with pytest.raises(ConfigInvalid, match=r"features .* are no numbers"):
        opened.run_phases()


@pytest.mark.parametrize(("small", "many"), [(10**9, True), (10, False)])
def test_many_live_steps_in_one_call_are_for_small_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, many: bool
) -> None:
    monkeypatch.setattr(phases, "_SMALL_NETWORK", small)
    sizes = []
    real = Learner.train

    def watched(learner: Learner, batches: Any) -> Any:
        sizes.append(len(batches.labels))
        return real(learner, batches)

    monkeypatch.setattr(Learner, "train", watched)
    plain = {"horizontal_flip": False, "rotation_degrees": 0.0}
    _run(tmp_path / "run", {**TUNE, "features": "live"}, batch_size=8, augmentation=plain)
    assert (max(sizes) > 1) is many


@pytest.mark.parametrize("optimizer", [FAST, {"name": "lbfgs"}], ids=["adam", "lbfgs"])
def test_two_runs_give_the_same_head_bit_for_bit(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    phases = [{**FROZEN, "optimizer": optimizer}, {**TUNE, "views": 2, "ema_decay": 0.9}]
    one, two = (_run(tmp_path / name, *phases) for name in ("one", "two"))
    assert one.curve == two.curve
    for left, right in zip(_weights(one).values(), _weights(two).values(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("optimizer", "kept", "stop_after"),
    [(FAST, "cached", 1), (FAST, "cached", 3), (FAST, "live", 3), ({"name": "lbfgs"}, "cached", 1)],
)
def test_a_run_that_was_stopped_goes_on_with_the_same_curve(
    tmp_path: Path, optimizer: dict[str, Any], kept: str, stop_after: int
) -> None:
    tune = {**TUNE, "features": kept, "ema_decay": 0.9, "schedule": {"name": "cosine", "warmup_epochs": 1}}
    config = {"phases": [{**FROZEN, "optimizer": optimizer}, tune], "head": {"dropout": 0.3}}
    whole = open_run(make_run_folder(tmp_path / "whole", config)).run_phases()
    first = open_run(make_run_folder(tmp_path / "first", config))
    _cancel_after(first, stop_after)
    with pytest.raises(Cancelled):
        first.run_phases()
    shutil.copytree(tmp_path / "first" / "checkpoints", tmp_path / "kept")
    second = open_run(make_run_folder(tmp_path / "second", config, checkpoints=[str(tmp_path / "kept")]))
    assert second.ledger.resumed_from is not None
    second.run_phases()
    assert second.curve == whole.curve
    for left, right in zip(_weights(second).values(), _weights(whole).values(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("moment", ["lbfgs", "extraction"])
def test_a_run_that_was_stopped_where_nothing_is_saved_does_that_again_with_the_same_result(
    tmp_path: Path, moment: str
) -> None:
    phases = [FROZEN, {**FROZEN, "epochs": 6, "optimizer": {"name": "lbfgs"}}, {**TUNE, "views": 2}]
    whole = _run(tmp_path / "whole", *phases)
    first = open_run(make_run_folder(tmp_path / "first", {"phases": phases}, shared=tmp_path / "shared"))
    state, store, check = first.ledger.state, first.work.store, first.work.orders.check

    def checking() -> None:
        in_lbfgs = moment == "lbfgs" and (state.phase_index, state.phase_epoch) == (1, 2)
        # 24 and 9 plain ones were made in the phases before; the first 32 of 48 views are there, and on no disk
        in_extraction = moment == "extraction" and (state.phase_index, store.computed) == (2, 24 + 9 + 32)
        if in_lbfgs or in_extraction:
            raise Cancelled
        check()

    first.work.orders.check = checking  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        first.run_phases()
    kept = [str(tmp_path / "first" / "checkpoints")]
    second = open_run(
        make_run_folder(tmp_path / "second", {"phases": phases}, shared=tmp_path / "shared", checkpoints=kept)
    )
    assert len(second.ledger.state.results) == (1 if moment == "lbfgs" else 2)
    second.run_phases()
    assert second.curve == whole.curve
    for left, right in zip(_weights(second).values(), _weights(whole).values(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("kept", ["cached", "live"])
def test_phases_in_any_order_each_move_what_they_thaw_and_nothing_else(tmp_path: Path, kept: str) -> None:
    slow = {"name": "sgd", "learning_rate": 0.05}
    phases = [
        FROZEN,
        {**TUNE, "unfreeze_from": "block4_conv"},
        {**TUNE, "unfreeze_from": "block3_conv", "optimizer": slow},
        {**FROZEN, "epochs": 1},
    ]
    phases = [{**phase, "features": kept} for phase in phases]
    opened = open_run(make_run_folder(tmp_path / "run", {"phases": phases}))
    after = [_weights(opened)]
    opened.run_phases()
    assert opened.work.network.form == ("folded" if kept == "cached" else "plain")
    for index in range(len(phases)):
        opened.ledger.put_back(opened.work.network, index)
        after.append(_weights(opened))
    moved = [
        {name.partition("/")[2].split("_")[0] for name in old if not np.array_equal(old[name], new[name])}
        for old, new in itertools.pairwise(after)
    ]
    assert moved == [{"head"}, {"block4", "head"}, {"block3", "block4", "head"}, {"head"}]
    assert [event["phase_index"] for event in opened.events if event["event"] == "epoch"] == [0, 0, 1, 1, 2, 2, 3]
    # the last head learnt on features of the backbone as the phases before left it, not on those of the first phase
    work = opened.work
    pixels = work.pictures.batch(work.positions("validation")).astype(np.float32)
    answer = np.log(work.network.head(work.network.backbone(pixels)).numpy())
    loss = -np.mean(answer[np.arange(len(pixels)), work.labels("validation")])
    assert loss == pytest.approx(opened.ledger.state.results[-1]["validation"]["loss"], rel=1e-4)


def _cancel_after(opened: Opened, epochs: int) -> None:
    """Say cancel when the run wants to save the epoch after `epochs`: in the middle of it, for its listener."""
    save = opened.ledger.save
    count = 0

    def counting(*arguments: Any) -> None:
        nonlocal count
        if opened.ledger.state.phase_over:
            save(*arguments)
            return
        count += 1
        if count > epochs:
            raise Cancelled
        save(*arguments)

    opened.ledger.save = counting  # type: ignore[method-assign]


def test_after_an_out_of_memory_failure_the_run_goes_on_with_half_the_batch(tmp_path: Path) -> None:
    config = {"phases": [FROZEN, {**TUNE, "epochs": 3}]}
    first = open_run(make_run_folder(tmp_path / "first", config))
    _cancel_after(first, 3)
    with pytest.raises(Cancelled):
        first.run_phases()
    folder = make_run_folder(
        tmp_path / "second", config, batch_size=4, checkpoints=[str(tmp_path / "first/checkpoints")]
    )
    second = open_run(folder).run_phases()
    assert [epoch for epoch, _ in second.curve] == [1, 2, 3, 4, 5]
    assert second.curve[:3] == first.curve


def test_weights_of_both_phases_can_be_put_back(tmp_path: Path) -> None:
    opened = _run(tmp_path / "run", FROZEN, TUNE)
    tuned = _weights(opened)
    opened.ledger.put_back(opened.work.network, 0)
    frozen = _weights(opened)
    alone = _weights(_run(tmp_path / "alone", FROZEN))
    assert not all(np.array_equal(tuned[name], frozen[name]) for name in tuned)
    for left, right in zip(frozen.values(), alone.values(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_epochs_order_depends_on_its_key_alone() -> None:
    one, again, other = (plan_epoch(10, 4, None, key) for key in ([0, 0, 1], [0, 0, 1], [0, 0, 2]))
    places = _order(one)
    np.testing.assert_array_equal(places, _order(again))
    assert not np.array_equal(places, _order(other))
    assert sorted(places) == list(range(10))
    assert [call.which.shape for call in one.calls(8)] == [(2, 4), (1, 2)]


def _order(plan: EpochPlan, steps_per_call: int = 8) -> np.ndarray:
    return np.concatenate([call.which.reshape(-1) for call in plan.calls(steps_per_call)])


def test_more_steps_than_pictures_go_through_them_again() -> None:
    plan = plan_epoch(10, 4, 6, [0])
    assert plan.steps == 6
    for steps_per_call in (1, 2, 8):
        calls = list(plan.calls(steps_per_call))
        np.testing.assert_array_equal(_order(plan, steps_per_call), _order(plan))
        rounds = np.concatenate([call.rounds.reshape(-1) for call in calls])
        assert rounds.tolist() == [0] * 10 + [1] * 10 + [2] * 4
    assert np.bincount(_order(plan)).tolist().count(2) >= 4


def test_a_million_steps_are_not_drawn_before_the_first() -> None:
    plan = plan_epoch(10, 1024, 1_000_000, [0])
    assert plan.steps == 1_000_000
    assert next(plan.calls(1)).which.shape == (1, 1024)


def test_a_picture_that_comes_again_in_an_epoch_is_changed_anew_when_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books' generators draw anew each time."""
    seen: list[tuple[int, ...]] = []
    real = phases.picture_seeds

    def watched(*arguments: Any) -> np.ndarray:
        found = real(*arguments)
        seen.extend(map(tuple, found.tolist()))
        return found

    monkeypatch.setattr(phases, "picture_seeds", watched)
    _run(
        tmp_path / "run", {**TUNE, "features": "live", "steps_per_epoch": 9}, batch_size=8
    )  # 24 pictures, 3 times an epoch
    assert len(seen) == len(set(seen)) == 2 * 9 * 8


def test_balanced_weights_are_those_of_the_textbook() -> None:
    np.testing.assert_allclose(class_weights(np.array([0, 0, 0, 1]), 2, "balanced"), [4 / 6, 2.0])
    np.testing.assert_allclose(class_weights(np.array([0, 0, 1, 1]), 3, "balanced"), [1.0, 1.0, 0.0])
    np.testing.assert_allclose(class_weights(np.array([0, 1]), 2, "none"), [1.0, 1.0])


def test_lbfgs_takes_as_many_rows_as_memory_allows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic_phase, "_MOST_BYTES", 15 * 64 * 4)
    opened = _run(tmp_path / "run", {**FROZEN, "epochs": 4, "optimizer": {"name": "lbfgs"}})
    assert any("Of 24 feature rows 15 are used" in event.get("message", "") for event in opened.events)
    assert opened.curve[-1][1]["train"]["accuracy"] > 0.5


@pytest.mark.parametrize("kept", ["cached", "live"])
def test_a_batch_larger_than_the_split_is_one_step_of_all_its_pictures_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    steps: list[tuple[int, ...]] = []
    train = Learner.train

    def training(learner: Learner, batches: Any) -> Any:
        steps.append(batches.labels.shape)
        return train(learner, batches)

    monkeypatch.setattr(Learner, "train", training)
    opened = _run(tmp_path / "run", {**FROZEN, "features": kept}, {**TUNE, "features": kept}, batch_size=1024)
    assert steps == [(1, 24)] * 4
    said = "batch_size 1,024 is more than the 24 training pictures: one step of 24 an epoch."
    assert opened.log.count(said) == 2  # of either phase
    full = _run(tmp_path / "full", {**FROZEN, "features": kept}, batch_size=24)
    wished = _run(tmp_path / "wished", {**FROZEN, "features": kept, "steps_per_epoch": 1}, batch_size=30)
    assert not any("training pictures: one step" in line for line in (*full.log, *wished.log))
    assert steps[4:] == [(1, 24)] * 2 + [(1, 30)] * 2


def test_settings_that_lbfgs_does_not_use_are_named_in_the_log(tmp_path: Path) -> None:
    lbfgs = {"name": "lbfgs", "momentum": 0.9, "weight_decay": 0.1, "learning_rate": 0.5}
    schedule = {"name": "inverse_time", "decay_rate": 0.5, "warmup_epochs": 1}
    given = {**FROZEN, "optimizer": lbfgs, "schedule": schedule, "ema_decay": 0.9, "steps_per_epoch": 3}
    opened = _run(tmp_path / "run", given, head={"dropout": 0.5})
    (said,) = [line for line in opened.log if line.startswith("Logistic regression has no use for these settings")]
    named = ["steps_per_epoch", "ema_decay", "optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay"]
    named += ["schedule.name", "schedule.decay_rate", "schedule.warmup_epochs", "head.dropout"]
    assert said.partition(": ")[2] == ", ".join(named) + "."
    bare = _run(tmp_path / "bare", {**FROZEN, "optimizer": {"name": "lbfgs"}})
    assert bare.curve == opened.curve
    assert not any("no use for" in line for line in bare.log)


def test_the_second_of_two_devices_gives_the_same_curve_and_weights(tmp_path: Path) -> None:
    """Nothing in the trainer names a device: the GPU that a process sees is its first, whatever its number in the machine."""
    code = (
        "import sys, json, pathlib, tensorflow as tf; "
        "cpu = tf.config.list_physical_devices('CPU')[0]; "
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2); "
        "import hashlib; "
        "from tests.worker.training.workplaces import open_run; "
        "from worker.training.ledger import every_variable; "
        "scope = tf.device(sys.argv[1]); scope.__enter__(); "
        "opened = open_run(pathlib.Path(sys.argv[2])).run_phases(); "
        "where = {one.value.device[-5:] for one in opened.work.network.head.trainable_variables}; "
        "weights = [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in every_variable(opened.work.network)]; "
        "print(json.dumps([sorted(where), [metrics for _, metrics in opened.curve], weights]))"
    )
    found = []
    for number in (0, 1):
        path = make_run_folder(tmp_path / str(number), {"phases": [FROZEN, TUNE]})
        command = [sys.executable, "-c", code, f"CPU:{number}", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        found.append(json.loads(said.splitlines()[-1]))
    assert [where for where, _, _ in found] == [["CPU:0"], ["CPU:1"]]
    assert found[0][1:] == found[1][1:]
    assert len(set(found[0][2])) > 10, "no weights, no comparison"
