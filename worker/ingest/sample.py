"""A sample set made on the spot: photograph-like pictures of leaves, pebbles and shells lying about, different for each seed.

Only numpy and Pillow. The classes share grounds, colours, sizes and light, and a picture may be dark, blurred or noisy: what tells
them apart is what lies there. Nothing is licensed, fetched or shipped.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from core.uploads import SAMPLE_CLASSES, SAMPLE_PICTURES

Field = npt.NDArray[np.float32]  # [h, w] or [h, w, 3], 0..1
SIDES = (320, 240)
_GRIT = 14.0  # pixels: smaller things have no texture of their own

_GROUNDS = (
    (0.76, 0.68, 0.53),  # sand
    (0.36, 0.28, 0.21),  # soil
    (0.34, 0.42, 0.22),  # grass
    (0.52, 0.51, 0.49),  # stone
    (0.33, 0.44, 0.48),  # wet
    (0.55, 0.40, 0.27),  # wood
)
_COLOURS = (
    (0.33, 0.47, 0.17),
    (0.62, 0.60, 0.25),
    (0.71, 0.43, 0.20),
    (0.55, 0.25, 0.17),
    (0.47, 0.37, 0.28),
    (0.62, 0.60, 0.57),
    (0.83, 0.74, 0.63),
    (0.76, 0.58, 0.52),
)


@dataclass(frozen=True)
class _Shape:
    """One thing in its own coordinates: `inside` > 0 within its outline (falling to 0 there), `light` about 1."""

    inside: Field
    light: Field


def sample_pictures(seed: int) -> Iterator[tuple[str, bytes]]:
    """The pictures of a sample set, class by class.

    Args:
        seed: decides every picture; the same seed gives the same set.

    Yields:
        (path with its class folder, JPEG bytes), 150 in three classes.
    """
    for label, class_name in enumerate(SAMPLE_CLASSES):
        for number in range(SAMPLE_PICTURES // len(SAMPLE_CLASSES)):
            random = np.random.default_rng([seed, label, number])
            yield f"{class_name}/{class_name[:-1]}-{number + 1:02}.jpg", _photograph(random, _DRAW[label])


def _photograph(random: np.random.Generator, draw: "_Draw") -> bytes:
    width, height = SIDES if random.random() < 0.7 else SIDES[::-1]
    scene = _ground(random, height, width)
    count = int(random.choice([1, 1, 2, 3, 5, 8]))
    side = min(height, width) * random.uniform(0.36, 0.62) / math.sqrt(count) * 1.35
    for _ in range(count):
        _put(scene, random, draw, side * random.uniform(0.75, 1.2))
    return _developed(scene, random)


def _ground(random: np.random.Generator, height: int, width: int) -> Field:
    """What the things lie on: a colour with texture on several scales, sometimes in streaks, with litter of no class."""
    colour = _varied(random, _GROUNDS)
    streaks = float(random.choice([1.0, 1.0, 5.0]))
    texture = _clouds(random, height, width, streaks)
    tint = 0.04 * (_clouds(random, height, width, 1.0)[..., None] - 0.5) * random.normal(0, 1, 3).astype(np.float32)
    scene: Field = (colour * (0.55 + 0.9 * texture[..., None]) + tint).astype(np.float32)
    for _ in range(int(random.integers(0, 24))):
        _put(scene, random, _litter, random.uniform(3, _GRIT))
    return scene


def _varied(random: np.random.Generator, colours: tuple[tuple[float, float, float], ...]) -> Field:
    """One of the colours, slightly off."""
    off = random.normal(0, 0.03, 3)
    varied: Field = (np.array(colours[random.integers(len(colours))]) + off).astype(np.float32)
    return varied


def _clouds(random: np.random.Generator, height: int, width: int, streaks: float) -> Field:
    """Noise on five scales, 0..1; `streaks` > 1 draws it out sideways."""
    total = np.zeros((height, width), np.float32)
    fade = random.uniform(0.5, 0.8)
    for octave in range(5):
        rows, columns = 3 * 2**octave, max(2, round(4 * 2**octave / streaks))
        coarse = Image.fromarray(random.random((rows, columns), np.float32))
        total += fade**octave * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    total -= total.min()
    scaled: Field = total / total.max()
    return scaled


_Draw = Callable[[np.random.Generator, Field, Field], _Shape]


def _put(scene: Field, random: np.random.Generator, draw: _Draw, side: float) -> None:
    """Lay one thing of about `side` pixels somewhere into the scene, turned and foreshortened, with its shadow."""
    height, width = scene.shape[:2]
    x, y = random.uniform(0.12, 0.88) * width, random.uniform(0.12, 0.88) * height
    reach = int(side * 1.1) + 4
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    right, bottom = min(width, int(x) + reach), min(height, int(y) + reach)
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    turn, tilt = random.uniform(0, 2 * math.pi), random.uniform(0.65, 1.0)
    dx, dy = (columns - x) / side * 2, (rows - y) / side * 2 / tilt
    u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    shape = draw(random, u, v)
    mask = np.clip(shape.inside * side / 3, 0, 1)[..., None]
    colour = _varied(random, _COLOURS)
    mottled = 0.8 + 0.4 * _clouds(random, bottom - top, right - left, 1.0) if side > _GRIT else 1.0
    body = colour * (shape.light * mottled)[..., None]
    here = scene[top:bottom, left:right]
    offset = max(1, int(side / 18))
    shadow = np.roll(mask, (offset, offset), (0, 1)) * random.uniform(0.25, 0.6)
    here *= 1 - shadow * (1 - mask)
    here += mask * (body - here)


def _leaf(random: np.random.Generator, u: Field, v: Field) -> _Shape:
    """Pointed at both ends, a bent midrib, slanting veins, often a toothed edge."""
    v = v - random.uniform(-0.35, 0.35) * u**2
    along = np.clip((u + 1) / 2, 0, 1)
    breadth = random.uniform(0.28, 0.62) * np.sin(math.pi * along ** random.uniform(0.6, 1.3)).clip(0) ** 0.8
    teeth, depth = random.uniform(20, 70), random.choice([0.0, 0.05, 0.1])
    breadth = breadth * (1 - depth * (0.5 + 0.5 * np.sin(teeth * along)))
    inside = np.where(np.abs(u) < 1, breadth - np.abs(v), -1.0)
    stalk = np.where((u < -0.9) & (u > -1.3), 0.03 - np.abs(v), -1.0)
    veins = np.sin(random.uniform(18, 34) * (u - random.uniform(0.7, 1.2) * np.abs(v)))
    light = 0.95 + 0.12 * (veins > 0.86) + 0.25 * np.exp(-((v / 0.03) ** 2)) + 0.12 * np.sign(v) * random.uniform(-1, 1)
    return _Shape(np.maximum(inside, stalk).astype(np.float32), light.astype(np.float32))


def _pebble(random: np.random.Generator, u: Field, v: Field) -> _Shape:
    """Round or oblong without corners, lit as a dome, sometimes with a band or speckles."""
    v = v / random.uniform(0.55, 0.95)
    angle, power = np.arctan2(v, u), random.uniform(1.8, 2.8)
    bumps = 1 + sum(random.normal(0, 0.05) * np.cos(k * angle + random.uniform(0, 6)) for k in (2, 3, 4))
    radius = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power) / (0.85 * bumps)
    dome = np.sqrt(np.clip(1 - radius**2, 0, 1))
    light = 0.55 + 0.55 * dome + random.uniform(0.1, 0.3) * (u * math.cos(2.3) + v * math.sin(2.3))
    if random.random() < 0.3:
        light = light + 0.4 * np.exp(-(((u - random.uniform(-0.4, 0.4) - 0.2 * v) / 0.06) ** 2))
    if random.random() < 0.5:
        light = light * (1 + 0.18 * random.standard_normal(u.shape))
    return _Shape((0.7 * (1 - radius)).astype(np.float32), light.astype(np.float32))


def _shell(random: np.random.Generator, u: Field, v: Field) -> _Shape:
    """A fan of ribs from one point, growth rings across them, a scalloped rim; now and then worn nearly smooth."""
    u = u + 0.75
    radius, angle = np.hypot(u, v) / 1.6, np.arctan2(v, u)
    opening, ribs = random.uniform(0.75, 1.15), int(random.integers(9, 22))
    wave = np.cos(angle / opening * ribs * math.pi / 2)
    rim = 1 - 0.25 * (angle / opening) ** 2 + random.uniform(0.01, 0.04) * wave
    inside = np.minimum(rim - radius, (opening - np.abs(angle)) * radius)
    relief = random.uniform(0.08, 0.35)
    rings = np.sin(radius * random.uniform(14, 40)) * random.uniform(0.02, 0.12)
    light = 0.7 + 0.35 * np.sin(np.clip(radius / rim, 0, 1) * math.pi * 0.8) + relief * wave * radius + rings
    return _Shape(inside.astype(np.float32), light.astype(np.float32))


def _litter(random: np.random.Generator, u: Field, v: Field) -> _Shape:
    """Twigs and grit."""
    breadth = random.choice([0.1, 0.2, 0.7])
    return _Shape((breadth - np.hypot(u * breadth, v)).astype(np.float32), np.full(u.shape, 0.9, np.float32))


_DRAW: tuple[_Draw, ...] = (_leaf, _pebble, _shell)


def _developed(scene: Field, random: np.random.Generator) -> bytes:
    """What a camera makes of the scene: light from one side, a colour cast, exposure, blur, noise, JPEG."""
    height, width = scene.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    turn = random.uniform(0, 2 * math.pi)
    slope = 1 + random.uniform(0, 0.4) * (columns * math.cos(turn) + rows * math.sin(turn))
    falloff = 1 - random.uniform(0, 0.25) * (columns**2 + rows**2)
    cast = (random.normal(1, 0.05, 3) * math.exp(random.normal(0, 0.28))).astype(np.float32)
    light = scene * (slope * falloff)[..., None] * cast
    light = np.clip(light, 0, 1) ** random.uniform(0.8, 1.2)
    picture = Image.fromarray((light * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(float(random.choice([0.5, 0.7, 1.0, 1.6, 2.6]))))
    grain = random.standard_normal((height, width, 3), np.float32)
    noisy = np.asarray(picture) + grain * random.uniform(1, 9)
    picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=int(random.integers(70, 93)))
    return out.getvalue()
