"""What is written by hand about Keras' Applications is what Keras itself says: sizes, files, where they are, their digests."""

from typing import Any

import pytest
from keras.src.applications import imagenet_utils
from keras.src.utils import file_utils

from core.backbones import BACKBONES
from worker.training.applications import APPLICATIONS

QUICK = ("mobilenet_v2", "vgg16")
EVERY = [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in sorted(APPLICATIONS)]


class _Heard(Exception):
    """Keras has said what was to be heard."""


@pytest.mark.parametrize("backbone_id", EVERY)
def test_the_published_file_is_the_one_that_keras_would_fetch(
    backbone_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def get_file(fname: str, origin: str, file_hash: str | None = None, **_: Any) -> None:
        asked.append((fname, origin, file_hash))
        raise _Heard

    monkeypatch.setattr(file_utils, "get_file", get_file)
    ours, side = APPLICATIONS[backbone_id], BACKBONES[backbone_id].default_image_size[0]
    with pytest.raises(_Heard):
        ours.build(include_top=False, weights="imagenet", input_shape=(side, side, 3), **ours.arguments)
    assert asked == [(ours.file, ours.folder + ours.file, ours.digest)]
    assert BACKBONES[backbone_id].keras_file == ours.file


@pytest.mark.parametrize("backbone_id", sorted(APPLICATIONS))
def test_the_smallest_pictures_are_the_smallest_that_keras_takes(backbone_id: str) -> None:
    side, width = BACKBONES[backbone_id].minimum_image_size
    assert side == width
    ours = APPLICATIONS[backbone_id]
    with pytest.raises(ValueError, match=f"at least {side}x{side}"):
        ours.build(include_top=False, weights=None, input_shape=(side - 1, side, 3), **ours.arguments)


@pytest.mark.parametrize("backbone_id", sorted(APPLICATIONS))
def test_the_usual_size_is_that_of_the_weights(backbone_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual: list[int] = []

    def obtain_input_shape(*_: Any, default_size: int, **__: Any) -> None:
        usual.append(default_size)
        raise _Heard

    ours = APPLICATIONS[backbone_id]
    if backbone_id.startswith("mobilenet_v3"):  # Keras has it in the name of the file alone
        usual.append(int(ours.file.split("_")[4]))
    else:
        monkeypatch.setattr(imagenet_utils, "obtain_input_shape", obtain_input_shape)
        with pytest.raises(_Heard):
            ours.build(weights=None, **ours.arguments)
    assert BACKBONES[backbone_id].default_image_size == (usual[0], usual[0])
