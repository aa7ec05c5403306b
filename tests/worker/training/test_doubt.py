"""What makes the exported graph say "I don't know": known pictures, thresholds, the temperature, the network that decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.training.run_folders import make_run_folder, read_images, write_images
from tests.worker.training.workplaces import Opened, open_run
from worker.training import doubt as doubts
from worker.training.doubt import (
    NEVER,
    Doubt,
    cross_validated,
    fit_directions,
    fit_limit,
    fit_thresholds,
    make_doubt,
    outside,
)
from worker.training.features import Features
from worker.training.statistics import softmax

FROZEN: dict[str, Any] = {"kind": "frozen", "epochs": 3, "optimizer": {"name": "lbfgs"}}
COUNTS = {"train": 20, "validation": 9, "test": 1}


def _known(train: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    mean, directions = fit_directions(train)
    return mean, directions, *fit_limit(outside(held, mean, directions))


def test_pictures_that_are_all_alike_get_a_score_that_rounding_does_not_move() -> None:
    random = np.random.default_rng(0)
    one = random.random(64)
    alike = (one + 1e-4 * random.random((60, 64))).astype(np.float32)
    mean, directions, limit, width = _known(alike[:40], alike[40:])
    left = outside(alike[40:], mean, directions)
    rounded = left + 1e-6  # float32 on another runtime
    scores = [1 / (1 + np.exp((lengths - limit) / width)) for lengths in (left, rounded)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


def test_a_picture_of_something_else_lies_outside() -> None:
    random = np.random.default_rng(0)
    kind, other = random.random((2, 64))
    own = (kind + 0.2 * random.random((80, 64))).astype(np.float32)
    mean, directions, limit, _ = _known(own[:50], own[50:])
    assert np.mean(outside(own[50:], mean, directions) < limit) > 0.9
    assert outside(np.stack([other, 0 * other]).astype(np.float32), mean, directions).min() > limit


def _answers(sure: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two-class answers for label 0 with these probabilities, and the labels."""
    first = np.array(sure)
    return np.stack([first, 1 - first], axis=1), np.where(right, 0, 1)


def test_a_threshold_is_the_lowest_probability_from_which_answers_are_right_often_enough() -> None:
    sure = [0.9] * 10 + [0.8] * 10 + [0.7] * 10
    right = [True] * 10 + [True] * 9 + [False] + [True] * 5 + [False] * 5
    thresholds, own = fit_thresholds(*_answers(sure, right), np.zeros(2, int))
    assert (thresholds.tolist(), own) == ([np.float32(0.8)] * 2, ())


def test_equal_probabilities_are_counted_together() -> None:
    # 40 answers at .8, of which the first 20 in the list happen to be right
    sure, right = [0.9] * 5 + [0.8] * 40, [True] * 25 + [False] * 20
    probabilities, labels = _answers(sure, right)
    thresholds, _ = fit_thresholds(probabilities, labels, np.zeros(2, int))
    assert thresholds[0] == np.float32(0.9)
    here = probabilities.max(axis=1).astype(np.float32) >= thresholds[0]
    assert np.mean(labels[here] == 0) >= 0.95


def test_probabilities_that_float32_cannot_tell_apart_are_equal() -> None:
    sure, right = [1 - 1e-12] * 20 + [1 - 1e-10] * 20, [True] * 20 + [False] * 20
    assert fit_thresholds(*_answers(sure, right), np.zeros(2, int))[0][0] == NEVER


def test_answers_below_one_half_do_not_lift_those_above() -> None:
    probabilities = np.array([[0.6, 0.2, 0.2]] * 10 + [[0.4, 0.3, 0.3]] * 100)
    labels = np.array([1] * 2 + [0] * 108)
    assert fit_thresholds(probabilities, labels, np.zeros(3, int))[0].tolist() == [NEVER] * 3


def test_where_nothing_is_right_often_enough_no_answer_is_confident() -> None:
    thresholds, own = fit_thresholds(*_answers([1.0] * 40, [True, False] * 20), np.array([30, 0]))
    assert own == (0,)
    assert (thresholds > 1.0).all()
    told = Doubt(1.0, 40, 0, thresholds, own, np.zeros(1), np.zeros((1, 1)), 1.0, 1.0).as_json(["a", "b"])
    assert told["thresholds"] == {"a": None, "b": None}


def _trained(path: Path, **config: Any) -> Opened:
    return open_run(make_run_folder(path, {"phases": [FROZEN], **config}, counts=COUNTS)).run_phases()


def _doubt(opened: Opened) -> Doubt:
    return make_doubt(opened.work, opened.ledger, 0, 0)


def test_few_validation_pictures_are_helped_by_cross_validation_of_a_head_of_one_layer(tmp_path: Path) -> None:
    found = _doubt(_trained(tmp_path / "run"))
    assert (found.fitted_on, found.cross_validated) == (27 + 60, 60)
    assert "from 27 validation pictures and 60 training pictures in cross-validation" in found.calibration_text()
    assert found.as_json(["a", "b", "c"])["temperature_cross_validated"] == 60


@pytest.mark.parametrize("head", [{"hidden_units": [8]}, {"pooling": "flatten"}])
def test_another_head_than_cross_validation_has_is_judged_by_validation_alone(
    tmp_path: Path, head: dict[str, Any]
) -> None:
    adam = {**FROZEN, "optimizer": {"name": "adam"}}
    found = _doubt(_trained(tmp_path / "run", head=head, phases=[adam]))
    assert (found.fitted_on, found.cross_validated) == (27, 0)
    assert "as trained (27 held-out pictures are too few" in found.calibration_text()


def test_pictures_of_one_group_are_no_cross_validation(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run", {"phases": [FROZEN]}, counts=COUNTS)
    rows = read_images(path)
    write_images(path, [{**row, "group": "one" if row["split"] == "train" else None} for row in rows])
    assert _doubt(open_run(path).run_phases()).cross_validated == 0


def test_cross_validation_weighs_classes_as_the_run_does(tmp_path: Path) -> None:
    rare = []
    for kind in ("none", "balanced"):
        path = make_run_folder(tmp_path / kind, {"class_weights": kind}, counts={**COUNTS, "train": 12})
        few = {f"image-0-{number}" for number in range(5, 12)}
        write_images(path, [row for row in read_images(path) if row["image_id"] not in few])
        work = open_run(path).work
        positions = work.positions("train")
        labels = work.labels("train")
        features = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32)
        logits = cross_validated(work, positions, features, 0.1)
        assert logits is not None
        rare.append(softmax(logits)[:, 0].mean())
    assert np.bincount(labels).tolist() == [5, 12, 12]
    assert rare[0] < 0.25 < rare[1]  # a sixth of the pictures, and a third of the weight


def test_a_run_gone_on_with_after_its_logistic_phase_has_the_same_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _trained(tmp_path / "whole")
    expected = _doubt(whole)
    again = open_run(
        make_run_folder(
            tmp_path / "again",
            {"phases": [FROZEN]},
            counts=COUNTS,
            checkpoints=[str(tmp_path / "whole" / "checkpoints")],
        )
    ).run_phases()
    assert again.ledger.resumed_from is not None
    assert again.ledger.state.strength == whole.ledger.state.strength is not None
    monkeypatch.setattr(doubts, "choose_strength", None)  # the phase's own is there: none is chosen
    found = _doubt(again)
    assert found.temperature == expected.temperature
    np.testing.assert_array_equal(found.thresholds, expected.thresholds)


def test_features_are_looked_at_in_parts_whatever_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = _trained(tmp_path / "run")
    expected = _doubt(opened)
    gather, most = Features.gather, []

    def heard(self: Features, places: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        most.append(len(places))
        return gather(self, places, views)

    monkeypatch.setattr(Features, "gather", heard)
    monkeypatch.setattr(doubts, "_BATCH", 8)
    found = _doubt(opened)
    assert max(most) == 8
    assert (found.temperature, found.limit) == pytest.approx((expected.temperature, expected.limit), rel=1e-4)
