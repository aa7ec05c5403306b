"""Models that answer: SavedModels as they are downloaded, kept in memory as long as there is room."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from core.errors import NotFound, ThawError
from core.storage import Storage
from worker.training.gpus import set_up_gpus
from worker.training.pictures import Pixels

_log = logging.getLogger(__name__)
VERDICTS = ("confident", "unsure", "unknown")  # as the number in the graph counts them: worker.training.doubt
Probabilities = npt.NDArray[np.float32]
# A loaded model is its weights, once as read and once as variables, and its graph.
WEIGHT_COPIES = 2
GRAPH_BYTES = 40_000_000
# At once through the network: a batch is resized as float32, so 16 megapixels cost about 200 MB.
BATCH_PIXELS = 16_000_000


class NoHeatmap(ThawError):
    """This model was exported without what a heat map needs."""


def warm_up() -> None:
    """Have TensorFlow set itself up now, not with the first question."""
    set_up_gpus()
    tf.constant(0.0).numpy()


@dataclass(frozen=True)
class Answered:
    """What a model says of one picture.

    Attributes:
        probabilities: float32 [classes].
        known_score: 0 to 1; below 0.5 the picture is unlike those the model learnt from.
        verdict: one of VERDICTS.
    """

    probabilities: Probabilities
    known_score: float
    verdict: str


class LoadedModel:
    """One SavedModel. `bytes` is what it is taken to cost in memory."""

    def __init__(self, folder: Path) -> None:
        self._module = tf.saved_model.load(str(folder))  # written by our own trainer, never uploaded
        self._answer = self._module.signatures["serving_default"]
        self.bytes = loaded_bytes(folder)

    def answers(self, pictures: Sequence[Pixels]) -> list[Answered]:
        """Ask `serving_default`, the same signature a download has.

        Args:
            pictures: uint8 [h, w, 3] each, any sizes; those of one size go through together.

        Returns:
            For each picture, in order.
        """
        answers: list[Answered | None] = [None] * len(pictures)
        for batch in batches([picture.shape for picture in pictures]):
            images = tf.constant(np.stack([pictures[index] for index in batch]))
            found = {name: value.numpy() for name, value in self._answer(images=images).items()}
            for place, index in enumerate(batch):
                known, verdict = found["known_score"][place], found["verdict"][place]
                answers[index] = Answered(found["probabilities"][place], float(known), VERDICTS[verdict])
        return [answer for answer in answers if answer is not None]

    def explain(self, resized: Pixels, label: int) -> npt.NDArray[np.float32]:
        """Where the model looked for a class, see `worker.training.explain`: uint8 [H, W, 3] -> float32 [h, w].

        Raises:
            NoHeatmap: it was exported by a version that knew no heat maps.
        """
        explain = getattr(self._module, "explain", None)
        if explain is None:
            raise NoHeatmap("This model was made before there were heat maps. Train it again to see where it looks.")
        found: npt.NDArray[np.float32] = explain(tf.constant(resized[None]), tf.constant([label], tf.int32)).numpy()[0]
        return found


def batches(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Positions of pictures that can go through together: of one shape, at most `BATCH_PIXELS` (or one picture)."""
    found: list[list[int]] = []
    open_batches: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        batch = open_batches.get(shape)
        if batch is None or (len(batch) + 1) * shape[0] * shape[1] > BATCH_PIXELS:
            batch = open_batches[shape] = []
            found.append(batch)
        batch.append(index)
    return found


def loaded_bytes(folder: Path) -> int:
    """Estimated memory of the model in `folder` once it is loaded."""
    return WEIGHT_COPIES * sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) + GRAPH_BYTES


class ModelShelf:
    """Loaded models by storage key; the one unused for longest goes first when `limit_bytes` would be passed."""

    def __init__(self, storage: Storage, limit_bytes: int) -> None:
        self._storage = storage
        self._limit = limit_bytes
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()

    def get(self, storage_key: str) -> LoadedModel:
        """The model, loaded now if it is not there.

        Raises:
            NotFound: its files were deleted.
        """
        key = f"{storage_key}/saved_model"
        if not self._storage.has(f"{key}/saved_model.pb"):
            self._models.pop(storage_key, None)
            raise NotFound("The files of this model are not there any more: it was deleted.")
        if storage_key not in self._models:
            folder = self._storage.local_tree(key)
            self._make_room(loaded_bytes(folder))
            self._models[storage_key] = LoadedModel(folder)
            _log.info("loaded %s; %s models are in memory", storage_key, len(self._models))
        self._models.move_to_end(storage_key)
        return self._models[storage_key]

    def _make_room(self, needed: int) -> None:
        while self._models and self.bytes + needed > self._limit:
            key, _ = self._models.popitem(last=False)
            _log.info("put %s away", key)

    @property
    def bytes(self) -> int:
        """What the loaded models are taken to cost together."""
        return sum(model.bytes for model in self._models.values())

    @property
    def keys(self) -> list[str]:
        """Keys of the loaded models, the one unused for longest first."""
        return list(self._models)


def as_rows(found: Sequence[Answered], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Answers as the API's rows: best class, its probability, all of them by class name, how well such pictures are known, verdict."""
    return [_row(answered, class_names) for answered in found]


def _row(answered: Answered, class_names: Sequence[str]) -> dict[str, Any]:
    probabilities = answered.probabilities
    best = int(np.argmax(probabilities))
    return {
        "class_name": class_names[best],
        "probability": float(probabilities[best]),
        "probabilities": {name: float(value) for name, value in zip(class_names, probabilities, strict=True)},
        "known_score": answered.known_score,
        "verdict": answered.verdict,
    }
