from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from core.training_config import Augmentation
from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.workplaces import Opened, open_run
from worker.training.features import Extractor, make_extractor, row_keys, weights_hash
from worker.training.materials import plain_pooled, pooled
from worker.training.precision import bfloat16_cosine, in_bfloat16
from worker.training.segments import PICTURE

FLOAT = np.dtype(np.float32)


def _extractor(opened: Opened, augmentation: Augmentation | None = None) -> Extractor:
    return make_extractor(opened.work.network.backbone, "backbone", augmentation, FLOAT)


def _features(opened: Opened, extractor: Extractor, views: int = 1) -> tuple[np.ndarray, int]:
    """(features of every train picture and view, how many had to be computed)."""
    counted = 0

    def say(done: int, _: int) -> None:
        nonlocal counted
        counted = done

    positions = opened.work.positions("train")
    found = opened.work.store.features(extractor, positions, views, say)
    opened.work.store.finish()
    places, turns = np.repeat(np.arange(len(positions)), views), np.tile(np.arange(views), len(positions))
    return found.gather(places, turns), counted


def test_stored_features_are_what_the_backbone_gives(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run"))
    stored, _ = _features(opened, _extractor(opened))
    pixels = opened.work.pictures.batch(opened.work.positions("train")).astype(np.float32)
    np.testing.assert_allclose(stored, opened.work.network.backbone(pixels).numpy(), atol=1e-5)


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    first = open_run(make_run_folder(tmp_path / "one", shared=tmp_path))
    stored, computed = _features(first, _extractor(first))
    assert computed == 24
    second = open_run(make_run_folder(tmp_path / "two", {"batch_size": 4}, shared=tmp_path))
    again, computed = _features(second, _extractor(second))
    assert computed == 0
    np.testing.assert_array_equal(again, stored)


@pytest.mark.parametrize("change", ["weights", "size", "augmentation"])
def test_what_would_give_other_numbers_is_not_found(tmp_path: Path, change: str) -> None:
    first = open_run(make_run_folder(tmp_path / "one", shared=tmp_path))
    _features(first, _extractor(first))
    config: dict[str, Any] = {"weights": {"seed": 5}, "size": {"image_size": [16, 20]}}.get(change, {})
    second = open_run(make_run_folder(tmp_path / "two", config, shared=tmp_path))
    augmentation = Augmentation() if change == "augmentation" else None
    assert _features(second, _extractor(second, augmentation))[1] == 24


@pytest.mark.parametrize("pooling", ["max", "flatten"])
def test_features_of_another_pooling_are_not_found(tmp_path: Path, pooling: str) -> None:
    first = open_run(make_run_folder(tmp_path / "one", shared=tmp_path))
    stored, _ = _features(first, plain_pooled(first.work))
    second = open_run(make_run_folder(tmp_path / "two", {"head": {"pooling": pooling}}, shared=tmp_path))
    other, computed = _features(second, plain_pooled(second.work))
    assert weights_hash(second.work.network.backbone) == weights_hash(first.work.network.backbone)
    assert computed == 24
    assert other.shape != stored.shape or np.abs(other - stored).max() > 0.01


def test_features_are_found_whatever_networks_the_process_built_before() -> None:
    """Keras numbers a layer scale, which has no name, through the process."""

    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.gamma

    def hashed() -> str:
        pictures = keras.Input((4, 4, 3))
        return weights_hash(keras.Model(pictures, Scale(name="scale")(pictures)))

    first = hashed()
    keras.Variable(0.0)  # moves the numbers on
    assert hashed() == first


def _ends(opened: Opened) -> list[keras.Model]:
    """Parts with the same weights that end before and after a layer without any, as VGG16 has it: each plain and pooled."""
    pictures = keras.Input((16, 16, 3))
    conv = keras.layers.Conv2D(8, 3, padding="same", name="block5_conv3")(pictures)
    pool = keras.layers.MaxPooling2D(name="block5_pool")(conv)
    plain = [keras.Model(pictures, end) for end in (conv, pool)]
    return [*plain, *(pooled(opened.work.network, one) for one in plain)]


def test_features_of_a_cut_after_a_layer_without_weights_are_not_those_before_it(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run"))
    ends = _ends(opened)
    assert len({weights_hash(one) for one in ends}) == 1
    stored = [_features(opened, make_extractor(one, "vgg16/plain", None, FLOAT)) for one in ends]
    assert [computed for _, computed in stored] == [24] * 4
    assert np.abs(stored[2][0] - stored[3][0]).max() > 0.01


def test_bfloat16_is_compared_for_each_end_by_itself(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run"))
    pixels = opened.work.pictures.batch(np.arange(2))
    ends = _ends(opened)
    for one in [
        *ends,
        keras.Model(ends[0].input, keras.layers.GlobalMaxPooling2D(name="head_pooling")(ends[0].output)),
    ]:
        fast = make_extractor(one, "vgg16/plain", None, np.dtype(np.float32), answer=in_bfloat16(one))
        bfloat16_cosine(one, "vgg16/plain", fast, lambda: pixels, {}, tmp_path / "memory")
    assert len(list((tmp_path / "memory").iterdir())) == 5


def test_views_differ_and_do_not_depend_on_what_was_stored_before(tmp_path: Path) -> None:
    one = open_run(make_run_folder(tmp_path / "one"))
    three_views, _ = _features(one, _extractor(one, Augmentation()), views=3)
    by_view = three_views.reshape(24, 3, -1)
    assert (np.abs(by_view[:, 0] - by_view[:, 1]).max(axis=1) > 1e-3).all()
    two = open_run(make_run_folder(tmp_path / "two"))
    _features(two, _extractor(two, Augmentation()), views=2)
    again, computed = _features(two, _extractor(two, Augmentation()), views=3)
    assert computed == 24  # only the third view was new
    np.testing.assert_allclose(again, three_views, atol=1e-5)


def test_keys_of_plain_pictures_are_their_own_and_views_have_one_each() -> None:
    digests = np.arange(64, dtype=np.uint8).reshape(2, 32)
    np.testing.assert_array_equal(row_keys(digests, 1, None), digests)
    views = row_keys(digests, 3, seed=0)
    assert len(np.unique(views, axis=0)) == 6
    assert not (row_keys(digests, 3, seed=1) == views).all(axis=1).any()
    np.testing.assert_array_equal(views[:, PICTURE], np.repeat(digests, 3, axis=0)[:, PICTURE])


def test_features_of_bfloat16_are_not_taken_for_those_of_float32(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run"))
    backbone = opened.work.network.backbone
    _features(opened, _extractor(opened))
    fast = make_extractor(backbone, "backbone", None, FLOAT, compute="bfloat16", answer=in_bfloat16(backbone))
    assert _features(opened, fast)[1] == 24


def test_where_every_feature_is_stored_the_frozen_part_is_not_even_traced(tmp_path: Path) -> None:
    opened = open_run(make_run_folder(tmp_path / "run"))

    def extractor(*, may_be_traced: bool) -> Extractor:
        def answer(x: Any) -> Any:
            assert may_be_traced
            return opened.work.network.backbone(x, training=False)

        return make_extractor(opened.work.network.backbone, "backbone", None, FLOAT, answer=answer)

    stored, _ = _features(opened, extractor(may_be_traced=True))
    again, computed = _features(opened, extractor(may_be_traced=False))
    assert computed == 0
    np.testing.assert_array_equal(again, stored)
