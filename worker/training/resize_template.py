"""Makes a picture ready for this model: upright, RGB, the size and the way it was trained with. Needs numpy and Pillow."""

import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH, MODE = 224, 224, "crop"


def ready(path: str) -> np.ndarray:
    """A file -> uint8 [1, HEIGHT, WIDTH, 3]."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    w, h = image.size
    if MODE == "crop":
        w, h = min(w, max(1, int(h * WIDTH / HEIGHT))), min(h, max(1, int(w * HEIGHT / WIDTH)))
    elif MODE == "pad":
        w, h = max(w, int(h * WIDTH / HEIGHT)), max(h, int(w * HEIGHT / WIDTH))
    left, top = int((image.width - w) / 2), int((image.height - h) / 2)
    image = image.crop((left, top, left + w, top + h))  # outside of the picture it is black
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))[None]
