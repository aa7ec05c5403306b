"""Heat maps: where a model looked, by the prediction worker. Shared by the API and the pages."""

import functools
from typing import Any

import anyio

from app.api.schemas.judging import Box, HeatmapOut, PixelBox
from app.dependencies import House
from core.errors import FieldProblem, InputInvalid, WorkersAway
from core.storage import blob_key
from core.tables import TrainedModel

CAPTION = (
    "A hint, not a proof: in colour is where the features lay that spoke for this class, as coarse as the network's last feature map. "
    "The box is rough."
)


async def heatmap(
    house: House,
    model: TrainedModel,
    *,
    sha256: str | None = None,
    picture: bytes | None = None,
    class_name: str | None = None,
) -> HeatmapOut:
    """Where a model looks on a stored picture (`sha256`) or one that was sent (`picture`).

    Args:
        house: where the worker is.
        model: whose answer it is.
        class_name: the class asked about; None: the class that the model answers.

    Raises:
        InputInvalid: the model has no such class.
        WorkersAway: no worker answered in time, or it could not read the picture or the model.
    """
    label = None
    if class_name is not None:
        if class_name not in model.class_names:
            message = f'class_name: this model has no class "{class_name[:80]}".'
            raise InputInvalid(message, problems=(FieldProblem("class_name", message, class_name),))
        label = model.class_names.index(class_name)
    question = {
        "kind": "heatmap",
        "storage_key": model.storage_key,
        "class_names": model.class_names,
        "image_size": model.image_size,
        "resize": model.resize,
        "blob_key": None if sha256 is None else blob_key(sha256),
        "label": label,
    }
    pictures = [] if picture is None else [picture]
    ask = functools.partial(house.queue.ask, question, pictures)
    answer = await anyio.to_thread.run_sync(ask, limiter=house.asking)
    if "error" in answer:
        raise WorkersAway(str(answer["error"]))
    return _heatmap_out(answer)


def _heatmap_out(answer: dict[str, Any]) -> HeatmapOut:
    box, pixels = answer["box"], answer["box_pixels"]
    names = ("left", "top", "right", "bottom")
    return HeatmapOut(
        class_name=answer["class_name"],
        probability=answer["probability"],
        picture=f"data:image/png;base64,{answer['picture']}",
        seen=f"data:image/png;base64,{answer['seen']}",
        box=None if box is None else Box(**dict(zip(names, box, strict=True))),
        box_pixels=None if pixels is None else PixelBox(**dict(zip(names, pixels, strict=True))),
        caption=CAPTION,
    )
