from typing import Any

import pytest

from worker.training.evaluate import choose


def _result(phase: str, accuracy: float, loss: float, index: int = 0) -> dict[str, Any]:
    return {"phase": phase, "phase_index": index, "validation": {"accuracy": accuracy, "loss": loss}}


@pytest.mark.parametrize(
    ("tuned", "winner"),
    [
        ((0.91, 9.0), "fine_tune"),
        ((0.90, 0.4), "fine_tune"),
        ((0.90, 0.5), "frozen"),
        ((0.90, 0.6), "frozen"),
        ((0.8, 0.1), "frozen"),
    ],
)
def test_the_fine_tuned_network_wins_only_by_accuracy_or_at_a_tie_by_loss(
    tuned: tuple[float, float], winner: str
) -> None:
    results = [_result("frozen", 0.90, 0.5), _result("fine_tune", *tuned, index=1)]
    assert choose(results, "validation")["phase"] == winner


@pytest.mark.parametrize(
    ("tuned", "winner"), [((0.8, 0.4), "fine_tune"), ((0.95, 0.5), "frozen"), ((0.95, 0.6), "frozen")]
)
def test_by_loss_the_lower_loss_wins_whatever_the_accuracy(tuned: tuple[float, float], winner: str) -> None:
    results = [_result("frozen", 0.90, 0.5), _result("fine_tune", *tuned, index=1)]
    assert choose(results, "validation_loss")["phase"] == winner


def test_select_last_takes_the_last_phase_whatever_validation_says() -> None:
    results = [_result("frozen", 0.9, 0.5), _result("fine_tune", 0.1, 5.0, 1)]
    assert choose(results, "last")["phase"] == "fine_tune"


def test_only_the_last_phase_of_a_kind_is_compared() -> None:
    results = [_result("frozen", 0.99, 0.1), _result("frozen", 0.5, 1.0, 1), _result("fine_tune", 0.6, 1.0, 2)]
    assert choose(results, "validation")["phase_index"] == 2
