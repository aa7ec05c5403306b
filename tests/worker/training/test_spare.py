from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.training_config import TrainingConfig, parse_config
from tests.worker.training.run_folders import TINY, make_run_folder
from worker.training import spare
from worker.training.network import Network, Start, build_network
from worker.training.spare import Ready


def _config(**changes: Any) -> TrainingConfig:
    return parse_config({**TINY, **changes})


def _weights(network: Network) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in (*network.backbone.weights, *network.head.weights)]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[TrainingConfig]:
    """Every config that a network was built for."""
    configs = []

    def build(config: TrainingConfig, n_classes: int, start: Start | None = None) -> Network:
        configs.append(config)
        return build_network(config, n_classes, start)

    monkeypatch.setattr(spare, "build_network", build)
    # this process has run TensorFlow: nobody may change its threads any more, and they are not what is tested here
    monkeypatch.setattr(spare, "prepare_tensorflow", lambda threads: None)  # noqa: ARG005
    return configs


def test_the_network_of_the_run_before_is_ready_and_equals_a_new_one_bit_for_bit(
    tmp_path: Path, built: list[TrainingConfig]
) -> None:
    ready = Ready()
    ready.make(make_run_folder(tmp_path / "before"), 2)
    wanted = _config(head={"dropout": 0.5}, batch_size=4)
    taken = ready.take(wanted, 7)
    assert len(built) == 1
    for one, other in zip(_weights(taken), _weights(build_network(wanted, 7)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change",
    [{"image_size": [16, 20]}, {"seed": 1}, {"phases": [{"kind": "frozen", "epochs": 1, "features": "live"}]}],
)
def test_a_run_with_another_backbone_gets_its_own(
    tmp_path: Path, built: list[TrainingConfig], change: dict[str, Any]
) -> None:
    ready = Ready()
    ready.make(make_run_folder(tmp_path / "before"), 2)
    ready.take(_config(**change), 3)
    assert built[1:] == [_config(**change)]


def test_a_run_that_has_gone_is_no_reason_to_fail(tmp_path: Path, built: list[TrainingConfig]) -> None:
    Ready().make(tmp_path / "gone", 2)
    assert built == [TrainingConfig()]
