"""Small pictures that we encode ourselves, from pixels: no EXIF, no profile, no foreign byte gets through."""

import io

from PIL import Image

from worker.training.pictures import Pixels

LEAST_PIXELS = 200  # of the longer side: a JPEG is decoded at the smallest half, quarter or eighth that has as many
MOST_PIXELS = 400  # which such a one nearly always keeps: making it smaller would cost more than decoding it did
RESIZED_PIXELS = 240
DISPLAY_PIXELS = 1600


def shrunk(image: Image.Image) -> Image.Image:
    """The picture itself where its longer side has at most 400 pixels, else 240 of them: what is shown small, and looked at."""
    if max(image.size) <= MOST_PIXELS:
        return image
    # HAMMING: as sharp as BICUBIC to the eye here, in two thirds of its time
    return _resized(image, RESIZED_PIXELS, Image.Resampling.HAMMING)


def thumbnail(small: Image.Image) -> bytes:
    """JPEG of what `shrunk` gave: as large as WebP at its quickest, in an eighth of its time."""
    return _encoded(small, quality=75)


def display(pixels: Pixels) -> bytes:
    """JPEG for serving inline, at most 1,600 pixels on the longer side, from uint8 `[h, w, 3]`."""
    image = Image.fromarray(pixels)
    if max(image.size) > DISPLAY_PIXELS:
        image = _resized(image, DISPLAY_PIXELS, Image.Resampling.BICUBIC)
    return _encoded(image, quality=90)


def _resized(image: Image.Image, longest: int, how: Image.Resampling) -> Image.Image:
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # reducing_gap: whole-number reduction first, four times as fast on a photograph and hardly to be told apart
    return image.resize(size, how, reducing_gap=2.0)


def _encoded(image: Image.Image, *, quality: int) -> bytes:
    out = io.BytesIO()
    if image.info:  # Pillow would write the comment of the opened file again
        image = image.copy()
        image.info = {}
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
