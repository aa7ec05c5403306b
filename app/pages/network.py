"""The layers of a run's network, summed up: how many parameters learn in which phase."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """One layer."""

    name: str
    kind: str
    shape: str
    parameters: int
    trainable: bool


@dataclass(frozen=True)
class PhaseLayers:
    """One phase: how many parameters learn, and its layers."""

    phase: str
    phase_index: int
    trainable: int
    frozen: int
    layers: Sequence[LayerRow]


def layer_summary(body: Any) -> list[PhaseLayers]:
    """The document `layers` as rows; empty before it exists."""
    return [
        PhaseLayers(
            phase=one["phase"],
            phase_index=one["phase_index"],
            trainable=one["trainable_parameters"],
            frozen=one["non_trainable_parameters"],
            layers=[_row(layer) for layer in one.get("layers", ())],
        )
        for one in body or ()
    ]


def _row(layer: dict[str, Any]) -> LayerRow:
    shape = layer.get("shape") or ()
    sizes = [str(size) for size in shape if size is not None] if isinstance(shape, list | tuple) else [str(shape)]
    return LayerRow(
        name=layer["name"],
        kind=layer.get("kind", ""),
        shape=" \N{MULTIPLICATION SIGN} ".join(sizes),
        parameters=layer.get("parameters", 0),
        trainable=bool(layer.get("trainable")),
    )
