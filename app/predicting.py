"""Asking the prediction worker. Pictures are never decoded in the web process. Shared by the API and the pages."""

import functools
from typing import Any

import anyio
from starlette.requests import Request

from app.api.schemas.models import PredictedOut, PredictionsOut
from app.dependencies import House
from app.receiving import MemorySink, read_form
from core.config import Settings
from core.errors import FieldProblem, InputInvalid, WorkersAway
from core.tables import TrainedModel

MOST_PICTURES = 32
Pictures = list[tuple[str, bytes]]


async def read_pictures(request: Request, settings: Settings) -> Pictures:
    """(file name, bytes) of the pictures in a form, field `images`; nothing is written to disk.

    Raises:
        InputInvalid: no picture, or not a form.
        TooLarge: more than 32 pictures, or too many bytes together.
    """
    most = settings.max_image_bytes
    sink = MemorySink(most_files=MOST_PICTURES, most_bytes=most, most_together=4 * most)
    await read_form(request, sink, "images")
    if not sink.files:
        message = f'Send 1 to {MOST_PICTURES} pictures in the form field "images". Received: none.'
        raise InputInvalid(message, problems=(FieldProblem("images", message),))
    return [(name, bytes(content)) for name, content in sink.files]


async def predict_pictures(house: House, model: TrainedModel, pictures: Pictures) -> PredictionsOut:
    """What a model says of some pictures, in their order; a bad one gets its own error.

    Raises:
        WorkersAway: no worker answered in time.
    """
    most = house.settings.max_image_bytes
    small = [content for _, content in pictures if len(content) <= most]
    question = {
        "kind": "predict",
        "model_id": model.id,
        "storage_key": model.storage_key,
        "class_names": model.class_names,
    }
    answers: list[dict[str, Any]] = []
    if small:
        ask = functools.partial(house.queue.ask, question, small)
        answer = await anyio.to_thread.run_sync(ask, limiter=house.asking)
        if "error" in answer:
            raise WorkersAway(str(answer["error"]))
        answers = answer["predictions"]
    waiting = iter(answers)
    too_large = {"error": f"The file has more than {most:,} bytes, the most that a picture may have."}
    found = [next(waiting) if len(content) <= most else too_large for _, content in pictures]
    names = [name for name, _ in pictures]
    return PredictionsOut(
        predictions=[PredictedOut(filename=name, **one) for name, one in zip(names, found, strict=True)]
    )
