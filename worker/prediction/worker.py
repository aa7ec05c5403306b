"""The `predict` task: takes a question off the queue and answers it (docs/decisions/0003-answers.md)."""

import base64
import logging
import time
from collections.abc import Sequence
from typing import Any

from core.errors import NotFound
from core.estimates import SPEEDS_LAST, speeds_name
from core.queue import find_note, give_answer, keep_note, redis_client, take_pictures
from worker.ingest.thumbnails import display
from worker.prediction.heatmap import heatmap
from worker.prediction.models import ModelShelf, NoHeatmap, as_rows
from worker.prediction.preview import augmented
from worker.prediction.timings import TimingAsked, Timings
from worker.training.pictures import PictureLimits, PictureRefused, Pixels, decode
from worker.workplace import Workplace

_log = logging.getLogger(__name__)


class PredictionWorker:
    """Answers questions one after another. Nothing is lost when its process dies but the answer.

    Args:
        timings: of estimates; None: of a process with this one's environment.
    """

    def __init__(self, place: Workplace, timings: Timings | None = None) -> None:
        settings = place.settings
        self._place = place
        self._client = redis_client(settings, timeout=10.0)
        self._shelf = ModelShelf(place.storage, settings.predict_memory_bytes)
        self._limits = PictureLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._timings = timings or Timings()

    def task(self, number: str, question: dict[str, Any], deadline: float) -> None:
        """Answer one question.

        Args:
            number: under which its pictures and its answer travel.
            question: see `answer`.
            deadline: seconds since 1970; nobody waits for an answer after it.
        """
        if time.time() > deadline:
            _log.info("a question came %.1f s too late and is dropped", time.time() - deadline)
            return
        if question.get("kind") == "estimate":
            self._timings.ask(self._timing(number, question, deadline))
            return
        with self._place.at_work():
            try:
                answer = self.answer(question, take_pictures(self._client, number))
            except Exception:
                give_answer(self._client, number, {"error": "The prediction failed by a fault of ours; see the log."})
                raise
        give_answer(self._client, number, answer)

    def answer(self, question: dict[str, Any], pictures: Sequence[bytes]) -> dict[str, Any]:
        """The answer to one question.

        Args:
            question: `{"kind": ..., ...}`; what each kind needs and answers stands at its method.
            pictures: encoded pictures, in order.

        Returns:
            The answer, or `{"error": sentence}`.
        """
        kinds = {"predict": self._predict, "augment": self._augment, "heatmap": self._heatmap, "display": self._display}
        kind = kinds.get(str(question.get("kind")))
        if kind is None:
            allowed = ", ".join([*kinds, "estimate"])
            return {
                "error": f"The prediction worker answers questions of kind {allowed}. Received: {question.get('kind')!r}."
            }
        try:
            return kind(question, pictures)
        except (NotFound, NoHeatmap) as error:
            return {"error": error.message}

    def _predict(self, question: dict[str, Any], pictures: Sequence[bytes]) -> dict[str, Any]:
        """`{storage_key, class_names}` -> `{"predictions": [...]}`: a row or `{"error": sentence}` for each picture."""
        model = self._shelf.get(str(question["storage_key"]))
        decoded = [self._decoded(picture) for picture in pictures]
        good = [one for one in decoded if not isinstance(one, str)]
        rows = iter(as_rows(model.answers(good), question["class_names"]))
        return {"predictions": [{"error": one} if isinstance(one, str) else next(rows) for one in decoded]}

    def _heatmap(self, question: dict[str, Any], pictures: Sequence[bytes]) -> dict[str, Any]:
        """Where a model looked: `{storage_key, class_names, image_size, resize, blob_key or a picture, label}` -> see `heatmap`."""
        key = question.get("blob_key")
        pixels = self._decoded(self._blob(str(key)) if key else pictures[0])
        if isinstance(pixels, str):
            return {"error": pixels}
        return heatmap(self._shelf.get(str(question["storage_key"])), pixels, question)

    def _augment(self, question: dict[str, Any], _: Sequence[bytes]) -> dict[str, Any]:
        """`{blob_key, image_size, resize, augmentation, seed}` -> `{"pictures": [nine PNG files in base64]}`."""
        pixels = self._decoded(self._blob(str(question["blob_key"])))
        return {"error": pixels} if isinstance(pixels, str) else {"pictures": augmented(pixels, question)}

    def _display(self, question: dict[str, Any], _: Sequence[bytes]) -> dict[str, Any]:
        """`{blob_key}` -> `{"picture": a JPEG file of at most 1,600 pixels on the longer side, in base64}`."""
        pixels = self._decoded(self._blob(str(question["blob_key"])))
        return {"error": pixels} if isinstance(pixels, str) else {"picture": base64.b64encode(display(pixels)).decode()}

    def _timing(self, number: str, question: dict[str, Any], deadline: float) -> TimingAsked:
        """`{config, classes, key, blob_keys}` -> `{"speeds": ...}`, also noted under the key: measured once, not every time."""
        name = speeds_name(str(question["key"]))

        def tell(answer: dict[str, Any]) -> None:
            if "speeds" in answer:
                keep_note(self._client, name, answer["speeds"], SPEEDS_LAST)
            give_answer(self._client, number, answer)

        def wanted() -> bool:
            return time.time() <= deadline and find_note(self._client, name) is None

        return TimingAsked(
            {
                "config": question["config"],
                "classes": int(question["classes"]),
                "max_bytes": self._limits.max_bytes,
                "max_pixels": self._limits.max_pixels,
                "threads": self._place.settings.train_threads or self._place.settings.cores,
            },
            lambda: [self._blob(str(key)) for key in question["blob_keys"]],
            wanted,
            tell,
        )

    def _blob(self, key: str) -> bytes:
        with self._place.storage.open(key) as blob:
            return blob.read()

    def _decoded(self, picture: bytes) -> Pixels | str:
        """Pixels, or the sentence that says why there are none."""
        try:
            return decode(picture, limits=self._limits)
        except PictureRefused as refused:
            return refused.sentence
