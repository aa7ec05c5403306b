"""The robustness card of a judged run, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.wording import scale_from

NAMES = {
    "blur": "Blurred",
    "noise": "Noisy",
    "jpeg_30": "JPEG, quality 30",
    "darker": "Half as bright",
    "rotated_15": "Turned by 15°",
    "centre_only": "Centre only",
    "border_only": "Border only",
}
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Change:
    """What is left of the accuracy after one change; `points` against the unchanged pictures, in per cent points."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    points: float
    p_value: float
    worse: bool


@dataclass(frozen=True)
class BorderClass:
    """A class that is told by its border."""

    class_name: str
    pictures: int
    by_border: float
    by_centre: float


@dataclass(frozen=True)
class RobustnessCard:
    """The card; `sampled` when not every test picture was tried."""

    pictures: int
    sampled: bool
    accuracy: float
    interval: tuple[float, float]
    changes: Sequence[Change]
    border: Sequence[BorderClass]
    scale: float


def robustness_card(found: Mapping[str, Any] | None, test_pictures: int) -> RobustnessCard | None:
    """The card of an evaluation's `robustness`; None where there is none."""
    if not found:
        return None
    before = float(found["accuracy"])
    low, high = found["interval"]
    changes = [
        Change(
            NAMES.get(one["name"], one["name"]),
            one["accuracy"],
            (one["interval"][0], one["interval"][1]),
            (one["accuracy"] - before) * 100,
            one["p_value"],
            one["p_value"] < SIGNIFICANT and one["accuracy"] < before,
        )
        for one in found["changes"]
    ]
    return RobustnessCard(
        pictures=found["pictures"],
        sampled=found["pictures"] < test_pictures,
        accuracy=before,
        interval=(low, high),
        changes=changes,
        border=[
            BorderClass(one["class_name"], one["pictures"], one["by_border"], one["by_centre"])
            for one in found["border"]
        ],
        scale=scale_from([(low, high), *(one.interval for one in changes)]),
    )
