"""How alike two pictures are once one is laid over the other: cropped by up to a fifth, turned by a few degrees, mirrored.

The second look at a pair that somebody else proposed (features do). Far more positions are tried than for what hashes propose
(`worker.ingest.near`): a pair costs milliseconds, and there are few. It sees the grey copies of 32 x 32 points, so colours are nothing to
it, and text or a mark on a picture is little.
"""

import math
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from worker.ingest.looks import GREY
from worker.ingest.near import Greys, Ints, normal, without_soft

ALIKE = 0.8  # least correlation
ALIKE_DETAIL = 0.75  # and of what remains without their soft parts
PAIRS_AT_ONCE = 32  # each has 3 MB of positions
_TURNS = (-8, -6, -4, -2, 2, 4, 6, 8)  # degrees
_MIDDLE = 0.85  # share of each side that is compared of a turned picture: its corners are not of the other
_STEPS = {0.95: 3, 0.9: 3, 0.85: 4, 0.8: 5}  # share of each side -> places of a window across, and down
_ONE_SIDE = (0.9, 0.8)  # cut off one side only

Matrix = Any  # sparse, of scipy, which has no types


def _places(count: int) -> list[float]:
    return [number / (count - 1) for number in range(count)]


def _window(
    high: float = 1.0, wide: float = 1.0, down: float = 0.5, across: float = 0.5, *, degrees: float = 0.0
) -> Matrix:
    """`[GREY², GREY²]`: what cuts a window out of a picture (shares of its sides, place in it), turned, and stretches it, bilinearly."""
    y, x = (np.mgrid[0:GREY, 0:GREY] + 0.5) / GREY
    y, x = (1 - high) * down + y * high, (1 - wide) * across + x * wide
    turn = math.radians(degrees)
    y, x = (
        0.5 + math.cos(turn) * (y - 0.5) - math.sin(turn) * (x - 0.5),
        0.5 + math.sin(turn) * (y - 0.5) + math.cos(turn) * (x - 0.5),
    )
    (top, low), (left, right) = _between(y), _between(x)
    points = np.arange(GREY * GREY)
    corners = list(product((top, low), (left, right)))
    return sparse.csr_matrix(
        (
            np.concatenate([share * part for (_, share), (_, part) in corners]).astype(np.float32),
            (np.tile(points, 4), np.concatenate([row * GREY + column for (row, _), (column, _) in corners])),
        ),
        (GREY * GREY, GREY * GREY),
    )


def _between(shares: npt.NDArray[np.float64]) -> tuple[tuple[Ints, npt.NDArray[np.float64]], ...]:
    """The points on both sides of a place, 0 to 1, and how much of each."""
    places = np.clip(shares.ravel() * GREY - 0.5, 0, GREY - 1)
    before = np.minimum(places.astype(np.int64), GREY - 2)
    part = places - before
    return (before, 1 - part), (before + 1, part)


def _crops() -> list[Matrix]:
    windows = [(share, share, *place) for share, steps in _STEPS.items() for place in product(_places(steps), repeat=2)]
    windows += [(share, 1.0, place, 0.5) for share in _ONE_SIDE for place in _places(3)]
    windows += [(1.0, share, 0.5, place) for share in _ONE_SIDE for place in _places(3)]
    return [_window(), *(_window(*window) for window in windows)]


_CROPS = _crops()
# what is compared: all of one with every window of the other, and the middle of one with the turned middle of the other
_COMPARED: tuple[tuple[Matrix, Matrix, int], ...] = (
    (_window(), sparse.vstack(_CROPS).tocsr(), len(_CROPS)),
    (
        _window(_MIDDLE, _MIDDLE),
        sparse.vstack([_window(_MIDDLE, _MIDDLE, degrees=degrees) for degrees in _TURNS]).tocsr(),
        len(_TURNS),
    ),
)


def aligned(pictures: Greys, pairs: Ints) -> npt.NDArray[np.float64]:
    """Correlation of pairs where they fit best; 0 where they are not alike.

    Args:
        pictures: `[n, 32, 32]`.
        pairs: `[k, 2]`, indices of pictures.
    """
    best = np.zeros(len(pairs))
    flipped = pictures[:, :, ::-1]
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        for one, other in (pairs[some].T, pairs[some].T[::-1]):
            for whole in (pictures, flipped):
                for compared in _COMPARED:
                    best[some] = np.maximum(best[some], _best(whole[one], pictures[other], *compared))
    return best


def _best(ones: Greys, others: Greys, cut: Matrix, windows: Matrix, count: int) -> npt.NDArray[np.float64]:
    wholes = _softened((cut @ _flat(ones).T).T.reshape(-1, GREY, GREY))
    found = _softened((windows @ _flat(others).T).T.reshape(-1, GREY, GREY))
    soft = _correlations(wholes, found, count)
    fine = _correlations(without_soft(wholes), without_soft(found), count)
    fits = (soft >= ALIKE) & (fine >= ALIKE_DETAIL)
    scores: npt.NDArray[np.float64] = np.where(fits, soft, 0).max(axis=1)
    return scores


def _flat(pictures: Greys) -> Greys:
    return pictures.reshape(len(pictures), -1)


def _correlations(wholes: Greys, windows: Greys, count: int) -> Greys:
    """`[k, count]` of k wholes with `count` windows each."""
    found: Greys = (normal(windows).reshape(len(wholes), count, -1) @ normal(wholes)[:, :, None])[..., 0]
    return found


def _softened(pictures: Greys) -> Greys:
    """By (1, 2, 1) in both directions: how a picture was made small before counts less then."""
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    soft: Greys = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return soft
