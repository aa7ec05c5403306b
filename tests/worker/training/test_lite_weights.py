"""The reader of PyTorch's legacy format: exact on the real file, closed to anything that is not plain tensors."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from core.errors import WeightsUnavailable
from worker.training.lite_weights import lite_arrays, read_legacy_torch, weights_file


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def _legacy_file(path: Path, tensors: object) -> Path:
    parts = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, tensors, []):
        pickle.dump(value, parts, protocol=2)
    path.write_bytes(parts.getvalue())
    return path


def test_every_tensor_of_the_wheel_is_read_and_used_once() -> None:
    tensors = read_legacy_torch(weights_file())
    wanted = {name: array for name, array in tensors.items() if not name.endswith("num_batches_tracked")}
    arrays = [array for layer in lite_arrays().values() for array in layer]
    assert len(arrays) == len(wanted)
    assert sum(array.size for array in arrays) == sum(array.size for array in wanted.values()) == 4_694_024


def test_kernels_come_in_keras_axis_order() -> None:
    arrays = lite_arrays()
    assert arrays["stem_conv"][0].shape == (3, 3, 3, 32)
    assert arrays["b3_depthwise_conv"][0].shape == (5, 5, 144, 1)
    assert arrays["b1_expand_conv"][0].shape == (1, 1, 16, 96)
    assert arrays["top_dense"][0].shape == (1280, 1000)
    torch_order = read_legacy_torch(weights_file())["_conv_stem.weight"]
    assert arrays["stem_conv"][0][2, 1, 0, 31] == torch_order[31, 0, 2, 1]


def test_the_first_block_has_no_expansion() -> None:
    assert "b0_expand_conv" not in lite_arrays()
    assert "b1_expand_conv" in lite_arrays()


def test_a_file_that_names_anything_runnable_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = _legacy_file(tmp_path / "hostile.pth", OrderedDict(weight=_Hostile()))
    with pytest.raises(WeightsUnavailable, match=r"names (posix|nt)\.system"):
        read_legacy_torch(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(weights_file().read_bytes()[:-1000])
    with pytest.raises(WeightsUnavailable, match=r"cut\.pth cannot be read"):
        read_legacy_torch(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(b"PK\x03\x04 this is a zip")
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        read_legacy_torch(path)


def test_a_legacy_file_without_tensors_reads_as_empty(tmp_path: Path) -> None:
    assert read_legacy_torch(_legacy_file(tmp_path / "empty.pth", OrderedDict())) == {}


def test_strided_tensors_come_out_contiguous() -> None:
    tensors = read_legacy_torch(weights_file())
    assert all(array.flags.c_contiguous for array in tensors.values())
    assert all(np.isfinite(array).all() for array in tensors.values())
