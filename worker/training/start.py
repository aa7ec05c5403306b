"""Starts a backbone from arrays in a file: uploaded weights, or the backbone of an earlier model. The file is only read.

Uploaded weights stand in it as `<form>:<layer>/<variable>`. An earlier model's file has numbers, in the order of its backbone's and
head's weights (`ledger.every_variable`); its names are those of the same backbone built anew, cut where the model was cut.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from core.errors import WeightsUnavailable
from worker.training.folding import fold
from worker.training.graph import weight_names

Arrays = Mapping[str, NDArray[np.float32]]


def read_start(path: Path, whole: keras.Model, cut_layer: str | None) -> tuple[str, Arrays]:
    """Read a file to start from.

    Args:
        path: an `.npz`.
        whole: the plain backbone, uncut; tells the names of an earlier model's weights.
        cut_layer: where the earlier model was cut; None: not at all.

    Returns:
        "plain" or "folded", and "layer/variable" -> array.

    Raises:
        WeightsUnavailable: the file is missing, damaged, or of another network.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsUnavailable(f"The weights to start from cannot be read ({path.name}): {error}") from error
    if all(":" in name for name in arrays):
        form = next(iter(arrays)).split(":")[0]
        return form, {name.split(":", maxsplit=1)[1]: array for name, array in arrays.items()}
    numbered = [arrays[name] for name in sorted(arrays) if name.isdecimal()]
    cut = whole if cut_layer is None else keras.Model(whole.input, whole.get_layer(cut_layer).output, name=whole.name)
    for form, model in (("plain", cut), ("folded", fold(cut))):
        variables = named_variables(model)
        shapes = [tuple(variable.shape) for variable in variables.values()]
        if [array.shape for array in numbered[: len(shapes)]] == shapes:
            return form, dict(zip(variables, numbered, strict=False))
    where = "not cut at all" if cut_layer is None else f'cut at "{cut_layer}"'
    raise WeightsUnavailable(f"The weights to start from ({path.name}) are not those of {whole.name}, {where}.")


def named_variables(model: keras.Model) -> dict[str, Any]:
    """ "layer/variable" -> variable, in the model's order."""
    return {
        f"{layer.name}/{name}": variable
        for layer in model.layers
        for name, variable in zip(weight_names(layer), layer.weights, strict=True)
    }


def assign_all(model: keras.Model, arrays: Arrays) -> None:
    """Give every weight of a model its array; arrays that it has no place for (above its cut) are left.

    Raises:
        WeightsUnavailable: one is missing or has another shape.
    """
    variables = named_variables(model)
    wrong = [name for name, variable in variables.items() if name not in arrays or arrays[name].shape != variable.shape]
    if wrong:
        raise WeightsUnavailable(
            f"The weights to start from are not those of {model.name}: {len(wrong):,} of its {len(variables):,} arrays are missing "
            f"or have another shape ({_some(wrong)})."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
