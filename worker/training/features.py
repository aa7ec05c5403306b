"""What the frozen part of a network gives for each picture and view: computed once, kept on disk, shared by all runs."""

import hashlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.training_config import Augmentation
from worker.training.data import DecodedPictures, preprocessing
from worker.training.graph import weight_names
from worker.training.layers import AugmentationLayer
from worker.training.prefetch import prefetched
from worker.training.run_folder import RunFolder
from worker.training.segments import PICTURE, Lookup, SegmentStore

# Raise when the same picture, weights and view would give other numbers: features stored before are then no longer found.
EXTRACTOR_VERSION = 6
_BATCH = 32  # pictures of 224 x 224 pixels; the numbers of one depend on it in their last digits where a kernel has a remainder


@dataclass(frozen=True)
class Extractor:
    """The frozen part of a network, traced.

    Attributes:
        run: (pictures uint8 [n, H, W, 3], view seeds int32 [n, 2]) -> features [n, *shape].
        meaning: everything that decides its numbers.
        shape: of one picture's features.
        dtype: they are stored as.
    """

    run: Callable[[np.ndarray, np.ndarray], Any]
    meaning: dict[str, object]
    shape: tuple[int, ...]
    dtype: np.dtype


def make_extractor(
    frozen: keras.Model,
    name: str,
    augmentation: Augmentation | None,
    storage: np.dtype,
    *,
    compute: str = "float32",
    answer: Callable[[Any], Any] | None = None,
) -> Extractor:
    """Describe the frozen part of a network, and trace it when it is first run: with everything in the store it never is.

    Args:
        frozen: float32 [n, H, W, 3] raw pixels 0..255 -> features.
        name: what it is a part of: backbone and form.
        augmentation: None for plain pictures; else each picture is changed as its view seed says.
        storage: dtype to store.
        compute: dtype it computes in.
        answer: what is run in place of `frozen`, with the same weights; None: `frozen` itself.
    """
    layer = None if augmentation is None else AugmentationLayer(augmentation)
    spec = [tf.TensorSpec((None, *frozen.input.shape[1:]), tf.uint8), tf.TensorSpec((None, 2), tf.int32)]

    @cache
    def traced() -> Any:
        @tf.function(input_signature=spec)
        def run(pictures: Any, seeds: Any) -> Any:
            x = tf.cast(pictures, tf.float32) if layer is None else layer.changed(pictures, seeds)
            return tf.cast(frozen(x, training=False) if answer is None else answer(x), storage)

        return run

    def run_traced(pictures: np.ndarray, seeds: np.ndarray) -> Any:
        return traced()(pictures, seeds)

    meaning: dict[str, object] = {
        "name": name,
        "end": end_of(frozen),
        "weights": weights_hash(frozen),
        "extractor_version": EXTRACTOR_VERSION,
        "tensorflow": tf.__version__,
        "computed_by": computed_by(),
        "compute": compute,
        "augmentation": None if augmentation is None else augmentation.model_dump(mode="json"),
    }
    shape = tuple(int(size) for size in frozen.output.shape[1:])
    return Extractor(run_traced, meaning, shape, np.dtype(storage))


def end_of(frozen: keras.Model) -> str:
    """Where the frozen part of a network ends, which its weights do not tell: its last layer, and the pooling on it, if any.

    Parts may differ by layers without weights only (VGG16's block5_conv3 and block5_pool), and every pooling is called head_pooling.
    """
    last = frozen.layers[-1]
    if last.name != "head_pooling":
        return str(last.name)
    return f"{frozen.layers[-2].name}/{type(last).__name__}"


def weights_hash(model: keras.Model) -> str:
    """SHA-256 (hex) over every weight of a model, in order."""
    digest = hashlib.sha256()
    for layer in model.layers:
        for name, weight in zip(weight_names(layer), layer.weights, strict=True):
            # Keras' path, but where its last part is a number that other networks of this process moved
            path = weight.path if weight.name == name else f"{layer.name}/{name}"
            digest.update(f"{path}{tuple(weight.shape)}".encode())
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def computed_by() -> str:
    """What computes here, as far as it decides the last digits of features: the GPU where one is seen, else the class of processor.

    A host's workers may have a GPU or not, and they share one store.
    """
    seen = tf.config.list_physical_devices("GPU")
    if not seen:
        return processor_class()
    details = tf.config.experimental.get_device_details(seen[0])  # the only one that a run uses
    capability = ".".join(str(part) for part in details.get("compute_capability", ("unknown",)))
    return f"GPU {details.get('device_name', 'unknown')} {capability}"


def processor_class() -> str:
    """What decides which kernels run on a processor: features of another class of them differ in their last digits."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "i8mm")
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.partition(":")[2].split())
                break
    return "-".join([platform.machine(), *(flag for flag in wanted if flag in flags)])


class Features:
    """Features of some pictures in some views, on disk. Memory stays flat: only what is asked for is copied."""

    def __init__(self, lookup: Lookup, views: int, extractor: Extractor) -> None:
        self._lookup = lookup
        self.views = views
        self.shape, self.dtype = extractor.shape, extractor.dtype

    def gather(self, places: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Features [n, *shape] of the pictures at `places` (index into the extracted positions) in `views` (from 0)."""
        rows = places * self.views + (0 if views is None else views)
        return self._lookup.gather(rows, np.empty((len(rows), *self.shape), self.dtype))


class FeatureStore:
    """Finds features in the store, and computes those that are missing.

    Attributes:
        computed: rows computed so far, the found ones not counted.
    """

    def __init__(self, folder: RunFolder, pictures: DecodedPictures) -> None:
        self._folder = folder
        self._pictures = pictures
        self._limit = folder.cache_limit_bytes // 2
        self._used: list[SegmentStore] = []
        self.computed = 0

    def fits(self, extractor: Extractor, records: int) -> bool:
        """True when that many records stay within the store's limit."""
        record = int(np.prod(extractor.shape, dtype=np.int64)) * extractor.dtype.itemsize
        return record * records <= self._limit

    def features(
        self, extractor: Extractor, positions: np.ndarray, views: int, say: Callable[[int, int], None]
    ) -> Features:
        """Features of the pictures at `positions` in `views` views.

        Args:
            say: hears (rows done, rows to do) after every batch and may raise to stop; not called when nothing is missing.
        """
        folder = self._folder
        store = SegmentStore(
            folder.feature_store,
            {**preprocessing(folder), **extractor.meaning},
            extractor.shape,
            extractor.dtype,
            limit_bytes=self._limit,
            reserve_bytes=folder.disk_reserve_bytes,
        )
        self._used.append(store)
        augmented = extractor.meaning["augmentation"] is not None
        keys = row_keys(folder.pictures.digests[positions], views, folder.config.seed if augmented else None)
        lookup = Lookup(keys, store.whole_segments())
        missing = lookup.missing
        done = 0
        for first in range(0, len(missing), store.segment_records):
            rows = missing[first : first + store.segment_records]
            segment = store.begin(keys[rows])
            for begin, values in self._computed(extractor, positions[rows // views], keys[rows]):
                segment.records[begin : begin + len(values)] = values
                done += len(values)
                self.computed += len(values)
                say(done, len(missing))
            lookup.add(rows, segment)
            store.publish(segment)
        return Features(lookup, views, extractor)

    def _computed(
        self, extractor: Extractor, positions: np.ndarray, keys: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        size = self._folder.at_once(_BATCH)
        starts = range(0, len(positions), size)
        batches = prefetched(starts, lambda start: self._pictures.batch(positions[start : start + size]))
        for start, pixels in zip(starts, batches, strict=True):
            seeds = np.ascontiguousarray(keys[start : start + size, :8]).view(np.int32)
            yield start, extractor.run(pixels, seeds).numpy()

    def finish(self) -> list[str]:
        """Wait until everything computed is on disk; a sentence for each part that could not be kept."""
        return [sentence for store in self._used for sentence in store.finish()]


def row_keys(digests: np.ndarray, views: int, seed: int | None) -> np.ndarray:
    """Keys uint8 [n * views, 32]: the picture's own SHA-256 when plain, else half a hash of it, the run's seed and the view.

    The other half is the picture's own, as in every key (`worker.training.segments.PICTURE`).
    """
    if seed is None:
        return np.repeat(digests, views, axis=0)
    keys = b"".join(
        hashlib.sha256(digest.tobytes() + f"/{seed}/{view}".encode()).digest()[: PICTURE.start]
        + digest[PICTURE].tobytes()
        for digest in digests
        for view in range(views)
    )
    return np.frombuffer(keys, np.uint8).reshape(-1, 32)
