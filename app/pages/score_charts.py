"""Charts of a judged run as numbers for SVG: reliability, threshold, ROC and precision-recall. Without them the tables say the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.wording import wilson

# the reliability chart is 330 wide and 304 high from (40, 10); bars of counts stand below it
_LEFT, _TOP, _WIDE, _HIGH, _BARS, _BAR_HIGH = 40.0, 10.0, 330.0, 304.0, 371.0, 30.0
# the threshold chart is 562 wide and 216 high from (44, 12)
_T_LEFT, _T_TOP, _T_WIDE, _T_HIGH = 44.0, 12.0, 562.0, 216.0


@dataclass(frozen=True)
class Dot:
    """One bin: a dot, its 95 % interval as a line, the band of a calibrated network, and a bar for its pictures."""

    x: float
    y: float
    low_y: float
    high_y: float
    band_y: float | None
    band_height: float
    bar_height: float
    words: str


@dataclass(frozen=True)
class Reliability:
    """Whether 90 % means 90 of 100, of one version of the answers (before or after the temperature)."""

    title: str
    ece: float
    band: tuple[float, float] | None
    calibrated: bool | None
    loss: float | None
    given: bool
    dots: Sequence[Dot]


@dataclass(frozen=True)
class ThresholdRow:
    """What is answered, and how often right, from a probability on; `x` and `y` in the chart."""

    threshold: float
    answered: int
    right: int
    coverage: float
    precision: float | None
    interval: tuple[float, float]
    x: float
    y: float


@dataclass(frozen=True)
class Thresholds:
    """Coverage against precision."""

    rows: Sequence[ThresholdRow]
    path: str
    start: int
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class ClassCurve:
    """Curves of one class against the rest, in a square of 100 by 100."""

    class_name: str
    roc: str
    precision_recall: str
    roc_auc: float
    average_precision: float


@dataclass(frozen=True)
class ClassCurves:
    """Curves of the classes, those told apart worst first, one of them chosen."""

    curves: Sequence[ClassCurve]
    chosen: ClassCurve
    macro_roc_auc: float | None
    macro_average_precision: float | None


def reliabilities(found: Mapping[str, Any]) -> list[Reliability]:
    """The charts of an evaluation's `calibration`: before the temperature and, where there is one, after."""
    before, after = found.get("before"), found.get("after")
    if not before:  # an evaluation of an earlier version
        return [_reliability("As it answers", found, given=True)]
    scaled = bool(found.get("scaled"))
    charts = [_reliability("Before the temperature" if after else "As it answers", before, given=not scaled)]
    if after:
        charts.append(_reliability(f"After dividing by {found['temperature']:.2f}", after, given=scaled))
    return charts


def _reliability(title: str, found: Mapping[str, Any], *, given: bool) -> Reliability:
    bins = [one for one in found.get("bins", ()) if one["count"]]
    most = max((one["count"] for one in bins), default=1)
    band = found.get("ece_band")
    return Reliability(
        title=title,
        ece=float(found["ece"]),
        band=None if band is None else (band[0], band[1]),
        calibrated=found.get("calibrated"),
        loss=found.get("loss"),
        given=given,
        dots=[_dot(one, most) for one in bins],
    )


def _dot(one: Mapping[str, Any], most: int) -> Dot:
    count, accuracy = int(one["count"]), float(one["accuracy"])
    confidence = one.get("confidence")
    low, high = wilson(accuracy * count, count)
    band = one.get("band")
    words = f"{one['lower'] * 100:.0f} to {one['upper'] * 100:.0f} % sure: {accuracy * 100:.0f} % of {count} right"
    return Dot(
        x=_round(_LEFT + _WIDE * float((one["lower"] + one["upper"]) / 2 if confidence is None else confidence)),
        y=_up(accuracy),
        low_y=_up(low),
        high_y=_up(high),
        band_y=None if band is None else _up(band[1]),
        band_height=0.0 if band is None else max(1.0, _round(_HIGH * (band[1] - band[0]))),
        bar_height=_round(_BAR_HIGH * (count / most) ** 0.5),
        words=words,
    )


def _up(share: float) -> float:
    return _round(_TOP + _HIGH * (1.0 - share))


def _round(value: float) -> float:
    return round(value, 1)


def threshold_chart(found: Sequence[Mapping[str, Any]] | None) -> Thresholds | None:
    """The chart of an evaluation's `thresholds`; None where there is none. It starts at the first threshold with half the mistakes."""
    rows = [one for one in found or () if one["answered"]]
    if not rows:
        return None
    least_x = min([0.9, *(one["coverage"] for one in rows)])
    least_y = min([0.95, *(one["precision"] for one in rows)])
    x0, y0 = _floor(least_x), _floor(least_y)
    points = [_threshold_row(one, x0, y0) for one in rows]
    wished = 1 - (1 - float(rows[0]["precision"])) / 2
    start = next((place for place, one in enumerate(points) if (one.precision or 0) >= wished), len(points) - 1)
    return Thresholds(
        rows=points,
        path="M" + "L".join(f"{one.x} {one.y}" for one in points),
        start=start if rows[0]["precision"] < 1 else 0,
        x_ticks=[(_round(_T_LEFT + _T_WIDE * (tick - x0) / (1 - x0)), f"{tick * 100:.0f}") for tick in _ticks(x0)],
        y_ticks=[(_round(_T_TOP + _T_HIGH * (1 - tick) / (1 - y0)), f"{tick * 100:.0f}") for tick in _ticks(y0)],
    )


def _threshold_row(one: Mapping[str, Any], x0: float, y0: float) -> ThresholdRow:
    low, high = one["precision_interval"]
    return ThresholdRow(
        threshold=one["threshold"],
        answered=one["answered"],
        right=one["right"],
        coverage=one["coverage"],
        precision=one["precision"],
        interval=(low, high),
        x=_round(_T_LEFT + _T_WIDE * (one["coverage"] - x0) / (1 - x0)),
        y=_round(_T_TOP + _T_HIGH * (1 - one["precision"]) / (1 - y0)),
    )


def _floor(share: float) -> float:
    step = 0.01 if share >= 0.95 else 0.05 if share >= 0.75 else 0.1
    return max(0.0, round(int((share + 1e-9) / step) * step, 2)) if share < 1 else 0.99


def _ticks(first: float) -> list[float]:
    step = next(one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if (1 - first) / one <= 6)
    count = int(round((1 - first) / step, 6))
    return [1 - step * place for place in range(count, -1, -1)]


def class_curves(found: Mapping[str, Any], chosen: str) -> ClassCurves | None:
    """The curves of an evaluation's phase; `chosen` is a class name, without one the class told apart worst."""
    areas = {one["class_name"]: one for one in found.get("per_class", ())}
    curves = [
        ClassCurve(
            one["class_name"],
            _path(one["roc"]["false_positive_rate"], one["roc"]["true_positive_rate"]),
            _path(one["precision_recall"]["recall"], one["precision_recall"]["precision"]),
            areas[one["class_name"]]["roc_auc"],
            areas[one["class_name"]]["average_precision"],
        )
        for one in found.get("curves", ())
    ]
    if not curves:
        return None
    curves.sort(key=lambda one: (one.average_precision, one.class_name))
    return ClassCurves(
        curves=curves,
        chosen=next((one for one in curves if one.class_name == chosen), curves[0]),
        macro_roc_auc=found.get("macro_roc_auc"),
        macro_average_precision=found.get("macro_average_precision"),
    )


def _path(across: Sequence[float], up: Sequence[float]) -> str:
    return "M" + "L".join(f"{100 * x:.1f} {100 - 100 * y:.1f}" for x, y in zip(across, up, strict=True))
