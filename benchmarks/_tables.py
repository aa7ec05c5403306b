"""Result files as tables. `python -m benchmarks table` writes docs/benchmarks.md from benchmarks/results."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from core.comparison import exact_mcnemar

Row = Sequence[str]
_WORSE_BY = 0.005  # "equal accuracy": mean test accuracy at most this much lower, and McNemar not significantly worse
_FULL = [20, 10]  # epochs of the guide
_MANY_PICTURES = 10_000  # of the target for memory
_NEAR = 0.2  # how far the time left may be off


def table(rows: Sequence[Row]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _parts(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The parts `kind/0`, `kind/1`, ... in order."""
    found = _by_seed(body, kind)
    return [found[number] for number in sorted(found)]


def _by_seed(body: dict[str, Any], kind: str) -> dict[int, dict[str, Any]]:
    """Number -> the part `kind/number`."""
    return {int(key.rpartition("/")[2]): part for key, part in body["parts"].items() if key.rpartition("/")[0] == kind}


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean, with lowest and highest where there are several."""
    text = f"{_mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _verdict(body: dict[str, Any], value: float, must: float, aim: float) -> str:
    """Target and whether it is reached; a small trial reaches nothing and misses nothing."""
    target = f"{abs(must):g}, aim {abs(aim):g}"
    if body.get("quick"):
        return f"{target}: not judged, a small trial"
    return f"{target}: {'aim reached' if value >= aim else 'must reached' if value >= must else 'not reached'}"


def fitted(part: dict[str, Any], full: int) -> float:
    """Seconds of a `fit` of `full` epochs; with fewer, an estimate: the median of the later epochs stands for those left out."""
    epochs = part["epochs_s"]
    if len(epochs) >= full:
        return float(part["fit_s"])
    return float(part["fit_s"] + (full - len(epochs)) * statistics.median(epochs[1:] or epochs))


def equal(guide: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> tuple[str, float]:
    """(sentence on equal accuracy, p of McNemar's exact test on the pooled pictures); `right` is a text of 1 and 0, picture by picture."""
    ahead = behind = 0
    for one, other in zip(guide, ours, strict=True):
        ahead += sum(b > a for a, b in zip(one["right"], other["right"], strict=True))
        behind += sum(a > b for a, b in zip(one["right"], other["right"], strict=True))
    p = exact_mcnemar(ahead, behind)
    lower = _mean(one["test_accuracy"] for one in guide) - _mean(one["test_accuracy"] for one in ours)
    holds = lower <= _WORSE_BY and not (p < 0.05 and behind > ahead)
    return f"{'yes' if holds else 'no'}: {ahead} pictures gained, {behind} lost, p = {p:.2g}", p


def recipe_rows(body: dict[str, Any]) -> list[Row]:
    """Frozen phase and both phases."""
    rows: list[Row] = [
        (
            "work",
            "guide, s",
            "Thaw, s",
            "times",
            "target",
            "guide, test",
            "Thaw, test",
            "equal accuracy",
            "Thaw to checked download, s",
            "seeds",
        )
    ]
    frozen, quick = _parts(body, "guide frozen"), _parts(body, "thaw quick")
    few = min(len(frozen), len(quick))
    if few:
        times = [fitted(one, _FULL[0]) + one["test_s"] for one in frozen[:few]]
        target = (30.0, 60.0) if quick[0]["precision"] == "bfloat16" else (20.0, 60.0)
        ran = [_epochs(frozen[:few])]
        rows.append(_recipe_row(body, "frozen phase", times, frozen[:few], quick[:few], target, ran))
    for kind, name in (
        ("drift", "both phases, guide as Keras 3 runs it"),
        ("fixed", "both phases, guide with statistics fixed"),
    ):
        tuned, ours = _parts(body, f"guide {kind}"), _parts(body, "thaw standard")
        few = min(len(tuned), len(ours), len(frozen))
        if few:
            times = [
                fitted(first, _FULL[0]) + fitted(second, _FULL[1]) + second["test_s"]
                for first, second in zip(frozen[:few], tuned[:few], strict=True)
            ]
            ran = [_epochs(frozen[:few]), _epochs(tuned[:few])]
            rows.append(_recipe_row(body, name, times, tuned[:few], ours[:few], (15.0, 30.0), ran))
    return rows


def _epochs(parts: Sequence[dict[str, Any]]) -> int:
    """Epochs that every one of them ran."""
    return min(len(part["epochs_s"]) for part in parts)


def _recipe_row(
    body: dict[str, Any],
    name: str,
    guide_seconds: Sequence[float],
    guide: Sequence[dict[str, Any]],
    ours: Sequence[dict[str, Any]],
    target: tuple[float, float],
    ran: Sequence[int],
) -> Row:
    """One comparison.

    Args:
        ran: epochs of each of the guide's phases. With fewer than it has, its seconds are an estimate and its accuracy is another
            recipe's: the row says so, and neither target nor equal accuracy is judged.
    """
    full = _FULL[: len(ran)]
    whole = all(one >= wanted for one, wanted in zip(ran, full, strict=True))
    seconds = [one["to_score_s"] for one in ours]
    ratio = _mean(guide_seconds) / _mean(seconds)
    accuracy = [[100 * one["test_accuracy"] for one in side] for side in (guide, ours)]
    verdict, same = _verdict(body, ratio, *target), equal(guide, ours)[0]
    if body.get("quick"):
        same = "not judged, a small trial"
    if not whole:
        few = f"{' + '.join(map(str, ran))} of {' + '.join(map(str, full))} epochs"
        verdict = f"{target[0]:g}, aim {target[1]:g}: not judged, the guide ran {few}"
        same = f"not judged, the guide ran {few}"
    return (
        name,
        _spread(guide_seconds) + ("" if whole else ", extrapolated"),
        _spread(seconds),
        f"{ratio:.1f}" + ("" if whole else ", extrapolated"),
        verdict,
        _spread(accuracy[0]),
        _spread(accuracy[1]),
        same,
        _spread([one["to_download_s"] for one in ours]),
        str(len(ours)),
    )


def pooled_rows(bodies: Sequence[dict[str, Any]]) -> list[Row]:
    """Equal accuracy over the seeds of several machines: which pictures are right hardly depends on the machine, seconds do."""
    together: dict[str, Any] = {"parts": {}}
    for body in reversed(bodies):  # a seed that several have counts once, as the first has it
        if list(body["settings"]["epochs"]) == _FULL:
            together["parts"] |= body["parts"]
    rows: list[Row] = [("phases", "seeds", "guide, test", "Thaw, test", "equal accuracy")]
    for name, guide, ours in (
        ("frozen", "guide frozen", "thaw quick"),
        ("both, guide as Keras 3 runs it", "guide drift", "thaw standard"),
        ("both, guide with statistics fixed", "guide fixed", "thaw standard"),
    ):
        rows += _accuracy_row(together, (name,), guide, ours)
    return rows


def _accuracy_row(body: dict[str, Any], names: Sequence[str], guide: str, ours: str) -> list[Row]:
    """The row (names, seeds that both have, test accuracies, whether equal), or none."""
    sides = [_by_seed(body, kind) for kind in (guide, ours)]
    seeds = sorted(set(sides[0]) & set(sides[1]))
    if not seeds:
        return []
    pairs = [[side[seed] for seed in seeds] for side in sides]
    shown = [_spread([100 * one["test_accuracy"] for one in side]) for side in pairs]
    same = "not judged, a small trial" if body.get("quick") else equal(*pairs)[0]
    return [(*names, str(len(seeds)), *shown, same)]


def recipe_notes(body: dict[str, Any]) -> str:
    """What must be said beside the table."""
    epochs = body["settings"]["epochs"]
    if list(epochs) >= _FULL:
        return "The guide ran all of its 20 + 10 epochs."
    return (
        f"**The guide ran only {epochs[0]} + {epochs[1]} of its 20 + 10 epochs**: its seconds are extrapolated by the median of its "
        "later epochs, its accuracies are those of the fewer epochs, and nothing is judged by either."
    )


def quality_rows(body: dict[str, Any]) -> list[Row]:
    """Test accuracy set by set: the guide's phases against Thaw's."""
    rows: list[Row] = [("set", "phases", "seeds", "guide, test", "Thaw, test", "equal accuracy")]
    for name in dict.fromkeys(key.partition("/")[0] for key in body["parts"]):
        for kind, preset, phases in (
            ("frozen", "quick", "frozen"),
            ("drift", "standard", "both, guide as Keras 3 runs it"),
            ("fixed", "standard", "both, guide with statistics fixed"),
        ):
            rows += _accuracy_row(body, (name, phases), f"{name}/guide {kind}", f"{name}/thaw {preset}")
    return rows


def heads_rows(body: dict[str, Any]) -> list[Row]:
    """Test accuracy of the two heads on the same features, set by set."""
    rows: list[Row] = [("set", "seeds", "guide's head, test", "Thaw's head, test", "equal accuracy")]
    for name, part in body["parts"].items():
        guide, ours = part["guide"], part["thaw"]
        shown = [_spread([100 * one["test_accuracy"] for one in side]) for side in (guide, ours)]
        same = "not judged, a small trial" if body.get("quick") else equal(guide, ours)[0]
        rows.append((name, str(len(guide)), *shown, same))
    return rows


def steps_rows(body: dict[str, Any]) -> list[Row]:
    """Train steps."""
    guide, ours = _parts(body, "guide"), _parts(body, "thaw")
    if not guide or not ours:
        return [("step", "images/s")]
    base = [one["all layers"] for one in guide]
    rows: list[Row] = [("train step, batch 32", "images/s", "times the guide", "target")]
    rows.append(("guide, all layers, as Keras 3 runs it", _spread(base), "1", ""))
    fixed = [one["all, fixed"] for one in guide]
    rows.append(("guide, all layers, statistics fixed", _spread(fixed), f"{_mean(fixed) / _mean(base):.1f}", ""))
    for name, target in (("all layers", (2.5, 4.0)), ("cut at b10_add", (10.0, 20.0)), ("cut at b14_add", None)):
        rates = [one[name] for one in ours]
        ratio = _mean(rates) / _mean(base)
        verdict = "" if target is None else _verdict(body, ratio, *target)
        rows.append((f"Thaw, {name}, {ours[0]['precision']}", _spread(rates), f"{ratio:.1f}", verdict))
    turned = _parts(body, "augmentation")
    if turned:
        stock, own = ([one[side] for one in turned] for side in ("tensorflow", "thaw"))
        rows.append(("augmentation alone, TensorFlow's operation", _spread(stock), "", ""))
        times = f"{_mean(own) / _mean(stock):.1f} times TensorFlow's"
        rows.append(("augmentation alone, Thaw", _spread(own), times, ""))
    return rows


def second_run_rows(body: dict[str, Any]) -> list[Row]:
    """A second run on the same images."""
    rows: list[Row] = [
        ("run", "frozen phase, s", "files to end of that phase, s", "times the first's frozen phase", "target")
    ]
    first = _parts(body, "first")
    for kind in ("first", "other strength", "adam head"):
        parts = _parts(body, kind)
        if parts and first:
            phase = [one["phases"][0]["seconds"] for one in parts]
            way = [one["prepare_s"] + one["phases_s"] for one in parts]
            ratio = _mean(one["phases"][0]["seconds"] for one in first) / _mean(phase)
            verdict = "" if kind == "first" else _verdict(body, ratio, 5.0, 20.0)
            rows.append((kind, _spread(phase, 2), _spread(way, 2), f"{ratio:.1f}", verdict))
    return rows


def pipeline_rows(body: dict[str, Any]) -> list[Row]:
    """Share of the input pipeline."""
    part = body["parts"].get("live loop")
    rows: list[Row] = [("live loop", "steps/s", "batches in memory, steps/s", "share", "target")]
    if part:
        share = statistics.median(part["live"]) / statistics.median(part["in memory"])
        verdict = _verdict(body, share, 0.95, 0.98)
        rows.append(
            ("median of the rounds", _spread(part["live"], 2), _spread(part["in memory"], 2), f"{share:.3f}", verdict)
        )
    return rows


def extraction_rows(body: dict[str, Any]) -> list[Row]:
    """Feature extraction."""
    part = body["parts"].get("train pictures")
    rows: list[Row] = [
        ("feature extraction", "from the decoded cache, images/s", "batch in memory, images/s", "share", "target")
    ]
    if part:
        share = statistics.median(part["from cache"]) / statistics.median(part["resident"])
        verdict = _verdict(body, share, 0.9, 0.97)
        rows.append(
            (part["precision"], _spread(part["from cache"], 0), _spread(part["resident"], 0), f"{share:.3f}", verdict)
        )
    return rows


def first_metric_rows(body: dict[str, Any]) -> list[Row]:
    """Time to the first metric."""
    rows: list[Row] = [("run", "POST to first metric, s", "whole run, s", "target")]
    parts, first = _parts(body, "warm"), body["parts"].get("first")
    if first:
        rows.append(
            ("first on these images, trainer warm", f"{first['first_metric_s']:.2f}", f"{first['whole_s']:.1f}", "")
        )
    if parts:
        seconds = [one["first_metric_s"] for one in parts]
        verdict = _verdict(body, -_mean(seconds), -3.0, -1.0)
        rows.append(
            ("features cached, trainer warm", _spread(seconds, 2), _spread([one["whole_s"] for one in parts]), verdict)
        )
    return rows


def estimates_rows(body: dict[str, Any]) -> list[Row]:
    """Estimates against real durations, then the time left against what was really left."""
    rows: list[Row] = [
        (
            "set, preset",
            "earlier runs",
            "estimated, s",
            "real, s",
            "error",
            "times left said",
            "within 20 %",
            "median error",
        )
    ]
    errors: dict[str, list[float]] = {}
    for key, part in body["parts"].items():
        name, preset, seed = key.rsplit("/", 2)
        error = part["estimate_s"] / part["real_s"] - 1
        errors.setdefault("with earlier runs" if int(seed) else "with none", []).append(abs(error))
        off = [abs(one["said"] / one["real"] - 1) for one in part["left"]]
        told = ("", "", "")
        if off:
            near = sum(one <= _NEAR for one in off)
            told = (str(len(off)), f"{100 * near / len(off):.0f} %", f"{100 * statistics.median(off):.0f} %")
        seconds = (f"{part['estimate_s']:.0f}", f"{part['real_s']:.0f}", f"{100 * error:+.0f} %")
        rows.append((f"{name}, {preset}", seed, *seconds, *told))
    for known, found in errors.items():
        worst = f"{100 * statistics.median(found):.0f} %, at most {100 * max(found):.0f} %"
        rows.append((f"median of {len(found)}", known, "", "", worst, "", "", ""))
    return rows


def memory_rows(body: dict[str, Any]) -> list[Row]:
    """Memory of a large run."""
    rows: list[Row] = [
        ("preset", "pictures", "kB each", "trainer, GB", "with its children, GB", "whole run, s", "target")
    ]
    for preset, part in body["parts"].items():
        highest = part["with_children_GB"]
        verdict = _verdict(body, -highest, -3.0, -1.5)
        if part["pictures"] < _MANY_PICTURES:
            verdict = f"3, aim 1.5: not judged, fewer than {_MANY_PICTURES:,} pictures"
        rows.append(
            (
                preset,
                f"{part['pictures']:,}",
                str(part["picture_kB"]),
                f"{part['trainer_GB']:.2f}",
                f"{highest:.2f}",
                f"{part['whole_s']:.0f}",
                verdict,
            )
        )
    return rows


def presets_rows(body: dict[str, Any]) -> list[Row]:
    """Settings and sizes: mean test accuracy over seeds, and how often which phase became the model."""
    rows: list[Row] = [
        ("set", "settings", "seeds", "frozen, test", "fine-tuned, test", "model, test", "fine-tuned chosen")
    ]
    kinds = dict.fromkeys(key.rpartition("/")[0] for key in body["parts"])
    for kind in kinds:
        parts = _parts(body, kind)
        name, _, what = kind.partition("/")
        by_phase = {
            phase: [100 * one["test_accuracies"][phase] for one in parts if phase in one["test_accuracies"]]
            for phase in ("frozen", "fine_tune")
        }
        shown = [_spread(values) if values else "" for values in by_phase.values()]
        model = _spread([100 * one["test_accuracy"] for one in parts])
        tuned = sum(one["chosen"] == "fine_tune" for one in parts)
        rows.append((name, what, str(len(parts)), *shown, model, f"{tuned} of {len(parts)}"))
    return rows


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[Row]]]] = {
    "recipe": ("From JPEG files to the test score", recipe_rows),
    "quality": ("Accuracy, set by set", quality_rows),
    "heads": ("The frozen phase over many splits", heads_rows),
    "steps": ("Train steps", steps_rows),
    "second_run": ("A second run on the same images", second_run_rows),
    "pipeline": ("The input pipeline", pipeline_rows),
    "extraction": ("Feature extraction", extraction_rows),
    "first_metric": ("Time to the first metric", first_metric_rows),
    "estimates": ("Estimates and the time left", estimates_rows),
    "memory": ("Memory", memory_rows),
    "presets": ("What the settings are worth", presets_rows),
}
