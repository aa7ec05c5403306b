"""The robustness card: the test pictures again, made worse in seven ways, and whether a class is decided by the border.

Everything happens on the pictures as the network sees them (resized, uint8) and through the same graph that is scored.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import binom

from worker.training.pictures import Pixels
from worker.training.statistics import accuracy_interval, mcnemar, votes

MOST_PICTURES = 300
BORDER = 0.18  # of height and width, on each side: the centre that is left is 41 % of the picture
_GREY = 127
_TURN = 15  # degrees
_ALARM = 0.01  # chance, over all classes of a run, of calling out a class whose border and centre say the same
_LEAST_BORDER_RECALL = 0.6
_MOST_BORDER_FALSE = 0.1
Answer = Callable[[np.ndarray], np.ndarray]


def _blur(pixels: Pixels) -> Pixels:
    side = min(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(side * 0.01)))


def _noise(pixels: Pixels) -> Pixels:
    random = np.random.default_rng(int(pixels.astype(np.int64).sum()))
    noisy: Pixels = (pixels + random.normal(0.0, 20.0, pixels.shape)).round().clip(0, 255).astype(np.uint8)
    return noisy


def _jpeg(pixels: Pixels) -> Pixels:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


def _darker(pixels: Pixels) -> Pixels:
    dark: Pixels = (pixels * 0.5).round().astype(np.uint8)
    return dark


def _rotated(pixels: Pixels) -> Pixels:
    """Turned about its centre; what comes in at the corners is the picture mirrored at its border."""
    height, width = pixels.shape[:2]
    rows, columns = _reach(height, width), _reach(width, height)
    grown = np.pad(pixels, [(rows, rows), (columns, columns), (0, 0)], mode="symmetric")
    turned = Image.fromarray(grown).rotate(_TURN, Image.Resampling.BILINEAR)
    return np.asarray(turned)[rows : rows + height, columns : columns + width]


def _reach(along: int, across: int) -> int:
    """Pixels that a turned picture's corner comes from outside of it, and two for the interpolation."""
    turn = math.radians(_TURN)
    return 2 + max(0, math.ceil((along * (math.cos(turn) - 1) + across * math.sin(turn)) / 2))


def _inside(pixels: Pixels) -> tuple[slice, slice]:
    rows, columns = (round(side * BORDER) for side in pixels.shape[:2])
    return slice(rows, pixels.shape[0] - rows), slice(columns, pixels.shape[1] - columns)


def _centre_only(pixels: Pixels) -> Pixels:
    left = np.full_like(pixels, _GREY)
    inside = _inside(pixels)
    left[inside] = pixels[inside]
    return left


def _border_only(pixels: Pixels) -> Pixels:
    left = pixels.copy()
    left[_inside(pixels)] = _GREY
    return left


CHANGES: Mapping[str, Callable[[Pixels], Pixels]] = {
    "blur": _blur,
    "noise": _noise,
    "jpeg_30": _jpeg,
    "darker": _darker,
    "rotated_15": _rotated,
    "centre_only": _centre_only,
    "border_only": _border_only,
}


def sample(labels: np.ndarray, most: int = MOST_PICTURES) -> np.ndarray:
    """Places of the pictures that are looked at: all, or so many with every class in its share. int64, ascending."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    random = np.random.default_rng(0)
    shuffled = np.concatenate([random.permutation(order[labels[order] == label]) for label in np.unique(labels)])
    kept: np.ndarray = np.sort(shuffled[np.linspace(0, len(labels) - 1, most).round().astype(int)])
    return kept


def robustness(
    pixels: np.ndarray, labels: np.ndarray, groups: np.ndarray, class_names: Sequence[str], answer: Answer
) -> dict[str, Any]:
    """The card of some test pictures.

    Args:
        pixels: uint8 [n, H, W, 3], resized.
        labels: int [n].
        groups: int [n], see `group_numbers`.
        class_names: by label.
        answer: uint8 [m, H, W, 3] -> float32 probabilities [m, classes].

    Returns:
        `pictures`; `accuracy`, `interval` unchanged; `changes`: rows `{name, accuracy, interval, lost, gained, p_value}` against the
        unchanged pictures; `border`: see `decided_by_border`.
    """
    plain = answer(pixels).argmax(axis=1)
    said = {name: answer(np.stack([change(one) for one in pixels])).argmax(axis=1) for name, change in CHANGES.items()}
    return {
        "pictures": len(labels),
        **_score(plain == labels, groups),
        "changes": [_row(name, found == labels, plain == labels, groups) for name, found in said.items()],
        "border": decided_by_border(said["border_only"], said["centre_only"], labels, groups, class_names),
    }


def _score(right: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    found = accuracy_interval(right, groups)
    return {"accuracy": float(right.mean()), "interval": [found.low, found.high]}


def _row(name: str, right: np.ndarray, before: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    gained, lost = int(np.count_nonzero(right & ~before)), int(np.count_nonzero(before & ~right))
    facts = {"gained": gained, "lost": lost, "p_value": mcnemar(before, right, groups)}
    return {"name": name, **_score(right, groups), **facts}


def decided_by_border(
    border_said: np.ndarray,
    centre_said: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Classes that the network tells by the border of their pictures and not by what is in the middle.

    A class is called out when all of this holds: at least 60 % of its pictures are told from their border alone; at most 10 % of the other
    pictures' borders are taken for it; and of the pictures that only one of border and centre tells, so many are told by the border that
    chance would do it in less than 1 of 100 runs (exact one-sided McNemar test, one vote per group, Bonferroni over the classes).

    Returns:
        `{class_name, pictures, by_border, by_centre, false_by_border, p_value}` for each such class; p_value is the corrected one.
    """
    found = []
    for label in np.unique(labels):
        own = labels == label
        border, centre = border_said[own] == label, centre_said[own] == label
        by_border, by_centre = votes(border.astype(np.int64) - centre, groups[own])
        only_one = by_border + by_centre
        chance = float(binom.sf(by_border - 1, only_one, 0.5)) if only_one else 1.0
        p_value = min(1.0, chance * len(np.unique(labels)))
        others = border_said[~own] == label
        false = float(others.mean()) if len(others) else 0.0
        if p_value < _ALARM and border.mean() >= _LEAST_BORDER_RECALL and false <= _MOST_BORDER_FALSE:
            found.append(
                {
                    "class_name": class_names[label],
                    "pictures": int(own.sum()),
                    "by_border": float(border.mean()),
                    "by_centre": float(centre.mean()),
                    "false_by_border": false,
                    "p_value": p_value,
                }
            )
    return found
