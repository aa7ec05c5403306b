"""Where a model looked on one picture, drawn."""

from typing import Any

import numpy as np

from worker.prediction.models import LoadedModel
from worker.prediction.preview import png, resizer
from worker.training.explain import drawn, in_original
from worker.training.pictures import Pixels


def heatmap(model: LoadedModel, pixels: Pixels, question: dict[str, Any]) -> dict[str, Any]:
    """Draw it.

    Args:
        model: of the shelf.
        pixels: uint8 [h, w, 3], upright.
        question: `class_names`, `image_size` (height, width), `resize`, and `label`, the class asked about; null: the model's answer.

    Returns:
        `class_name`, `probability`, `picture` (PNG in base64, of the model's size), `seen` (the same without the map), `box` (shares of
        that picture: left, top, right, bottom; null where nothing spoke for the class), `box_pixels` (of the upright original).
    """
    height, width = question["image_size"]
    probabilities = model.answers([pixels])[0].probabilities
    label = int(np.argmax(probabilities)) if question.get("label") is None else int(question["label"])
    resized = resizer(height, width, question["resize"])(pixels)
    found = drawn(resized, model.explain(resized, label))
    box = found.box
    return {
        "class_name": question["class_names"][label],
        "probability": float(probabilities[label]),
        "picture": png(found.picture),
        "seen": png(resized),
        "box": None if box is None else [round(share, 4) for share in box],
        "box_pixels": None
        if box is None
        else list(in_original(box, (pixels.shape[0], pixels.shape[1]), (height, width), question["resize"])),
    }
