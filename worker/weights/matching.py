"""Matches the arrays of a file with the weights of a backbone: by name and shape, else by order and shape, and says which.

A file that tells no order (.safetensors) is matched by name alone: equal shapes in a wrong order would load and answer nonsense.
What remains of a file must be a top. A larger network often has every array of a smaller one; taken for it, it would be trained with
blocks cut out of its middle.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backbones import BACKBONES, LayerVariables, variables_of
from worker.weights.arrays import Group, WeightsRefused

_SHOWN = 5
_MOST_CHARACTERS = 60  # of a name of the file in a sentence


@dataclass
class Match:
    """What was found.

    Attributes:
        form: of the backbone whose weights these are: "plain" or "folded".
        way: "name" or "order".
        arrays: "layer/variable" -> float32 array.
        missing: "layer/variable" that the file has not, or not in that shape.
        unexpected: arrays of the file that the backbone has no place for (its top, an optimizer).
        used: places of the groups that were taken.
    """

    form: str
    way: str
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    used: set[int] = field(default_factory=set)


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
        MatchRefused: something of the backbone is missing, what remains is no top, a weight is not a number, or a variance is negative.
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
    if foreign := _foreign(groups, best, backbone_id):
        raise MatchRefused(_larger_architecture(foreign, best, backbone_id, ordered=ordered), best)
    for name, array in best.arrays.items():
        if wrong := _wrong_values(name, array):
            raise MatchRefused(wrong, best)
    return best


def _wrong_values(name: str, array: NDArray[Any]) -> str:
    """What is wrong with the values of an array; "" where nothing is."""
    finite = np.isfinite(array)
    if not finite.all():
        bad = int(array.size - np.count_nonzero(finite))
        return f'"{name}" holds {bad:,} values that are not numbers (NaN or infinite) of {array.size:,}.'
    if name.endswith("/moving_variance") and (array < 0).any():
        bad = int(np.count_nonzero(array < 0))
        return (
            f'"{name}" holds {bad:,} negative values of {array.size:,}, the lowest is {array.min():g}. Allowed for a '
            "variance: 0 or more, as its root is taken."
        )
    return ""


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


def _larger_architecture(foreign: Sequence[Group], best: Match, backbone_id: str, *, ordered: bool) -> str:
    backbone = BACKBONES[backbone_id]
    names = list(dict.fromkeys((one.layer or one.kind or next(iter(one.arrays)))[:_MOST_CHARACTERS] for one in foreign))
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    one_by_one = (
        " A .safetensors file does not tell the order of its layers, so of convolutions only 1x1 ones on these features, and on one "
        "another, are taken for a top."
    )
    return (
        f"These are not the weights of {backbone.title}: all of its {len(best.arrays):,} arrays are in the file, but so are "
        f"convolutions or BatchNorms that are neither its own nor a top behind it, as in a larger network ({len(foreign):,} layers: "
        f"{shown}). Allowed beside the backbone: a top on its {backbone.features:,} features, preprocessing without kernels, an optimizer."
        + ("" if ordered else one_by_one)
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
            found.used.add(taken[0])
    found.unexpected = list(_left_over(groups, found.used))
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
    starts: dict[str, int] = {}
    for layer in wanted:
        taken = None
        for number in range(starts.get(layer.kind, 0), len(groups)):
            group = groups[number]
            if number in found.used or (
                group.kind and group.kind.removeprefix("fixed_").removeprefix("quick_") != layer.kind
            ):
                continue
            if (arrays := _fitting(group, layer)) is not None:
                taken = arrays
                found.used.add(number)
                starts[layer.kind] = number + 1
                break
        _take(found, layer, taken)
    found.unexpected = list(_left_over(groups, found.used))
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


def _foreign(groups: Sequence[Group], best: Match, backbone_id: str) -> list[Group]:
    """Left-over kernels and BatchNorms that are no top of the backbone, in the file's order.

    A top stands behind the last layer that was taken. Where the file tells no order between the two, shapes tell: a top takes up the
    backbone's features. Dense layers are never asked, nor is what has no kernel (Normalization, a counter).
    """
    own = _own_layers(backbone_id) if best.way == "name" else {}
    unused = {number: group for number, group in enumerate(groups) if number not in best.used}
    left = {
        number: group
        for number, group in unused.items()
        if (_kernels(group) or _is_norm(group))
        # the backbone's own layer once more, in its other form or as an average over steps
        and not any(_fitting(group, layer) is not None for layer in own.get(group.layer, ()))
    }
    lasts = {_line(groups[number]): number for number in sorted(best.used) if groups[number].ordered}
    behind = {number for number, group in left.items() if number > lasts.get(_line(group), len(groups))}
    loose = {number: group for number, group in left.items() if _line(group) not in lasts}
    widths = {BACKBONES[backbone_id].features} | {_width_after(left[number]) for number in behind}
    flat = {
        side for group in unused.values() for array in group.arrays.values() if array.ndim == 2 for side in array.shape
    }
    top = behind | _on_top(loose, widths, flat)
    return [group for number, group in left.items() if number not in top]


def _own_layers(backbone_id: str) -> dict[str, list[LayerVariables]]:
    """Layer -> what it has, in either form."""
    own: dict[str, list[LayerVariables]] = {}
    for form in ("plain", "folded"):
        for layer in variables_of(backbone_id, form):
            own.setdefault(layer.layer, []).append(layer)
    return own


def _line(group: Group) -> tuple[str, str]:
    """Groups of one line stand in the file in the order of their network."""
    return group.place, group.kind


def _on_top(loose: Mapping[int, Group], widths: set[int], flat: set[int]) -> set[int]:
    """Which of these layers take up the features, or what another layer of the top makes of them.

    Args:
        loose: place in the file -> layer.
        widths: channels that a layer of the top may take up.
        flat: sides of left-over Dense kernels, between which a BatchNorm may stand.
    """
    found: set[int] = set()
    while more := {number for number, group in loose.items() if number not in found and _takes_up(group, widths)}:
        found |= more
        widths = widths | {_width_after(loose[number]) for number in more}
    return found | {
        number for number, group in loose.items() if not _kernels(group) and _width_after(group) in widths | flat
    }


def _takes_up(group: Group, widths: set[int]) -> bool:
    kernels = _kernels(group)
    # of the 3x3 convolutions of a larger network, too, some take as many channels as there are features
    unsure = not group.ordered and any(side != 1 for kernel in kernels for side in kernel.shape[:-2])
    return bool(kernels) and not unsure and _sides(group, kernels[0])[0] in widths


def _width_after(group: Group) -> int:
    """Channels that come out of a convolution or a BatchNorm."""
    kernels = _kernels(group)
    return _sides(group, kernels[-1])[1] if kernels else max(array.size for array in group.arrays.values())


def _sides(group: Group, kernel: NDArray[Any]) -> tuple[int, int]:
    """Channels that go into a kernel and that come out."""
    into, out = kernel.shape[-2:]
    if "transpose" in group.kind:
        return out, into
    return (into, into * out) if "depthwise" in group.kind else (into, out)


def _kernels(group: Group) -> list[NDArray[Any]]:
    """Of a convolution of any class; a file that tells no classes is asked for 4-D arrays."""
    if "optimizer" in group.kind:
        return []
    fewest = 3 if "conv" in group.kind else 4
    return [array for array in group.arrays.values() if array.ndim >= fewest and array.dtype.kind == "f"]


def _is_norm(group: Group) -> bool:
    """A BatchNorm: by its class or its variables' names, else by three or four vectors of one length and nothing more."""
    shapes = [array.shape for array in group.arrays.values() if array.dtype.kind == "f"]
    vectors = len(shapes) in {3, 4} and len(set(shapes)) == 1 and len(shapes[0]) == 1
    return vectors or ("batch_norm" in group.kind and bool(shapes)) or "moving_variance" in group.arrays
