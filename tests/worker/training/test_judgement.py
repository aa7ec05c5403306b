import numpy as np
import pytest

from worker.training.judgement import Judged, evaluation


def _sure(labels: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[labels] * 0.97 + 0.01


def test_scores_are_counted_from_the_answers() -> None:
    labels = {"test": np.array([0, 0, 1, 1]), "validation": np.array([0, 1])}
    judged = {"frozen": Judged(_sure([0, 1, 1, 1]), _sure([0, 1]))}
    found = evaluation(judged, labels, ["a", "b", "never seen"], "frozen")
    frozen = found["phases"]["frozen"]
    assert found["comparison"] is None
    assert found["split"] == "test"
    assert frozen["accuracy"] == 0.75
    assert frozen["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert frozen["confusion_matrix"] == {
        "class_names": ["a", "b", "never seen"],
        "counts": [[1, 1, 0], [0, 2, 0], [0, 0, 0]],
    }
    assert frozen["per_class"][0] == {
        "class_name": "a",
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
        "roc_auc": pytest.approx(3 / 4),
        "average_precision": pytest.approx((1 + 2 / 4) / 2),
    }
    assert frozen["per_class"][2]["support"] == 0
    assert frozen["per_class"][2]["roc_auc"] is None
    assert frozen["macro_f1"] == frozen["weighted_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert [one["k"] for one in frozen["top_k"]] == [2]
    assert frozen["top_k"][0]["accuracy"] == 1.0
    assert frozen["interval_method"] == "wilson"
    assert [one["class_name"] for one in frozen["curves"]] == ["a", "b"]
    assert frozen["loss"] == pytest.approx(-(3 * np.log(0.98) + np.log(0.01)) / 4, rel=1e-5)
    assert frozen["calibration"]["temperature"] is None
    assert frozen["validation"]["accuracy"] == 1.0


def test_both_kinds_are_compared_on_the_same_pictures() -> None:
    labels = {"test": np.zeros(4, int), "validation": np.zeros(2, int)}
    judged = {
        "frozen": Judged(_sure([0, 1, 1, 0]), _sure([0, 0])),
        "fine_tune": Judged(_sure([0, 0, 0, 1]), _sure([0, 0])),
    }
    comparison = evaluation(judged, labels, ["a", "b", "c"], "frozen")["comparison"]
    assert (comparison["gained"], comparison["lost"]) == (2, 1)
    assert comparison["p_value"] == 1.0
    low, high = comparison["difference_interval"]
    assert low < comparison["difference"] == 0.25 < high


def test_groups_make_the_interval_a_cluster_bootstrap() -> None:
    labels = {"test": np.zeros(8, int), "validation": np.zeros(2, int)}
    judged = {"frozen": Judged(_sure([0, 0, 0, 0, 0, 0, 1, 1]), _sure([0, 0]))}
    found = evaluation(judged, labels, ["a", "b", "c"], "frozen", np.repeat(np.arange(4), 2))["phases"]["frozen"]
    assert found["interval_method"] == "cluster_bootstrap"
    assert found["groups"] == 4
    assert found["accuracy"] == 0.75


def test_answers_that_have_their_temperature_inside_are_not_scaled_again() -> None:
    labels = {"test": np.array([0, 1]), "validation": np.zeros(60, int)}
    judged = {"frozen": Judged(_sure([0, 1]), _sure([0] * 60), temperature=2.0)}
    found = evaluation(judged, labels, ["a", "b", "c"], "frozen")["phases"]["frozen"]["calibration"]
    assert found["temperature"] == 2.0
    assert found["ece"] == found["after"]["ece"] == pytest.approx(0.02)
    assert found["before"]["loss"] < found["after"]["loss"]
