"""The textbooks' recipes: the networks have the parameter counts that the books print, and each runs on small data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.presets import PRESETS
from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.workplaces import open_run
from worker.training.ledger import every_variable
from worker.training.network import build_network, layer_summary, set_trainable

# recipe -> classes, and (learning, fixed) parameters of each phase
COUNTS: dict[str, tuple[int, list[tuple[int, int]]]] = {
    # the guide prints 2,049 and 20,861,480; then 20,809,001 and 54,528
    "keras-guide": (2, [(2_049, 20_861_480), (20_809_001, 54_528)]),
    # 2,048 x 5 + 5; then everything but the statistics
    "hands-on-ml-flowers": (5, [(10_245, 20_861_480), (20_817_197, 54_528)]),
    # Total 47,512,481, trainable 38,537,217
    "inception-mixed7": (2, [(38_537_217, 8_975_264)]),
    # convolutional base 14,714,688, dense 2,097,408 + 257; then block5_conv2 and block5_conv3 (2,359,808 each) learn too
    "vgg16-block5": (2, [(2_097_665, 14_714_688), (6_817_281, 9_995_072)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(COUNTS))
def test_parameter_counts_are_those_the_textbook_prints(recipe: str) -> None:
    classes, expected = COUNTS[recipe]
    config = PRESETS[recipe].config.model_copy(update={"weights": "none"})
    network = build_network(config, classes)
    found = []
    for index, phase in enumerate(config.phases):
        set_trainable(network, phase)
        summary = layer_summary(network, phase, index)
        found.append((summary["trainable_parameters"], summary["non_trainable_parameters"]))
    assert found == expected
    assert network.form == "plain"


def _short(recipe: str, **changes: Any) -> dict[str, Any]:
    """The recipe's config with one epoch of at most two steps a phase, on small pictures and random weights."""
    config = PRESETS[recipe].config.model_dump(mode="json")
    phases = [{**phase, "epochs": 1, "steps_per_epoch": 2} for phase in config["phases"]]
    return {**config, "phases": phases, "weights": "none", "batch_size": 4, **changes}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "side"),
    [("keras-guide", 75), ("hands-on-ml-flowers", 75), ("inception-mixed7", 79), ("vgg16-block5", 48)],
)
def test_it_runs_on_small_data(tmp_path: Path, recipe: str, side: int) -> None:
    binary = PRESETS[recipe].config.head.binary
    names = ("red round", "green square") if binary else ("red round", "green square", "blue cross")
    config = _short(recipe, image_size=[side, side])
    opened = open_run(make_run_folder(tmp_path / "run", config, class_names=names)).run_phases()
    assert len(opened.curve) == len(config["phases"])
    assert opened.work.network.head.output.shape[-1] == (1 if binary else 3)


def test_reuse_runs_from_a_model_of_ones_own_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    names = ("red round", "green square")
    scratch = {"kind": "fine_tune", "epochs": 1, "features": "live"}
    settings = {"image_size": [28, 28], "phases": [scratch]}
    a = open_run(make_run_folder(tmp_path / "a", settings)).run_phases()
    arrays = {f"{number:05d}": one.numpy() for number, one in enumerate(every_variable(a.work.network))}
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays)
    before = (tmp_path / "a.npz").read_bytes()
    config = _short("hands-on-ml-reuse", weights={"model_id": "a"})
    start = {"file": str(tmp_path / "a.npz"), "cut_layer": None}
    b = open_run(make_run_folder(tmp_path / "b", config, class_names=names, start=start))
    first = b.work.network.backbone.get_weights()
    assert all(np.array_equal(x, y) for x, y in zip(first, a.work.network.backbone.get_weights(), strict=True))
    b.run_phases()
    assert [event["phase"] for event in b.events if event["event"] == "epoch"] == ["frozen", "fine_tune"]
    assert (tmp_path / "a.npz").read_bytes() == before
    after = {f"{number:05d}": one.numpy() for number, one in enumerate(every_variable(a.work.network))}
    assert all(np.array_equal(arrays[name], after[name]) for name in arrays)
