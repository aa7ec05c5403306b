"""`python -m worker.prediction.batch MODEL`: a process that answers for many pictures, for a worker that never loads TensorFlow.

MODEL is a JSON object `{"saved_model", "image_size", "resize", "max_bytes", "max_pixels"}`. Every line of standard input is a JSON
list `[ordinal, file]`; every line of standard output is `{"ordinal", "label", "probabilities", "known_score", "verdict", "error"}`, in
the same order. Pictures are decoded and resized on threads while the network is busy with those before.
"""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

BATCH = 32
_AHEAD = 3 * BATCH  # pictures decoded before they are asked about


def answer_lines(lines: IO[str], out: IO[str], order: dict[str, Any]) -> None:
    """Answer every line until the input ends. Memory stays flat: at most a few batches of resized pictures are held."""
    import tensorflow as tf  # noqa: PLC0415 - the process says nothing on its standard output before this

    from worker.prediction.models import VERDICTS  # noqa: PLC0415
    from worker.training.layers import PictureResizer  # noqa: PLC0415
    from worker.training.pictures import PictureLimits, PictureRefused, decode  # noqa: PLC0415

    module = tf.saved_model.load(order["saved_model"])  # written by our own trainer, never uploaded
    signature = module.signatures["serving_resized"]
    resize = PictureResizer(tuple(order["image_size"]), order["resize"])
    limits = PictureLimits(order["max_bytes"], order["max_pixels"])

    def ready(path: str) -> Any:
        try:
            return resize(decode(Path(path), limits=limits))
        except PictureRefused as refused:
            return refused.sentence

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for some in _batches(_decoded(lines, pool, ready)):
            good = [pixels for _, pixels in some if not isinstance(pixels, str)]
            rows = iter(_asked(signature, tf.constant(np.stack(good)), VERDICTS) if good else ())
            for ordinal, pixels in some:
                row = {"error": pixels} if isinstance(pixels, str) else next(rows)
                out.write(json.dumps({"ordinal": ordinal, **row}) + "\n")
            out.flush()


def _decoded(lines: IO[str], pool: ThreadPoolExecutor, ready: Any) -> Iterator[tuple[int, Any]]:
    waiting: list[tuple[int, Future[Any]]] = []
    for line in lines:
        ordinal, path = json.loads(line)
        if ordinal < 0:  # "answer what you have": nothing more will come for a while
            yield from ((number, future.result()) for number, future in waiting)
            waiting = []
            yield -1, None
            continue
        waiting.append((ordinal, pool.submit(ready, path)))
        if len(waiting) > _AHEAD:
            number, future = waiting.pop(0)
            yield number, future.result()
    yield from ((number, future.result()) for number, future in waiting)


def _batches(pictures: Iterator[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    some: list[tuple[int, Any]] = []
    for ordinal, pixels in pictures:
        if ordinal >= 0:
            some.append((ordinal, pixels))
        if some and (ordinal < 0 or len(some) == BATCH):
            yield some
            some = []
    if some:
        yield some


def _asked(signature: Any, images: Any, verdicts: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    found = {name: value.numpy() for name, value in signature(images=images).items()}
    for probabilities, known, verdict in zip(
        found["probabilities"], found["known_score"], found["verdict"], strict=True
    ):
        yield {
            "label": int(probabilities.argmax()),
            "probabilities": [round(float(value), 6) for value in probabilities],
            "known_score": round(float(known), 6),
            "verdict": verdicts[verdict],
        }


def main() -> None:
    """Answer until standard input ends."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    answer_lines(sys.stdin, answers, json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
