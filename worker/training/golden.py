"""Pictures and the answers expected for them: what an export is checked on, and what a download carries in `golden/`."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from core.training_config import TrainingConfig
from worker.training.doubt import KNOWN, Doubt, averaged, columns, outside
from worker.training.layers import build_resizer
from worker.training.learner import logits_of
from worker.training.network import Network
from worker.training.statistics import softmax

Pixels = NDArray[np.uint8]

TOLERANCE = 1e-3
GOLDEN_PICTURES = 20
GOLDEN_SIDE = 448  # pixels; a download should not carry 20 photographs of 12 megapixels
CHECKED_PICTURES = 64
_CHECKED_SIDE = 1280


class Reference:
    """The trained network on pixels of any size, its doubt worked out beside it: what every export is compared with."""

    def __init__(self, network: Network, config: TrainingConfig, doubt: Doubt) -> None:
        self._network, self._doubt = network, doubt
        pooling = network.head.get_layer("head_pooling")
        pooled = keras.Model(network.backbone.input, pooling(network.backbone.output))
        logits = logits_of(network.head, pooling.output)
        self.image_size = config.image_size
        self.resizer = build_resizer(config.image_size, config.resize)
        whole, own = (
            tf.TensorSpec((None, None, None, 3), tf.uint8),
            tf.TensorSpec((None, *config.image_size, 3), tf.uint8),
        )
        self._resize = tf.function(self.resizer, input_signature=[whole])

        def answer(pixels: Any) -> tuple[Any, Any]:
            vectors = pooled(tf.cast(pixels, tf.float32), training=False)
            return logits(vectors, False), vectors

        self._answer = tf.function(answer, input_signature=[own])

    def resize(self, pixels: Pixels) -> Pixels:
        """uint8 [h, w, 3] -> uint8 [H, W, 3]."""
        resized: Pixels = self._resize(pixels[None]).numpy()[0]
        return resized

    def answer(self, resized: Pixels) -> dict[str, Any]:
        """uint8 [H, W, 3] -> `probabilities` [classes], `known_score`, `verdict` (a number), as they stand in expected.json."""
        doubt = self._doubt
        logits, pooled = (one.numpy() for one in self._answer(resized[None]))
        # from the logits, as the graph has it: probabilities near 0 and 1 are too coarse to be divided
        probabilities = softmax(columns(logits) / (doubt.temperature or 1.0))[0]
        left = outside(averaged(self._network, pooled), doubt.mean, doubt.directions)[0]
        known = 1 / (1 + np.exp(min((left - doubt.limit) / doubt.width, 700.0)))
        unsure = probabilities.max() < doubt.thresholds[probabilities.argmax()]
        verdict = 2 if known < KNOWN else int(unsure)
        return {"probabilities": probabilities.tolist(), "known_score": float(known), "verdict": verdict}


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count`, evenly spread, so that every class has its chance in a list sorted by class."""
    if len(paths) <= count:
        return list(paths)
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, count)]


def patterns(seed: int) -> Iterator[Pixels]:
    """Smooth random colour fields in several shapes: golden pictures that show nobody's photographs."""
    random = np.random.default_rng(seed)
    for index in range(GOLDEN_PICTURES):
        coarse = random.integers(0, 256, (3 + index % 7, 3 + index % 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(
            (160 + 20 * (index % 5), 160 + 25 * (index % 4)), Image.Resampling.BICUBIC
        )
        yield np.asarray(image)


def write_checked(folder: Path, paths: Sequence[Path], decode: Callable[[Path], Pixels], reference: Reference) -> None:
    """Write every picture for the check, with the answer from its original pixels beside it where the file is JPEG or PNG."""
    originals: list[dict[str, Any]] = []

    def pictures() -> Iterator[Pixels]:
        for path in paths:
            pixels = decode(path)
            originals.append(_original(path, pixels, reference))
            yield pixels

    write_pictures(folder, pictures() if paths else patterns(0), reference, side=_CHECKED_SIDE, extra=originals)


def _original(path: Path, pixels: Pixels, reference: Reference) -> dict[str, Any]:
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return {}  # the signature is for JPEG and PNG
    answer = reference.answer(reference.resize(pixels))
    return {"original": str(path.resolve()), "original_probabilities": answer["probabilities"]}


def write_pictures(
    folder: Path,
    pictures: Iterator[Pixels],
    reference: Reference,
    *,
    side: int,
    extra: Sequence[dict[str, Any]] = (),
) -> None:
    """Write pictures/, resized/ and expected.json: what `verify.py` reads. Names are ours: ASCII, no person's file names.

    Args:
        folder: made here.
        pictures: uint8 [h, w, 3] each; larger than `side` pixels on one side, they are made smaller first.
        reference: gives the expected probabilities.
        side: pixels.
        extra: further fields by picture; may grow while `pictures` is read.
    """
    for name in ("pictures", "resized"):
        (folder / name).mkdir(parents=True)
    rows = []
    for index, pixels in enumerate(pictures):
        image = Image.fromarray(pixels)
        image.thumbnail((side, side))
        resized = reference.resize(np.asarray(image))
        row = {"picture": f"pictures/{index + 1:04}.png", "resized": f"resized/{index + 1:04}.png"}
        image.save(folder / row["picture"], compress_level=1)
        Image.fromarray(resized).save(folder / row["resized"], compress_level=1)
        more = extra[index] if index < len(extra) else {}
        rows.append({**row, **reference.answer(resized), **more})
    expected = {"tolerance": TOLERANCE, "pictures": rows}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1), encoding="utf-8")
