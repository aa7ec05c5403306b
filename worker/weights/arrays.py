"""Reads files of weights as arrays and nothing else: Keras' `.weights.h5` and `.h5`, `.keras`, `.safetensors`.

No model is ever loaded and nothing is unpickled. Of an HDF5 file every link and every dataset is looked at before a byte of
data is read: links that lead elsewhere, virtual datasets, data in other files, unknown filters and sizes over the limit are refused.
Meant for the throw-away process of `worker.weights.checker`: the C library below is not ours.
"""

import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes  # noqa: F401 - numpy, and so safetensors, knows bfloat16 by it
import numpy as np
import safetensors
from numpy.typing import NDArray

from worker.weights.room import disk_told

HDF5 = b"\x89HDF\r\n\x1a\n"
MEMBER = "model.weights.h5"
MOST_OBJECTS = 50_000
MOST_DEPTH = 32
MOST_RATIO = 1000  # declared bytes for each byte of the file
_SMALL = 64 * 1024 * 1024  # below it a compressed array may declare what it likes
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_NUMBER = re.compile(r"(\d+)")
# h5py gives bytes that are no UTF-8 as lone surrogates, which no answer can carry; PostgreSQL has no NUL
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


class WeightsRefused(Exception):
    """The file is not what may be read; `str(error)` is the sentence for the person, whatever names of the file are in it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(_text(sentence))


@dataclass
class Group:
    """The arrays of one layer, as the file has them.

    Attributes:
        layer: the layer's name where the file tells it, else "".
        kind: the layer's class as Keras 3 files call it ("conv2d"), else "".
        arrays: variable name, or its number as text -> array, in the file's order.
        ordered: False where the file tells no order of layers and arrays: nothing may be concluded from it.
        place: the model in the file whose layer it is, else "". Keras 3 numbers the layers of one model and one class in the model's
            order; between models and classes its files tell none.
    """

    layer: str
    kind: str
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    ordered: bool = True
    place: str = ""


def read_groups(path: Path, *, most_bytes: int, aside: Path) -> list[Group]:
    """Every layer of a file of weights with its arrays, in the order in which the file lists them.

    Args:
        path: the file; its content decides what it is, never its name.
        most_bytes: of all arrays together.
        aside: where a member of an archive may be written for a moment.

    Raises:
        WeightsRefused: with a sentence.
        DiskFull: no room for the member of an archive.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(HDF5):
        return _from_hdf5(path, most_bytes)
    if head.startswith(b"PK\x03\x04"):
        _unpack_member(path, most_bytes, aside)
        return _from_hdf5(aside, most_bytes)
    if len(head) > 9 and head[8:9] == b"{":
        return _from_safetensors(path, most_bytes)
    raise WeightsRefused(_what_it_is_instead(head))


def _what_it_is_instead(head: bytes) -> str:
    if not head:
        return "The file is empty."
    allowed = "Allowed: Keras' .weights.h5 and .h5, .keras, .safetensors."
    if head[:1] == b"\x80":
        return (
            "This is a pickle (PyTorch's .pth and .pt are such files), whatever its name says. Pickles can run programs when they are "
            f"opened, so they never are. {allowed}"
        )
    return f"This is not a file of weights that can be read: it begins with {head[:8]!r}. {allowed}"


def _unpack_member(path: Path, most_bytes: int, aside: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if MEMBER not in names:
                raise WeightsRefused(_archive_without(names))
            info = archive.getinfo(MEMBER)
            if info.flag_bits & 1 or info.file_size > most_bytes:
                raise WeightsRefused(
                    f"{MEMBER} in the archive is encrypted or larger than the {most_bytes:,} bytes that are allowed."
                )
            with archive.open(MEMBER) as source, disk_told(), aside.open("wb") as target:
                shutil.copyfileobj(_Bounded(source, most_bytes), target, 1 << 20)
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError) as error:
        raise WeightsRefused(f"The archive cannot be read, it is damaged or cut off: {error}.") from error
    with aside.open("rb") as file:
        if file.read(8) != HDF5:
            raise WeightsRefused(f"{MEMBER} in the archive is not an HDF5 file.")


def _archive_without(names: set[str]) -> str:
    if any(name.endswith("saved_model.pb") for name in names):
        return "This is a SavedModel. It carries a program, so it is not opened here: send .weights.h5, .h5, .keras or .safetensors."
    if any(name.endswith(".pkl") for name in names):
        return (
            "This is a PyTorch archive, a pickle inside a zip. Pickles can run programs when they are opened, so they never are. "
            "Save the weights as .safetensors."
        )
    return f"This zip has no {MEMBER} in it, which every .keras file has."


class _Bounded:
    """A stream that gives up when more comes out than was declared."""

    def __init__(self, source: Any, most: int) -> None:
        self._source, self._left = source, most

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise WeightsRefused("More comes out of the archive than it declares.")
        return data


def _from_safetensors(path: Path, most_bytes: int) -> list[Group]:
    """Without an order: the library that writes these files sorts their arrays by type and name, in the header and in the data."""
    if path.stat().st_size > most_bytes:
        raise WeightsRefused(f"The file is larger than the {most_bytes:,} bytes that are allowed.")
    groups: dict[str, Group] = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                if key.startswith("optimizer"):  # as in HDF5: its momenta are called like the weights
                    continue
                layer, name = _layer_and_name(_text(key))
                group = groups.setdefault(layer, Group(layer, "", ordered=False))
                group.arrays[name] = _floats(file.get_tensor(key), key)
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise WeightsRefused(f"The safetensors file cannot be read, it is damaged or cut off: {error}.") from error
    return list(groups.values())


def _layer_and_name(key: str) -> tuple[str, str]:
    """ "a/b/kernel:0" and "a.b.kernel" are both the kernel of b."""
    parts = key.split(":", maxsplit=1)[0].replace("/", ".").split(".")
    return (parts[-2] if len(parts) > 1 else "", parts[-1])


def _floats(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.dtype.kind in "iub":
        return array  # a seed or a counter: matched with nothing
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise WeightsRefused(f'The array "{where}" holds {array.dtype}; weights are floating-point numbers.')
    return array.astype(np.float32)


def _from_hdf5(path: Path, most_bytes: int) -> list[Group]:
    try:
        with h5py.File(path, "r") as file:
            _inspect(file, path.stat().st_size, most_bytes)
            if "layer_names" in file.attrs or "model_weights" in file:
                return _old_layout(file.get("model_weights", file))
            return _new_layout(file)
    except WeightsRefused:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsRefused(f"The HDF5 file cannot be read, it is damaged or cut off: {error}.") from error


def _inspect(file: h5py.File, file_bytes: int, most_bytes: int) -> None:
    """Look at every link and dataset; nothing is read yet."""
    waiting: list[tuple[str, Any, int]] = [("", file, 0)]
    seen: set[Any] = set()
    declared = 0
    while waiting:
        where, group, depth = waiting.pop()
        for name in group:
            here = f"{where}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise WeightsRefused(
                    f'"{here}" is a link to another file ("{link.filename}"). Such files are not read.'
                )
            if not isinstance(link, h5py.HardLink):
                raise WeightsRefused(f'"{here}" is a link to another place in the file. Files of weights have none.')
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:
                raise WeightsRefused(f'"{here}" stands in the file under two names. Files of weights do not.')
            seen.add(address)
            if len(seen) > MOST_OBJECTS or depth > MOST_DEPTH:
                raise WeightsRefused(f"The file has more than {MOST_OBJECTS:,} parts, or nests them too deep.")
            if isinstance(thing, h5py.Group):
                waiting.append((here, thing, depth + 1))
            elif isinstance(thing, h5py.Dataset):
                declared += _inspect_dataset(here, thing)
            else:
                raise WeightsRefused(f'"{here}" is neither a group nor an array.')
            if declared > most_bytes or declared > max(_SMALL, MOST_RATIO * file_bytes):
                raise WeightsRefused(
                    f"The file declares arrays of {declared:,} bytes and more; it has {file_bytes:,} bytes itself, and "
                    f"{most_bytes:,} are allowed."
                )


def _inspect_dataset(where: str, dataset: h5py.Dataset) -> int:
    """Bytes that a dataset declares."""
    if dataset.is_virtual:
        raise WeightsRefused(f'The array "{where}" is virtual: its data is elsewhere. Such files are not read.')
    if dataset.external:
        raise WeightsRefused(f'The data of the array "{where}" is in another file. Such files are not read.')
    creation = dataset.id.get_create_plist()
    filters = {creation.get_filter(number)[0] for number in range(creation.get_nfilters())}
    if not filters <= _FILTERS:
        raise WeightsRefused(f'The array "{where}" is packed by a filter that is not read (number {max(filters)}).')
    if dataset.dtype.kind not in "fiubS" or dataset.dtype.hasobject:
        raise WeightsRefused(f'The array "{where}" holds {dataset.dtype}; weights are floating-point numbers.')
    size = int(dataset.dtype.itemsize)
    for side in dataset.shape or ():
        size *= int(side)
    return size


def _read(dataset: h5py.Dataset) -> NDArray[Any]:
    return _floats(dataset[()], dataset.name or "")


def _new_layout(file: h5py.File) -> list[Group]:
    """Keras 3: `.../layers/<class>_<n>/vars/<number>`; newer files tell the layer's name as an attribute."""
    return [_new_group(at) for at in _vars_of(file)]


def _vars_of(group: h5py.Group) -> Iterator[h5py.Group]:
    for name in sorted(group, key=_natural):
        inner = group[name]
        if isinstance(inner, h5py.Group):
            if name == "vars":
                if any(isinstance(inner[one], h5py.Dataset) for one in inner):
                    yield inner
            elif name != "seed_generator" and not name.startswith("optimizer"):
                yield from _vars_of(inner)


def _new_group(at: h5py.Group) -> Group:
    *place, owner, _ = (at.name or "").split("/")
    told = at.attrs.get("name", b"")
    arrays = {name: _read(at[name]) for name in sorted(at, key=_natural) if isinstance(at[name], h5py.Dataset)}
    return Group(_text(told), re.sub(r"_\d+$", "", owner), arrays, place="/".join(place))


def _natural(text: str) -> list[Any]:
    """Sort key: conv2d_2 before conv2d_10."""
    return [int(part) if part.isdigit() else part for part in _NUMBER.split(text)]


def _text(value: Any) -> str:
    """A name as text that can be stored and sent."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return _NO_TEXT.sub("\ufffd", text)


def _old_layout(file: h5py.Group) -> list[Group]:
    """Keras 2 and `.h5` of Keras 3: `layer_names`, and in each layer `weight_names`, in order; a nested model is one "layer"."""
    groups: list[Group] = []
    for layer in (_text(one) for one in file.attrs.get("layer_names", ())):
        inner: dict[str, Group] = {}
        for key in (_text(one) for one in file[layer].attrs.get("weight_names", ())):
            name, variable = _layer_and_name(key.replace(".", "_"))
            dataset = file[layer][key]
            if not isinstance(dataset, h5py.Dataset):
                raise WeightsRefused(f'"{key}" of "{layer}" is not an array.')
            # a layer's own weights are called by it; "layer/kernel" may also stand as "layer/layer/kernel"
            inner.setdefault(name or layer, Group(name or layer, "")).arrays[variable] = _read(dataset)
        groups.extend(inner.values())
    return groups
