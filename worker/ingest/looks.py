"""What a picture looks like, in a thousand bytes: enough to find its near duplicates and to say what is odd about it.

Made in the checker process from pixels that are decoded anyway, of the small picture that becomes the thumbnail. Hashes are perceptual
hashes as `imagehash.phash` makes them (DCT of a 32 x 32 grey picture, 8 x 8 lowest frequencies against their median) of the whole
picture, of windows in it (95 % of each side in the middle and in the corners, 90 % in the middle), and of its mirror image: a cropped or
mirrored copy has nearly the hash that its original has there. Sampling a window on 32 points and taking the 8 lowest cosines of them are
both linear, and each is the same along rows and columns: so all windows come from one product of three matrices.

The quality measures are those of cleanvision 0.3 (`image_property.py`), on at most 400 pixels: brightness sqrt(.241 R² + .691 G² + .068
B²) of every few pixels, blur by the edges of 64 pixels, entropy of the grey values. Its own code is not called: importing it loads pandas
and matplotlib, seconds for every checker.
"""

import base64
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from core.quality import Flag
from worker.ingest.thumbnails import shrunk

GREY = 32  # pixels a side of the grey copy
# what the hashes see: share of each side, and where the window lies across and down (0 at the start, 1 at the end)
WINDOWS = ((1.0, 0.0, 0.0), (0.95, 0.5, 0.5), *((0.95, x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)), (0.9, 0.5, 0.5))
HASHES = len(WINDOWS) + 1  # and the mirror image
FLATTEST = 3.0  # grey levels: below this standard deviation there is nothing to hash
HALVED_FROM = 128  # pixels of the shorter side of a grey picture from which 32 points are sampled off its half
SAMPLED = 96  # pixels of the longer side that are asked for their brightness, or a few more

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


def look_at(image: Image.Image, size: tuple[int, int] | None = None, shot: tuple[str, str, str] | None = None) -> Look:
    """The look of a decoded picture.

    Args:
        image: mode RGB, perhaps smaller than it is.
        size: width and height that it really has.
        shot: maker, model and time of taking, where EXIF says (`worker.training.pictures.Picture`).
    """
    small = shrunk(image)
    grey = small.convert("L")
    whole, hashes = _sampled(grey)
    flat = _deviation(whole.ravel()) < FLATTEST
    camera, taken_at = _taken(shot) if shot is not None else (None, None)
    return Look(
        b"" if flat else hashes,
        whole.clip(0, 255).round().astype(np.uint8).tobytes(),
        _flags(size or image.size, small, grey, flat=flat),
        camera,
        taken_at,
    )


_PLACES = ((1.0, 0.0), (0.95, 0.5), (0.95, 0.0), (0.95, 1.0), (0.9, 0.5))  # of the windows, along one side
_DOWN = np.array([_PLACES.index((share, down if share < 1 else 0.0)) for share, _, down in WINDOWS])
_ACROSS = np.array([_PLACES.index((share, across if share < 1 else 0.0)) for share, across, _ in WINDOWS])
_MIRROR = np.array([1, -1] * 4, np.float32)  # every other cosine changes its sign


def _sampled(grey: Image.Image) -> tuple[Grey, bytes]:
    """The whole picture on 32 x 32 points, and its hashes."""
    width, height = grey.size
    halved = min(width, height) >= HALVED_FROM
    values = np.asarray(grey.reduce(2) if halved else grey, np.float32)
    step = 2 if halved else 1
    both: Grey = (_sampling(height, step) @ values @ _sampling(width, step).T).astype(np.float32, copy=False)
    low = both[GREY:, GREY:].reshape(len(_PLACES), 8, len(_PLACES), 8)[_DOWN, :, _ACROSS]
    return both[:GREY, :GREY], _bits(np.concatenate([low, low[:1] * _MIRROR]))


@functools.lru_cache(maxsize=1024)
def _sampling(length: int, step: int) -> Grey:
    """`[32 + 8 * places, samples]`: takes a side to 32 points of the whole of it, and to the 8 lowest cosines of every place.

    Args:
        length: pixels of the side.
        step: how many of them are one sample (the last one may be of fewer).
    """
    samples = -(-length // step)
    ends = np.minimum(np.arange(samples + 1) * step, length)
    centres = (ends[1:] + ends[:-1]) / 2
    rows = []
    for share, place in _PLACES:
        scale = length * share / GREY
        points = length * (1 - share) * place + (np.arange(GREY) + 0.5) * scale
        apart = (centres - points[:, None]) / max(scale, step)
        weights = np.where(np.abs(apart) < 3, np.sinc(apart) * np.sinc(apart / 3), 0)  # Lanczos with three lobes
        rows.append(weights / weights.sum(axis=1, keepdims=True))
    return np.concatenate([rows[0], *(_COSINES @ one for one in rows)]).astype(np.float32)


def perceptual_hash(grey: Grey) -> bytes:
    """64 bits of a 32 x 32 grey picture, as `imagehash.phash` has them."""
    return _bits((_COSINES @ grey @ _COSINES.T).astype(np.float32, copy=False)[None])


def _bits(low: Grey) -> bytes:
    """8 bytes each of `[n, 8, 8]`: which cosines are above their median."""
    flat = low.reshape(-1, 64)
    middle = np.partition(flat, (31, 32), axis=1)[:, 31:33].mean(axis=1, keepdims=True)
    return np.packbits(flat > middle, axis=1).tobytes()


def _flags(size: tuple[int, int], small: Image.Image, grey: Image.Image, *, flat: bool) -> frozenset[Flag]:
    width, height = size
    found = _brightness(small)
    if flat and grey.entropy() < LEAST_ENTROPY and float(np.asarray(grey).std()) < FLATTEST:
        found.add(Flag.BLANK)
    elif _sharpness(grey) < BLURRIEST:
        found.add(Flag.BLURRY)
    if min(width, height) < SMALLEST_SIDE:
        found.add(Flag.TINY)
    if min(width, height) / max(width, height) < ODDEST:
        found.add(Flag.ODD_ASPECT)
    return frozenset(found)


def _brightness(small: Image.Image) -> set[Flag]:
    step = max(1, max(small.size) // SAMPLED)
    some = small.resize((-(-small.width // step), -(-small.height // step)), Image.Resampling.NEAREST)
    rgb = np.asarray(some, np.float32)
    squares = (rgb * rgb) @ np.array([0.241, 0.691, 0.068], np.float32)
    found = set()
    # a percentile lies below a bound when so many values do: no need to sort them
    if np.count_nonzero(squares < (DARKEST * 255) ** 2) > 0.99 * squares.size:
        found.add(Flag.DARK)
    if np.count_nonzero(squares > (LIGHTEST * 255) ** 2) > 0.95 * squares.size:
        found.add(Flag.OVEREXPOSED)
    return found


def _sharpness(grey: Image.Image) -> float:
    """cleanvision's blur score, 0 blurry to 1 sharp."""
    scale = 64 / max(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    edges = _deviation(np.asarray(grey.filter(ImageFilter.FIND_EDGES), np.float32).ravel())
    spread = 1 - math.exp(-_deviation(np.array(grey.histogram(), np.float32)) * BLUR_SCALE)
    return min(1.0, 1 - math.exp(-edges * BLUR_SCALE) + (spread if spread > BLUR_SPREAD else 0.0))


def _deviation(values: Grey) -> float:
    """Standard deviation of a few thousand values; numpy's own takes longer to begin than this takes."""
    count = len(values)
    mean = float(values.sum()) / count
    return math.sqrt(max(0.0, float(values @ values) / count - mean * mean))


def _taken(shot: tuple[str, str, str]) -> tuple[str | None, float | None]:
    """Camera and time of a picture; a time that cannot be read is none."""
    make, model, said = shot
    camera = " ".join(part for part in (make, model) if part)[:120]
    try:
        moment = datetime.strptime(said, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None, None
    return (camera, moment) if camera.isprintable() and camera else (None, None)
