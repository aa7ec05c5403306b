"""Small pictures are encoded by us: sizes hold, nothing of the original file gets through."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.worker.ingest.corpus import encoded, pixels
from worker.ingest.thumbnails import display, thumbnail
from worker.training.pictures import decode


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(600, 300, (240, 120)), (300, 600, (120, 240)), (50, 20, (50, 20)), (5000, 2, (240, 1))],
)
def test_a_thumbnail_is_a_webp_of_at_most_240_pixels(width: int, height: int, expected: tuple[int, int]) -> None:
    image = Image.open(io.BytesIO(thumbnail(pixels(1, width=width, height=height))))
    assert (image.format, image.size) == ("WEBP", expected)


def test_a_display_picture_is_a_jpeg_of_at_most_1600_pixels() -> None:
    image = Image.open(io.BytesIO(display(pixels(1, width=2000, height=1000))))
    assert (image.format, image.size) == ("JPEG", (1600, 800))


def test_a_thumbnail_looks_like_its_picture() -> None:
    original = pixels(2, width=240, height=160)
    assert np.abs(decode(thumbnail(original)).astype(int) - original).mean() < 5


def test_nothing_of_the_file_but_its_pixels_gets_through() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    small = thumbnail(decode(encoded(pixels(3, width=40, height=20), "JPEG", exif=exif, comment=b"a secret")))
    assert b"secret" not in small
    assert Image.open(io.BytesIO(small)).size == (20, 40)
    assert not Image.open(io.BytesIO(small)).getexif()
