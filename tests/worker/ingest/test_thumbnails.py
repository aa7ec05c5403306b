"""Small pictures are encoded by us: sizes hold, nothing of the original file gets through."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.worker.ingest.corpus import encoded, pixels
from worker.ingest.thumbnails import display, shrunk, thumbnail
from worker.training.pictures import decode, examine


def small_of(array: np.ndarray) -> bytes:
    return thumbnail(shrunk(Image.fromarray(array)))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (600, 300, (240, 120)),
        (300, 600, (120, 240)),
        (400, 200, (400, 200)),
        (401, 200, (240, 120)),
        (5000, 2, (240, 1)),
    ],
)
def test_a_thumbnail_is_a_jpeg_of_240_pixels_or_up_to_400_as_they_are(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    image = Image.open(io.BytesIO(small_of(pixels(1, width=width, height=height))))
    assert (image.format, image.size) == ("JPEG", expected)


def test_a_display_picture_is_a_jpeg_of_at_most_1600_pixels() -> None:
    image = Image.open(io.BytesIO(display(pixels(1, width=2000, height=1000))))
    assert (image.format, image.size) == ("JPEG", (1600, 800))


def test_a_thumbnail_looks_like_its_picture() -> None:
    original = pixels(2, width=240, height=160)
    assert np.abs(decode(small_of(original)).astype(int) - original).mean() < 5


def test_nothing_of_the_file_but_its_pixels_gets_through() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    file = encoded(pixels(3, width=40, height=20), "JPEG", exif=exif, comment=b"a secret", icc_profile=b"a secret")
    small = thumbnail(shrunk(examine(file).image))
    assert b"secret" not in small
    assert Image.open(io.BytesIO(small)).size == (20, 40)
    assert not Image.open(io.BytesIO(small)).getexif()
