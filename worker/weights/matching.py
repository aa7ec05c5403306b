"""Matches the arrays of a file with the weights of a backbone: by name and shape, else by order and shape, and says which.

A file that tells no order (.safetensors) is matched by name alone: equal shapes in a wrong order would load and answer nonsense.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backbones import BACKBONES, LayerVariables, variables_of
from worker.weights.arrays import Group, WeightsRefused

_SHOWN = 5


@dataclass
class Match:
    """What was found.

    Attributes:
        form: of the backbone whose weights these are: "plain" or "folded".
        way: "name" or "order".
        arrays: "layer/variable" -> float32 array.
        missing: "layer/variable" that the file has not, or not in that shape.
        unexpected: arrays of the file that the backbone has no place for (its top, an optimizer).
    """

    form: str
    way: str
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


class MatchRefused(WeightsRefused):
    """The file's arrays are not those of the backbone.

    Attributes:
        found: the best match.
    """

    def __init__(self, sentence: str, found: Match) -> None:
        super().__init__(sentence)
        self.found = found


def match(groups: Sequence[Group], backbone_id: str) -> Match:
    """The best match over both forms and both ways; the plain form by name wins a tie.

    Raises:
        MatchRefused: something of the backbone is missing, or a weight is not a number.
    """
    ordered = all(group.ordered for group in groups)
    tries = [
        found
        for way in ((_by_name, _by_order) if ordered else (_by_name,))
        for form in ("plain", "folded")
        if (wanted := variables_of(backbone_id, form))
        for found in [way(groups, wanted, form)]
    ]
    best = max(tries, key=lambda one: len(one.arrays) / (len(one.arrays) + len(one.missing)))
    if best.missing:
        raise MatchRefused(_other_architecture(best, backbone_id) + ("" if ordered else _by_name_alone(best)), best)
    for name, array in best.arrays.items():
        if not np.isfinite(array).all():
            bad = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise MatchRefused(
                f'"{name}" holds {bad:,} values that are not numbers (NaN or infinite) of {array.size:,}.', best
            )
    return best


def _other_architecture(best: Match, backbone_id: str) -> str:
    title = BACKBONES[backbone_id].title
    total = len(best.missing) + len(best.arrays)
    shown = ", ".join(best.missing[:_SHOWN]) + (", ..." if len(best.missing) > _SHOWN else "")
    if not best.arrays:
        return f"These are not the weights of {title}: none of its {total:,} arrays is in the file in its shape."
    return (
        f"These are not the weights of {title}, or not all of them: {len(best.arrays):,} of its {total:,} arrays are in the file, "
        f"{len(best.missing):,} are missing or have another shape ({shown})."
    )


def _by_name_alone(best: Match) -> str:
    return (
        " A .safetensors file does not tell the order of its layers, so its arrays are found by their names alone, as Keras has them "
        f'("{best.missing[0]}"). Name them so, or send .weights.h5, .h5 or .keras.'
    )


def _by_name(groups: Sequence[Group], wanted: Sequence[LayerVariables], form: str) -> Match:
    known: dict[str, list[tuple[int, Group]]] = {}
    for number, group in enumerate(groups):
        if group.layer:
            known.setdefault(group.layer, []).append((number, group))
    found = Match(form, "name")
    used: set[int] = set()
    called = _numbered_names(known, wanted)
    for layer in wanted:
        taken = next(
            (
                (number, arrays)
                for number, group in known.get(called.get(layer.layer, layer.layer), ())
                if (arrays := _fitting(group, layer)) is not None
            ),
            None,
        )
        _take(found, layer, None if taken is None else taken[1])
        if taken is not None:
            used.add(taken[0])
    found.unexpected = list(_left_over(groups, used))
    return found


def _numbered_names(names: Iterable[str], wanted: Sequence[LayerVariables]) -> dict[str, str]:
    """Layer -> its name in the file, for layers without a name of their own.

    Keras numbers those through the whole process that made them (`layer_normalization_3`): where the file has other numbers than
    ours, they are taken in the order of the numbers.
    """
    called: dict[str, str] = {}
    for kind in {layer.kind for layer in wanted}:
        ours = sorted((number, layer.layer) for layer in wanted if (number := _number(layer.layer, kind)) is not None)
        theirs = sorted((number, name) for name in names if (number := _number(name, kind)) is not None)
        if not {name for _, name in ours} <= {name for _, name in theirs}:
            called.update((mine, name) for (_, mine), (_, name) in zip(ours, theirs, strict=False))
    return called


def _number(name: str, kind: str) -> int | None:
    """`conv2d` 0, `conv2d_7` 7; None for a name of its own."""
    found = re.fullmatch(rf"{kind}(?:_(\d+))?", name)
    return None if found is None else int(found[1] or 0)


def _fitting(group: Group, layer: LayerVariables) -> list[NDArray[Any]] | None:
    """The group's arrays in the layer's order; None when one is missing or has another shape."""
    floats = {name: array for name, array in group.arrays.items() if array.dtype.kind == "f"}
    # numbered, as Keras 3 does, or under other names: their order is Keras' own
    arrays = list(floats.values())
    if set(floats) >= set(layer.shapes):
        arrays = [floats[name] for name in layer.shapes]
    elif not group.ordered:
        return None
    fits = [array.shape for array in arrays] == list(layer.shapes.values())
    return arrays if fits else None


def _by_order(groups: Sequence[Group], wanted: Sequence[LayerVariables], form: str) -> Match:
    """Layer by layer, those of each class in turn where the file tells classes; what does not fit is passed over."""
    found = Match(form, "order")
    used: set[int] = set()
    starts: dict[str, int] = {}
    for layer in wanted:
        taken = None
        for number in range(starts.get(layer.kind, 0), len(groups)):
            group = groups[number]
            if number in used or (
                group.kind and group.kind.removeprefix("fixed_").removeprefix("quick_") != layer.kind
            ):
                continue
            if (arrays := _fitting(group, layer)) is not None:
                taken = arrays
                used.add(number)
                starts[layer.kind] = number + 1
                break
        _take(found, layer, taken)
    found.unexpected = list(_left_over(groups, used))
    return found


def _take(found: Match, layer: LayerVariables, arrays: list[NDArray[Any]] | None) -> None:
    for place, name in enumerate(layer.shapes):
        if arrays is None:
            found.missing.append(f"{layer.layer}/{name}")
        else:
            found.arrays[f"{layer.layer}/{name}"] = np.ascontiguousarray(arrays[place], np.float32)


def _left_over(groups: Sequence[Group], used: set[int]) -> Iterator[str]:
    for number, group in enumerate(groups):
        if number not in used:
            for name in group.arrays:
                yield f"{group.layer or group.kind}/{name}"
