"""A run starts from weights of one's own: an earlier model's backbone, or a file; what it starts from stays as it is."""

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from core.errors import WeightsUnavailable
from core.training_config import TrainingConfig, parse_config
from tests.worker.training.keras_networks import assert_same_weights, random_application, write_old_file
from tests.worker.training.run_folders import TINY, make_run_folder
from tests.worker.training.workplaces import open_run
from tests.worker.weights.test_arrays import keras_3_file
from worker.training.applications import APPLICATIONS
from worker.training.ledger import every_variable
from worker.training.network import Network, Start, build_network
from worker.training.start import named_variables
from worker.weights.checker import check

CACHED: list[dict[str, Any]] = [
    {"kind": "frozen", "epochs": 1},
    {"kind": "fine_tune", "epochs": 1, "unfreeze_from": "block3_conv", "optimizer": {"learning_rate": 0.05}},
]
LIVE = [{**phase, "features": "live"} for phase in CACHED]


def _config(phases: list[dict[str, Any]], **changes: Any) -> TrainingConfig:
    return parse_config({**TINY, "weights": {"model_id": "a"}, "phases": phases, **changes})


def _model(folder: Path, phases: list[dict[str, Any]], **changes: Any) -> tuple[Network, Path]:
    """Model A, trained in both phases, and its file as a run leaves it."""
    opened = open_run(make_run_folder(folder / "a", {"phases": phases, **changes})).run_phases()
    arrays = {f"{number:05d}": one.numpy() for number, one in enumerate(every_variable(opened.work.network))}
    np.savez(folder / "a.npz", allow_pickle=False, **arrays)
    return opened.work.network, folder / "a.npz"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("then", [CACHED, LIVE], ids=["then cached", "then live"])
@pytest.mark.parametrize("first", [CACHED, LIVE], ids=["folded", "plain"])
def test_the_backbone_of_a_fine_tuned_model_is_copied_and_the_model_stays_as_it_was(
    tmp_path: Path, first: list[dict[str, Any]], then: list[dict[str, Any]]
) -> None:
    a, file = _model(tmp_path, first)
    before, said = _hash(file), [variable.numpy().copy() for variable in every_variable(a)]
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    answers = np.asarray(a.head(a.backbone(pixels)))
    b = build_network(_config(then, seed=7), 2, Start(file))
    np.testing.assert_allclose(b.backbone(pixels), a.backbone(pixels), rtol=1e-4, atol=1e-4)
    assert b.form == ("folded" if a.form == "folded" or then is CACHED else "plain")
    start = {"file": str(file), "cut_layer": None}
    config = {"phases": then, "weights": {"model_id": "a"}, "seed": 7}
    trained = open_run(make_run_folder(tmp_path / "b", config, start=start)).run_phases()
    assert not np.array_equal(trained.work.network.head.get_weights()[0], a.head.get_weights()[0])
    assert _hash(file) == before
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(said, every_variable(a), strict=True))
    assert np.array_equal(np.asarray(a.head(a.backbone(pixels))), answers)


def test_a_copied_backbone_is_bit_equal_in_its_own_form(tmp_path: Path) -> None:
    for phases in (CACHED, LIVE):
        folder = tmp_path / str(phases is LIVE)
        folder.mkdir()
        a, file = _model(folder, phases)
        b = build_network(_config(phases), 2, Start(file))
        for name, variable in named_variables(b.backbone).items():
            assert np.array_equal(variable.numpy(), named_variables(a.backbone)[name].numpy()), name


def test_the_backbone_of_a_cut_model_is_copied_up_to_its_cut(tmp_path: Path) -> None:
    a, file = _model(tmp_path, [{"kind": "frozen", "epochs": 1}], cut_layer="block3_add")
    b = build_network(_config([{"kind": "frozen"}], cut_layer="block2_relu"), 2, Start(file, "block3_add"))
    kernels = [one.backbone.get_layer("block1_conv").get_weights()[0] for one in (a, b)]
    assert np.array_equal(*kernels)
    assert b.backbone.layers[-1].name == "block2_relu"
    with pytest.raises(WeightsUnavailable, match="arrays are missing"):
        build_network(_config([{"kind": "frozen"}]), 2, Start(file, "block3_add"))


def test_uploaded_weights_arrive_bit_equal(tmp_path: Path) -> None:
    source = keras_3_file(tmp_path / "a.weights.h5")
    question = {"source": str(source), "target": str(tmp_path / "a.npz"), "backbone": "tiny_cnn", "most_bytes": 10**8}
    assert check(question)["matched"] == 25
    b = build_network(_config(LIVE), 3, Start(tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as arrays:
        for name, variable in named_variables(b.backbone).items():
            assert np.array_equal(variable.numpy(), arrays[f"plain:{name}"])


def test_files_of_another_network_or_none_are_refused_with_a_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **{"00000": np.zeros((3, 3), np.float32)})
    for name, sentence in (("other.npz", "not those of tiny_cnn, not cut"), ("none.npz", "cannot be read")):
        with pytest.raises(WeightsUnavailable, match=sentence):
            build_network(_config(CACHED), 2, Start(tmp_path / name))


ENDINGS = (".weights.h5", ".keras", ".h5")


def _own_file_of_keras(folder: Path, backbone_id: str, ending: str) -> tuple[keras.Model, Path]:
    """Keras' own network without its top, every weight a number of its own, and the file that Keras writes of it."""
    source = random_application(backbone_id)
    path = folder / f"a{ending}"
    (source.save_weights if ending == ".weights.h5" else source.save)(path)
    return source, path


def _assert_started_from(source: keras.Model, path: Path, backbone_id: str) -> dict[str, Any]:
    """A backbone that starts from the file has every weight in its place; what the check says of the file."""
    target = path.with_name("checked.npz")
    report = check({"source": str(path), "target": str(target), "backbone": backbone_id, "most_bytes": 10**9})
    assert "error" not in report, report
    config = parse_config(
        {"backbone": backbone_id, "image_size": source.input_shape[1:3], "weights": {"weights_id": "x"}}
    )
    live = config.model_copy(update={"phases": (config.phases[0].model_copy(update={"features": "live"}),)})
    network = build_network(live, 2, Start(target))
    assert_same_weights(source, network.backbone)
    return report


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("backbone_id", sorted(APPLICATIONS))
def test_keras_own_files_without_top_load_bit_equal(tmp_path: Path, backbone_id: str, ending: str) -> None:
    _assert_started_from(*_own_file_of_keras(tmp_path, backbone_id, ending), backbone_id)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("backbone_id", "way"), [("vgg16", "name"), ("xception", "order")])
def test_files_with_the_names_of_keras_1_load_bit_equal(tmp_path: Path, backbone_id: str, way: str) -> None:
    keras.backend.clear_session()  # automatic names begin anew, as in the process that wrote the file
    source = random_application(backbone_id)
    write_old_file(tmp_path / "a.h5", source)
    assert _assert_started_from(source, tmp_path / "a.h5", backbone_id)["way"] == way
