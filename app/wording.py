"""Numbers, times and scores as people read them: template filters and the little arithmetic behind bars and whiskers.

A number is rounded to what the count behind it supports: a share of fewer than 50 pictures has no decimal.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from core.presets import PRESETS, is_just
from core.tables import Run

Z = 1.959964  # of the normal distribution, for 95 %
NONE = "\N{EN DASH}"  # where a table has no value
SPLIT_SHORT = {"train": "train", "validation": "val.", "test": "test"}
PHASE_WORDS = {
    "prepare": "Prepare",
    "frozen": "Frozen phase",
    "fine_tune": "Fine-tune phase",
    "evaluate": "Evaluate",
    "export": "Export",
}


def number(value: float) -> str:
    """3412 -> 3,412."""
    return f"{value:,.0f}"


def percent(share: float, count: int) -> str:
    """0.965, 513 -> "96.5"; under 50 pictures no decimal."""
    return f"{share * 100:.0f}" if count < 50 else f"{share * 100:.1f}"


def percent_cell(share: float | None, count: int) -> Markup:
    """A percentage for a column of numbers: the invisible decimal keeps the columns aligned."""
    if share is None:
        return escape(NONE)
    text = escape(percent(share, count))
    return text if count >= 50 else text + Markup('<span class="pad" aria-hidden="true">.0</span>')


def interval(pair: Sequence[float], count: int) -> str:
    """(0.945, 0.978), 513 -> "94.5 to 97.8 %"."""
    return f"{percent(pair[0], count)} to {percent(pair[1], count)} %"


def wilson(right: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): `right` of `count`; (0, 1) without pictures."""
    if count <= 0:
        return 0.0, 1.0
    share = right / count
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count)) / (1 + Z * Z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def scale_from(intervals: Iterable[Sequence[float]]) -> float:
    """Left end of a scale that ends at 1 and holds every interval: a multiple of 0.1."""
    lowest = min((pair[0] for pair in intervals), default=0.0)
    return min(0.9, math.floor(lowest * 10) / 10)


def along(value: float, left: float) -> str:
    """Where a value stands on the scale from `left` to 1, in per cent for an SVG attribute."""
    return f"{min(100.0, max(0.0, (value - left) / (1 - left) * 100)):.1f}%"


def duration(seconds: float | None) -> str:
    """75 -> 1:15; 3675 -> 1:01:15."""
    if seconds is None:
        return NONE
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def size(count: int | None) -> str:
    """13_900_000 -> 13.9 MB (decimal units)."""
    if count is None:
        return NONE
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return (
                f"{value:.0f} {unit}"
                if value >= 100 or unit == "bytes"
                else f"{value:.1f}".removesuffix(".0") + f" {unit}"
            )
        value /= 1000
    return f"{value:.0f}"


def ago(when: datetime, now: datetime | None = None) -> Markup:
    """A `<time>` with a relative text; a script adds the local time as its title."""
    moment = now or datetime.now(UTC)
    return Markup('<time datetime="{}">{}</time>').format(when.isoformat(), _relative(when, moment))


def _relative(when: datetime, now: datetime) -> str:
    seconds = (now - when).total_seconds()
    if seconds < 10:
        return "just now"
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    days = int(seconds // 86400)
    if days == 1:
        return "yesterday"
    return (
        f"{days} days ago" if days < 7 else f"{when.day} {when:%b}" + ("" if when.year == now.year else f" {when.year}")
    )


def clock(when: datetime) -> Markup:
    """A `<time>` that a script shows in local time, as 14:02:11."""
    return Markup('<time datetime="{}" data-clock>{}</time>').format(when.isoformat(), when.strftime("%H:%M:%S"))


def short_hash(text: str) -> str:
    """First eight digits of a hash, in two groups."""
    return f"{text[:4]} {text[4:8]}"


def p_value(value: float) -> str:
    """Two significant digits: 0.0031 -> "p = 0.0031"; very small ones as "p < 0.0001"."""
    text = "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def plural(count: float, one: str, many: str | None = None) -> str:
    """1, "picture" -> "1 picture"; 3 -> "3 pictures"."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def picture_size(pair: Sequence[int]) -> str:
    """Height and width with the sign people expect between them."""
    return f"{pair[0]} \N{MULTIPLICATION SIGN} {pair[1]}"


def preset_words(run: Run) -> str:
    """What a run began from; its seed may be any."""
    if not run.preset:
        return "own settings"
    title = PRESETS[run.preset].title if run.preset in PRESETS else run.preset
    return title if is_just(run.preset, run.config, but=("seed",)) else f"{title}, with other settings than it has now"


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "percent": percent,
    "percent_cell": percent_cell,
    "interval": interval,
    "along": along,
    "duration": duration,
    "size": size,
    "ago": ago,
    "clock": clock,
    "short_hash": short_hash,
    "plural": plural,
    "p_value": p_value,
    "picture_size": picture_size,
    "preset_words": preset_words,
    "split_short": lambda split: SPLIT_SHORT.get(str(split), str(split)),
    "phase_word": lambda phase: PHASE_WORDS.get(str(phase), str(phase)),
}
