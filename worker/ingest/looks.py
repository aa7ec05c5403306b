"""What a picture looks like, in a thousand bytes: enough to find its near duplicates and to say what is odd about it.

Made in the checker process from pixels that are decoded anyway. Hashes are perceptual hashes as `imagehash.phash` makes them (DCT of a 32
x 32 grey picture, 8 x 8 lowest frequencies against their median) of the whole picture, of windows in it (95 % of each side in the middle
and in the corners, 90 % in the middle), and of its mirror image: a cropped or mirrored copy has nearly the hash that its original has
there.

The quality measures are those of cleanvision 0.3 (`image_property.py`), on at most 240 pixels: brightness sqrt(.241 R² + .691 G² + .068
B²), blur by the edges of 64 pixels, entropy of the grey values. Its own code is not called: importing it loads pandas and matplotlib,
seconds for every checker.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFilter, ImageStat

from core.quality import Flag
from worker.training.pictures import FORMATS, Pixels

GREY = 32  # pixels a side of the grey copy
# what the hashes see: share of each side, and where the window lies across and down (0 at the start, 1 at the end)
WINDOWS = ((1.0, 0.0, 0.0), (0.95, 0.5, 0.5), *((0.95, x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)), (0.9, 0.5, 0.5))
HASHES = len(WINDOWS) + 1  # and the mirror image
SMALL = 240
FLATTEST = 3.0  # grey levels: below this standard deviation there is nothing to hash

DARKEST = 0.32  # brightness of the 99th percentile below this: dark
LIGHTEST = 0.95  # brightness of the 5th percentile above this: overexposed
LEAST_ENTROPY = 3.0  # bits of the grey values below this, and flat: blank
BLURRIEST = 0.29
BLUR_SCALE, BLUR_SPREAD = 0.01, 0.18
SMALLEST_SIDE = 32  # pixels of the shorter side below this: tiny
ODDEST = 0.35  # shorter by longer side below this: odd aspect ratio

Grey = npt.NDArray[np.float32]
# the first 8 rows of the type II cosine transform of 32 points (without its factors, which no comparison sees)
_COSINES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(GREY) + 1) / (2 * GREY)).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """What is kept of a picture.

    Attributes:
        hashes: 8 bytes for each window and for the mirror image; empty for a picture without anything on it.
        grey: 32 x 32 bytes, row by row.
        flags: what is odd about it.
        camera: maker and model, where EXIF says.
        taken_at: seconds since 1970 by the camera's clock, where EXIF says.
    """

    hashes: bytes
    grey: bytes
    flags: frozenset[Flag]
    camera: str | None = None
    taken_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For the checker's answer."""
        texts = {"hashes": base64.b64encode(self.hashes).decode(), "grey": base64.b64encode(self.grey).decode()}
        return {**texts, "flags": sorted(self.flags), "camera": self.camera, "taken_at": self.taken_at}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Look":
        """Back from it."""
        flags = frozenset(Flag(one) for one in said["flags"])
        return cls(
            base64.b64decode(said["hashes"]), base64.b64decode(said["grey"]), flags, said["camera"], said["taken_at"]
        )


def look_at(pixels: Pixels, size: tuple[int, int] | None = None, source: Path | None = None) -> Look:
    """The look of a decoded picture.

    Args:
        pixels: uint8 `[h, w, 3]`, perhaps decoded smaller than it is.
        size: width and height that it really has.
        source: the file, read for camera and time.
    """
    image = Image.fromarray(pixels)
    small = _at_most(image, SMALL)
    grey = small.convert("L")
    whole = _sampled(grey, *WINDOWS[0])
    hashes = b""
    if float(whole.std()) >= FLATTEST:
        windows = [whole, *(_sampled(grey, *window) for window in WINDOWS[1:])]
        hashes = b"".join(perceptual_hash(one) for one in [*windows, whole[:, ::-1]])
    camera, taken_at = _exif(source) if source is not None else (None, None)
    return Look(
        hashes, whole.round().astype(np.uint8).tobytes(), _flags(size or image.size, small, grey), camera, taken_at
    )


def _at_most(image: Image.Image, longest: int) -> Image.Image:
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)


def _sampled(grey: Image.Image, share: float, across: float, down: float) -> Grey:
    """One of `WINDOWS` on 32 x 32 points."""
    width, height = grey.size
    left, top = width * (1 - share) * across, height * (1 - share) * down
    box = (left, top, min(width, left + width * share), min(height, top + height * share))
    return np.asarray(grey.resize((GREY, GREY), Image.Resampling.LANCZOS, box=box), np.float32)


def perceptual_hash(grey: Grey) -> bytes:
    """64 bits of a 32 x 32 grey picture, as `imagehash.phash` has them."""
    low = _COSINES @ grey @ _COSINES.T
    return np.packbits(low > np.median(low)).tobytes()


def _flags(size: tuple[int, int], small: Image.Image, grey: Image.Image) -> frozenset[Flag]:
    width, height = size
    found = set()
    rgb = np.asarray(small, np.float32)
    brightness = np.sqrt(rgb**2 @ np.array([0.241, 0.691, 0.068], np.float32)) / 255
    low, high = np.percentile(brightness, [5, 99])
    if high < DARKEST:
        found.add(Flag.DARK)
    if low > LIGHTEST:
        found.add(Flag.OVEREXPOSED)
    if grey.entropy() < LEAST_ENTROPY and float(np.asarray(grey).std()) < FLATTEST:
        found.add(Flag.BLANK)
    elif _sharpness(small) < BLURRIEST:
        found.add(Flag.BLURRY)
    if min(width, height) < SMALLEST_SIDE:
        found.add(Flag.TINY)
    if min(width, height) / max(width, height) < ODDEST:
        found.add(Flag.ODD_ASPECT)
    return frozenset(found)


def _sharpness(small: Image.Image) -> float:
    """cleanvision's blur score, 0 blurry to 1 sharp."""
    grey = _at_most(small, 64).convert("L")
    edges = math.sqrt(ImageStat.Stat(grey.filter(ImageFilter.FIND_EDGES)).var[0])
    spread = 1 - math.exp(-float(np.std(grey.histogram())) * BLUR_SCALE)
    return min(1.0, 1 - math.exp(-edges * BLUR_SCALE) + (spread if spread > BLUR_SPREAD else 0.0))


def _exif(source: Path) -> tuple[str | None, float | None]:
    """Camera and time of a picture; broken EXIF is no EXIF."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            exif = image.getexif()
            taken = exif.get_ifd(ExifTags.IFD.Exif)
        parts = [str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
        camera = " ".join(part for part in parts if part)[:120]
        said = str(taken.get(ExifTags.Base.DateTimeOriginal, "")).strip("\0 ")
        moment = datetime.strptime(said, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except Exception:  # noqa: BLE001 - whatever a file says there, the picture itself is fine
        return None, None
    return (camera, moment) if camera.isprintable() and camera else (None, None)
