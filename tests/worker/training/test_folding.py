"""The folded form is the same function under the same names."""

import keras
import numpy as np
import pytest

from worker.training.backbones import build_backbone
from worker.training.folding import fold, folded_into, form_of

SIZES = {"tiny_cnn": (16, 16), "efficientnet_lite0": (64, 64), "mobilenet_v2": (32, 32), "xception": (71, 71)}


def with_random_statistics(model: keras.Model) -> keras.Model:
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            arrays = random.uniform(0.5, 1.5, size), random.normal(0, 0.2, size), random.normal(0, 0.2, size)
            layer.set_weights([*arrays, random.uniform(0.5, 2.0, size)])
    return model


def pictures(image_size: tuple[int, int], count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (count, *image_size, 3)).astype("float32")


@pytest.mark.parametrize("backbone_id", sorted(SIZES))
def test_folding_keeps_the_function(backbone_id: str) -> None:
    size = SIZES[backbone_id]
    plain = with_random_statistics(build_backbone(backbone_id, image_size=size, weights="none", seed=0))
    expected, found = np.asarray(plain(pictures(size))), np.asarray(fold(plain)(pictures(size)))
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def test_folding_keeps_the_function_with_the_real_weights() -> None:
    plain = build_backbone("efficientnet_lite0", image_size=(96, 96), weights="imagenet", seed=0)
    expected, found = np.asarray(plain(pictures((96, 96)))), np.asarray(fold(plain)(pictures((96, 96))))
    assert np.abs(found - expected).max() <= 1e-4
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("backbone_id", sorted(SIZES))
def test_no_batchnorm_is_left_and_every_other_name_stays(backbone_id: str) -> None:
    plain = build_backbone(backbone_id, image_size=SIZES[backbone_id], weights="none", seed=0)
    norms = {layer.name for layer in plain.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert form_of(plain) == "folded"
    assert set(folded_into(plain)) == norms
    assert {layer.name for layer in fold(plain).layers} == {layer.name for layer in plain.layers} - norms


def test_the_folded_form_has_weights_of_its_own() -> None:
    plain = build_backbone("tiny_cnn", image_size=(16, 16), weights="none", seed=0)
    before = plain.get_layer("block1_conv").get_weights()[0].copy()
    fold(plain).get_layer("block1_conv").set_weights([before * 0, np.zeros(16)])
    assert np.array_equal(plain.get_layer("block1_conv").get_weights()[0], before)


def test_a_batchnorm_without_a_linear_layer_before_it_stays() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, activation="relu", name="bent")(x)
    model = keras.Model(x, keras.layers.BatchNormalization(name="alone")(y))
    assert folded_into(model) == {}
    assert form_of(model) == "plain"
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    np.testing.assert_allclose(fold(model)(data), model(data, training=False), atol=1e-6)


def test_a_convolution_that_feeds_two_layers_keeps_its_output() -> None:
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(3, 3, padding="same", name="shared")(x)
    model = keras.Model(x, keras.layers.Add()([keras.layers.BatchNormalization(name="norm")(y), y]))
    assert folded_into(model) == {}


def test_a_dense_layer_with_a_bias_takes_its_batchnorm_up() -> None:
    x = keras.Input((5,))
    y = keras.layers.Dense(4, bias_initializer="random_normal", name="dense")(x)
    model = with_random_statistics(keras.Model(x, keras.layers.BatchNormalization(name="norm")(y)))
    data = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    np.testing.assert_allclose(fold(model)(data), model(data, training=False), atol=1e-5)
    assert folded_into(model) == {"norm": "dense"}
