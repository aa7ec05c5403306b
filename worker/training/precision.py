"""bfloat16 for the frozen parts, where the processor has it and real pictures confirm that it changes nothing that matters."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from worker.training.features import EXTRACTOR_VERSION, Extractor, computed_by, end_of, processor_class, weights_hash
from worker.training.network import computing_in

ENOUGH = 0.999  # mean cosine between the features of float32 and of bfloat16 over the pictures looked at
LOOKED_AT = 16  # pictures
# Rounding in the first layers is felt by all that follow. EfficientNet-Lite0 on photographs: mean cosine .9987 with everything in
# bfloat16, .9994 with three convolutions kept in float32 (.9997 at b10), at the same speed.
_EXACT_CONVOLUTIONS = 3


def processor_has_bfloat16() -> bool:
    """True with AVX-512 BF16, AMX BF16, or Arm BF16: without them bfloat16 is emulated and slow."""
    return any(flag in processor_class().split("-") for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def computes_in_bfloat16() -> bool:
    """True where bfloat16 is quick on what trains here: every GPU that is seen (compute capability 8.0 on), else the processor."""
    seen = tf.config.list_physical_devices("GPU")
    if not seen:
        return processor_has_bfloat16()
    details = [tf.config.experimental.get_device_details(gpu) for gpu in seen]
    return all(one.get("compute_capability", (0, 0)) >= (8, 0) for one in details)


def may_use_bfloat16(precision: str) -> bool:
    """Whether a run with this `precision` computes in bfloat16 what passes the check: auto where it is quick, mixed everywhere."""
    return precision == "mixed" or (precision == "auto" and computes_in_bfloat16())


def in_bfloat16(model: keras.Model) -> Callable[[Any], Any]:
    """A model as it answers in bfloat16 from its fourth convolution on: inputs -> outputs, in the mode of inference.

    Its weights, which stay float32, and its layers are its own: nothing is copied. While it is called (or traced) its layers compute by
    another policy, so no other thread may call them then.
    """
    exact = exact_layers(model)

    def answer(x: Any) -> Any:
        with computing_in(model, "mixed_bfloat16", exact):
            return model(x, training=False)

    return answer


def exact_layers(model: keras.Model) -> frozenset[str]:
    """Names of the layers up to the third convolution."""
    names: set[str] = set()
    convolutions = 0
    for layer in model.layers:
        convolutions += len(getattr(layer, "kernel_size", ())) == 2 and bool(layer.weights)
        if convolutions > _EXACT_CONVOLUTIONS:
            return frozenset(names)
        names.add(layer.name)
    return frozenset(names)


def drawn_across_classes(digests: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Places of at most `count` pictures, one of each class in turn, however they are listed.

    Args:
        digests: uint8 [n, 32], SHA-256 of the pictures, which decide the order inside a class and of the classes in a turn.
        labels: int [n].
    """
    order = np.lexsort(digests.T[::-1])
    turns = np.empty(len(order), np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turns[mine] = np.arange(len(mine))
    return order[np.argsort(turns[order], kind="stable")][:count]


def bfloat16_cosine(
    frozen: keras.Model,
    name: str,
    fast: Extractor,
    pictures: Callable[[], np.ndarray],
    looked_at: Mapping[str, object],
    memory: Path,
    at_once: int = LOOKED_AT,
) -> float:
    """Mean cosine between float32 and bfloat16 features over some pictures.

    The answer is kept per weights, cut, pooling, pictures and what computes; where it is known, nothing is built and no picture is read.

    Args:
        frozen: float32 form.
        name: what it is a part of: backbone and form.
        fast: of plain pictures, by what `in_bfloat16` makes of it: where features are extracted afterwards, by the same extractor, so that
            it is traced once.
        pictures: gives uint8 [n, H, W, 3].
        looked_at: which pictures these are, and how they became pixels; JSON.
        memory: folder in which answers are kept.
        at_once: pictures that fit into memory together.
    """
    part = re.sub(r"[^\w.]+", "-", f"{name}-{end_of(frozen)}")
    meaning = [EXTRACTOR_VERSION, computed_by(), tf.__version__, weights_hash(frozen), dict(looked_at)]
    key = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
    path = memory / f"bfloat16-{part}-{key}.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["cosine"])
    except (OSError, ValueError, KeyError):
        cosine = _cosine(frozen, fast, pictures(), at_once)
    memory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cosine": cosine}), encoding="utf-8")
    return cosine


def _cosine(frozen: keras.Model, fast: Extractor, pictures: np.ndarray, at_once: int) -> float:
    found = []
    for first in range(0, len(pictures), at_once):
        some = pictures[first : first + at_once]
        left = _rows(frozen(tf.cast(some, tf.float32), training=False))  # a few times: not worth a trace
        right = _rows(fast.run(some, np.zeros((len(some), 2), np.int32)))
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        found.append(np.sum(left * right, axis=1) / np.maximum(norms, 1e-12))
    return float(np.mean(np.concatenate(found)))


def _rows(values: object) -> np.ndarray:
    array = np.asarray(tf.cast(values, tf.float32))
    return array.reshape(len(array), -1)
