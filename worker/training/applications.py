"""The Keras Applications of the catalogue: without top, with the preprocessing that belongs to their weights, and where those are."""

import hashlib
import http.client
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from core.backbones import keras_home
from core.errors import WeightsUnavailable

_DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte
_BASE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_OTHER_BASE = "https://storage.googleapis.com/keras-applications/"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torch and Keras state them
_STANDARD = (
    tuple(1 / (255 * one) for one in _DEVIATION),
    tuple(-m / d for m, d in zip(_MEAN, _DEVIATION, strict=True)),
)
_SIGNED = (1 / 127.5, -1.0)

Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class Application:
    """One of them.

    Attributes:
        build: `keras.applications.*`.
        scale, offset: what its weights want is `pixels * scale + offset`, for all channels or one each.
        file: the ImageNet weights' name in Keras' cache.
        folder: where Keras publishes them.
        digest: of that file as Keras states it, MD5 or SHA-256; None where it states none.
        blue_first: its weights want the channels turned round.
        arguments: more for `build`.
    """

    build: Callable[..., keras.Model]
    scale: Numbers
    offset: Numbers
    file: str
    folder: str
    digest: str | None
    blue_first: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = {"include_preprocessing": False}
APPLICATIONS: dict[str, Application] = {
    "mobilenet_v2": Application(
        keras.applications.MobileNetV2,
        *_SIGNED,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        _BASE + "mobilenet_v2/",
        None,
    ),
    "mobilenet_v3_small": Application(
        keras.applications.MobileNetV3Small,
        *_SIGNED,
        "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        _BASE + "mobilenet_v3/",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
        arguments=_PLAIN,
    ),
    "mobilenet_v3_large": Application(
        keras.applications.MobileNetV3Large,
        *_SIGNED,
        "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        _BASE + "mobilenet_v3/",
        "07fb09a5933dd0c8eaafa16978110389",
        arguments=_PLAIN,
    ),
    # Keras has a division by 255, a Normalization whose weights are in the file (the deviation as its variance) and, for these
    # weights alone, a division by the root of the deviation: together (pixels / 255 - mean) / deviation, as one layer here
    "efficientnet_b0": Application(
        keras.applications.EfficientNetB0,
        *_STANDARD,
        "efficientnetb0_notop.h5",
        _OTHER_BASE,
        "50bc09e76180e00e4465e1a485ddc09d",
    ),
    "efficientnet_v2_b0": Application(
        keras.applications.EfficientNetV2B0,
        *_STANDARD,
        "efficientnetv2-b0_notop.h5",
        _BASE + "efficientnet_v2/",
        "893217f2bb855e2983157299931e43ff",
        arguments=_PLAIN,
    ),
    "resnet50_v2": Application(
        keras.applications.ResNet50V2,
        *_SIGNED,
        "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _BASE + "resnet/",
        "fac2f116257151a9d068a22e544a4917",
    ),
    "inception_v3": Application(
        keras.applications.InceptionV3,
        *_SIGNED,
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _BASE + "inception_v3/",
        "bcbd6486424b2319ff4ef7d526e38f63",
    ),
    "xception": Application(
        keras.applications.Xception,
        *_SIGNED,
        "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _BASE + "xception/",
        "b0042744bf5b25fce3cb969f33bebb97",
    ),
    "vgg16": Application(
        keras.applications.VGG16,
        1.0,
        (-123.68, -116.779, -103.939),
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _BASE + "vgg16/",
        "6d6bbae143d832006294945121d1f1fc",
        blue_first=True,
    ),
    "densenet121": Application(
        keras.applications.DenseNet121,
        *_STANDARD,
        "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        _BASE + "densenet/",
        "30ee3e1110167f948a6b9946edeeb738",
    ),
    "convnext_tiny": Application(
        keras.applications.ConvNeXtTiny,
        *_STANDARD,
        "convnext_tiny_notop.h5",
        _BASE + "convnext/",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        arguments=_PLAIN,
    ),
}


def preprocessed(pictures: Any, scale: Numbers, offset: Numbers, *, blue_first: bool = False) -> Any:
    """Raw pixels 0..255 as a network's weights want them."""
    x = keras.layers.Rescaling(_listed(scale), _listed(offset), name="preprocessing")(pictures)
    return keras.ops.flip(x, axis=-1) if blue_first else x


def _listed(numbers: Numbers) -> float | list[float]:
    return list(numbers) if isinstance(numbers, tuple) else numbers


def raw_application(backbone_id: str, image_size: tuple[int, int]) -> keras.Model:
    """Keras' own network without its top behind our preprocessing, with random weights: raw pixels float32 -> feature map."""
    application = APPLICATIONS[backbone_id]
    pictures = keras.Input((*image_size, 3), dtype="float32", name="pictures")
    x = preprocessed(pictures, application.scale, application.offset, blue_first=application.blue_first)
    raw = application.build(
        include_top=False, weights=None, input_tensor=x, input_shape=(*image_size, 3), **application.arguments
    )
    return keras.Model(pictures, raw.output, name=backbone_id)


def load_published(raw: keras.Model, backbone_id: str) -> None:
    """Give `raw_application`'s network its ImageNet weights, from Keras' cache or, where there is a network, as Keras publishes them.

    Raises:
        WeightsUnavailable: they are in neither place, or damaged.
    """
    path = keras_home() / "models" / APPLICATIONS[backbone_id].file
    if not path.is_file():
        _download(APPLICATIONS[backbone_id], path)
    try:
        raw.load_weights(path)
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"The weights file {path.name} in Keras' cache cannot be read: {error}") from error


def _download(application: Application, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    address = application.folder + application.file
    try:
        with urllib.request.urlopen(address, timeout=_DOWNLOAD_TIMEOUT) as answer, part.open("wb") as target:  # noqa: S310 - fixed https address
            shutil.copyfileobj(answer, target)
    except (OSError, http.client.HTTPException) as error:
        part.unlink(missing_ok=True)
        raise WeightsUnavailable(
            f"The ImageNet weights {application.file} are not in Keras' cache and could not be fetched ({error}). Put the file "
            f"into {path.parent}, upload the weights, or choose efficientnet_lite0, whose weights come with Thaw."
        ) from error
    if application.digest is not None and _digest(part, len(application.digest)) != application.digest:
        part.unlink()
        raise WeightsUnavailable(
            f"What was fetched as {application.file} is not the file that Keras publishes; it was thrown away."
        )
    part.replace(path)


def _digest(path: Path, length: int) -> str:
    kind = "md5" if length == 32 else "sha256"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
