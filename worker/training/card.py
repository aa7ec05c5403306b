"""What a model card says of a model's worth: data, scores with intervals, known weaknesses, lineage. Markdown paragraphs.

`card_lines` goes into the card of the download (`worker.training.export`), and is what the page of a model shows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from worker.training.statistics import percent, wilson_interval

_WORST = 5
_CHANGES = {
    "blur": "blurred",
    "noise": "with noise",
    "jpeg_30": "as JPEG of quality 30",
    "darker": "half as bright",
    "rotated_15": "turned by 15 degrees",
    "centre_only": "centre only",
    "border_only": "border only",
}


def card_lines(
    evaluation: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]], lineage: Mapping[str, str]
) -> tuple[str, ...]:
    """The paragraphs.

    Args:
        evaluation: body of evaluation.json.
        counts: class name -> pictures by split.
        lineage: name -> value, e.g. dataset, run, seed; shown as they are.
    """
    found = evaluation["phases"][evaluation["chosen_phase"]]
    blocks = [
        "## Data",
        _data(counts),
        "## Scores on the test split",
        _scores(found),
        *_comparison(evaluation.get("comparison")),
        "## Known weaknesses",
        _list([*_worst_classes(found), *_confusions(found), *_robustness(evaluation.get("robustness")), _trust(found)]),
        "## Where it comes from",
        _list([f"{name}: {value}" for name, value in lineage.items()]),
    ]
    return tuple(blocks)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _named(name: str) -> str:
    return f"`{name.replace('`', ' ')}`"


def _data(counts: Mapping[str, Mapping[str, int]]) -> str:
    splits = ("train", "validation", "test")
    total = {split: sum(one.get(split, 0) for one in counts.values()) for split in splits}
    rows = ["| class | train | validation | test |", "|---|---|---|---|"]
    rows += [
        f"| {_named(name)} | " + " | ".join(str(one.get(split, 0)) for split in splits) + " |"
        for name, one in counts.items()
    ]
    rows.append("| all | " + " | ".join(str(total[split]) for split in splits) + " |")
    return "\n".join(rows)


def _scores(found: Mapping[str, Any]) -> str:
    low, high = found["accuracy_interval"]
    how = "Wilson" if found["interval_method"] == "wilson" else f"cluster bootstrap over {found['groups']} groups"
    lines = [
        (
            f"accuracy {percent(found['accuracy'])}, 95 % interval {percent(low)} to {percent(high)} ({how}): {found['right']} of "
            f"{found['pictures']} pictures right"
        ),
        f"F1 {found['macro_f1']:.3f} as mean of the classes, {found['weighted_f1']:.3f} by pictures",
        f"log loss {found['loss']:.3f}",
    ]
    for one in found["top_k"]:
        bounds = " to ".join(percent(share) for share in one["interval"])
        lines.append(f"true class among the first {one['k']}: {percent(one['accuracy'])}, 95 % interval {bounds}")
    return _list(lines)


def _comparison(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    low, high = (100 * share for share in found["difference_interval"])
    return [
        f"{found['sentence']} Difference {100 * found['difference']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}."
    ]


def _worst_classes(found: Mapping[str, Any]) -> list[str]:
    rows = sorted((one for one in found["per_class"] if one["support"]), key=lambda one: one["recall"])[:_WORST]
    lines = []
    for one in rows:
        low, high = wilson_interval(round(one["recall"] * one["support"]), one["support"])
        lines.append(
            f"{_named(one['class_name'])}: {percent(one['recall'])} of {one['support']} pictures found, 95 % interval {percent(low)} to "
            f"{percent(high)}; {percent(one['precision'])} of its answers right"
        )
    return lines


def _confusions(found: Mapping[str, Any]) -> list[str]:
    names, counts = found["confusion_matrix"]["class_names"], found["confusion_matrix"]["counts"]
    pairs = [
        (count, true, said)
        for true, row in enumerate(counts)
        for said, count in enumerate(row)
        if count and said != true
    ]
    worst = sorted(pairs, key=lambda one: -one[0])[:_WORST]
    return [
        f"{_named(names[true])} taken for {_named(names[said])}: {count} of {sum(counts[true])}"
        for count, true, said in worst
    ]


def _robustness(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    lines = [
        f"{_CHANGES.get(one['name'], one['name'])}: accuracy {percent(one['accuracy'])} instead of {percent(found['accuracy'])}"
        for one in found["changes"]
        if one["p_value"] < 0.05 and one["accuracy"] < found["accuracy"]
    ]
    lines += [
        f"decides by the border: {_named(one['class_name'])} ({percent(one['by_border'])} told by the border alone, "
        f"{percent(one['by_centre'])} by the centre alone)"
        for one in found["border"]
    ]
    return lines or [
        f"none of the changes tried on {found['pictures']} test pictures (blur, noise, ...) lowered the accuracy beyond chance"
    ]


def _trust(found: Mapping[str, Any]) -> str:
    one = found["calibration"]
    low, high = one["ece_band"]
    verdict = (
        "as good as a calibrated network on so many pictures" if one["calibrated"] else "worse than chance explains"
    )
    return (
        f"calibration: confidence is off by {100 * one['ece']:.1f} points on average, {verdict} (chance alone: {100 * low:.1f} to "
        f"{100 * high:.1f})"
    )
