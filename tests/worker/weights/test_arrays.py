"""Files of weights are read as arrays, exactly, and nothing that could do harm or lies is read at all."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from core.backbones import variables_of
from worker.weights.arrays import Group, WeightsRefused, read_groups
from worker.weights.checker import check
from worker.weights.matching import match

MOST = 50_000_000


def tiny_arrays(form: str = "plain") -> dict[str, dict[str, np.ndarray]]:
    """Random weights of the tiny network, by layer; variances are positive."""
    random = np.random.default_rng(0)
    drawn = {
        one.layer: {name: random.normal(size=shape).astype(np.float32) for name, shape in one.shapes.items()}
        for one in variables_of("tiny_cnn", form)
    }
    for arrays in drawn.values():
        if "moving_variance" in arrays:
            arrays["moving_variance"] = np.abs(arrays["moving_variance"])
    return drawn


def keras_3_file(path: Path, *, named: bool = True, form: str = "plain", prefix: str = "layers") -> Path:
    """As `save_weights` of Keras 3 writes it; older ones tell no names."""
    counts: dict[str, int] = {}
    arrays = tiny_arrays(form)
    with h5py.File(path, "w") as file:
        for layer in variables_of("tiny_cnn", form):
            count = counts.get(layer.kind, 0)
            counts[layer.kind] = count + 1
            group = file.create_group(f"{prefix}/{layer.kind}{f'_{count}' if count else ''}/vars")
            if named:
                group.attrs["name"] = layer.layer
            for number, name in enumerate(layer.shapes):
                group[str(number)] = arrays[layer.layer][name]
    return path


def keras_2_file(path: Path, *, rename: Callable[[str], str] = str) -> Path:
    """As `save_weights` of Keras 2 wrote it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [rename(name) for name in tiny_arrays()]
        for layer, arrays in tiny_arrays().items():
            group = file.create_group(rename(layer))
            group.attrs["weight_names"] = [f"{rename(layer)}/{name}:0" for name in arrays]
            for name, array in arrays.items():
                group[f"{rename(layer)}/{name}:0"] = array
    return path


def _read(path: Path) -> list[Group]:
    return read_groups(path, most_bytes=MOST, aside=path.with_name("aside"))


def _same_as_written(path: Path, form: str = "plain") -> str:
    found = match(_read(path), "tiny_cnn")
    assert found.form == form
    assert found.missing == []
    expected = {f"{layer}/{name}": array for layer, one in tiny_arrays(form).items() for name, array in one.items()}
    assert set(found.arrays) == set(expected)
    assert all(np.array_equal(found.arrays[name], array) for name, array in expected.items())
    return found.way


def test_files_of_keras_3_are_read_by_name_or_else_by_order(tmp_path: Path) -> None:
    assert _same_as_written(keras_3_file(tmp_path / "a.weights.h5")) == "name"
    assert _same_as_written(keras_3_file(tmp_path / "b.weights.h5", named=False)) == "order"
    assert _same_as_written(keras_3_file(tmp_path / "c.weights.h5", prefix="layers/functional/layers")) == "name"


def test_files_of_keras_2_are_read_by_name_or_else_by_order(tmp_path: Path) -> None:
    assert _same_as_written(keras_2_file(tmp_path / "a.h5")) == "name"
    assert _same_as_written(keras_2_file(tmp_path / "b.h5", rename=lambda name: f"other_{name}")) == "order"


def test_the_folded_form_that_thaw_exports_is_known_as_such(tmp_path: Path) -> None:
    assert _same_as_written(keras_3_file(tmp_path / "a.h5", form="folded"), "folded") == "name"


def test_the_weights_of_a_keras_archive_are_read(tmp_path: Path) -> None:
    assert _same_as_written(_keras_archive(tmp_path / "a.keras")) == "name"


@pytest.mark.parametrize("between", [".", "/"])
def test_safetensors_are_read(tmp_path: Path, between: str) -> None:
    flat = {f"{layer}{between}{name}": array for layer, one in tiny_arrays().items() for name, array in one.items()}
    save_file(flat, tmp_path / "a.safetensors")
    assert _same_as_written(tmp_path / "a.safetensors") == "name"


def test_safetensors_under_other_names_are_refused_as_they_tell_no_order(tmp_path: Path) -> None:
    save_file(
        {f"other_{layer}.{name}": array for layer, one in tiny_arrays().items() for name, array in one.items()},
        tmp_path / "layers.safetensors",
    )
    with pytest.raises(WeightsRefused, match="does not tell the order of its layers"):
        match(_read(tmp_path / "layers.safetensors"), "tiny_cnn")
    torch = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    save_file(
        {
            f"{layer}.{torch.get(name, name)}": array
            for layer, one in tiny_arrays().items()
            for name, array in one.items()
        },
        tmp_path / "variables.safetensors",
    )
    assert any("gamma" in one for one in tiny_arrays().values())
    with pytest.raises(WeightsRefused, match="/gamma"):
        match(_read(tmp_path / "variables.safetensors"), "tiny_cnn")


def test_a_top_is_told_as_unexpected(tmp_path: Path) -> None:
    path = keras_3_file(tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        file["layers/dense/vars/0"] = np.zeros((64, 3), np.float32)
        file["layers/dense/vars"].attrs["name"] = "predictions"
        file["optimizer/vars/0"] = np.zeros(3, np.float32)
    assert match(_read(path), "tiny_cnn").unexpected == ["predictions/0"]


HEAD = np.zeros((1, 1, 64, 5), np.float32)


def _keras_3_with_a_head(path: Path, within: str = "layers") -> Path:
    """A convolution as the head, in the backbone's own model or around it, and the optimizer of a compiled model."""
    keras_3_file(path, prefix=within)
    with h5py.File(path, "a") as file:
        at = file.create_group(f"layers/conv2d{'_4' if within == 'layers' else ''}/vars")
        at.attrs["name"] = "head_conv"
        at["0"] = HEAD
        file["optimizer/vars/0"] = np.zeros((3, 3, 16, 16), np.float32)
    return path


def _keras_archive_with_a_head(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(_keras_3_with_a_head(path.with_name("inner.h5")), "model.weights.h5")
    return path


def _keras_2_with_a_head(path: Path) -> Path:
    """As `model.save` of a compiled model."""
    keras_2_file(path.with_name("inner.h5"))
    with h5py.File(path.with_name("inner.h5")) as inner, h5py.File(path, "w") as file:
        model = file.create_group("model_weights")
        for name in inner:
            inner.copy(name, model)
        model.attrs["layer_names"] = [*inner.attrs["layer_names"], "head_conv"]
        model["head_conv/head_conv/kernel:0"] = HEAD
        model["head_conv"].attrs["weight_names"] = ["head_conv/kernel:0"]
        file["optimizer_weights/m"] = np.zeros((3, 3, 16, 16), np.float32)
    return path


def _safetensors_with_a_head(path: Path) -> Path:
    flat = {f"{layer}.{name}": array for layer, one in tiny_arrays().items() for name, array in one.items()}
    momenta = {f"optimizer.m.{name}": np.full_like(array, np.nan) for name, array in flat.items()}
    save_file({**flat, **momenta, "head_conv.kernel": HEAD}, path)
    return path


WITH_A_HEAD: dict[str, Callable[[Path], Path]] = {
    "keras 3": _keras_3_with_a_head,
    "keras 3, the backbone as one layer": lambda path: _keras_3_with_a_head(path, "layers/functional/layers"),
    "keras archive": _keras_archive_with_a_head,
    "keras 2": _keras_2_with_a_head,
    "safetensors": _safetensors_with_a_head,
}


@pytest.mark.parametrize("kind", WITH_A_HEAD)
def test_a_convolution_as_head_and_an_optimizer_are_passed_over_in_every_kind_of_file(
    tmp_path: Path, kind: str
) -> None:
    path = WITH_A_HEAD[kind](tmp_path / "a")
    assert _same_as_written(path) == "name"
    (left,) = match(_read(path), "tiny_cnn").unexpected
    assert left.startswith("head_conv/")


def test_a_convolution_amid_the_backbone_is_another_architecture_in_every_kind_of_file(tmp_path: Path) -> None:
    kernel = np.zeros((3, 3, 32, 32), np.float32)
    paths = [tmp_path / name for name in ("a.h5", "b.h5", "c.safetensors")]
    with h5py.File(keras_3_file(paths[0]), "a") as file:
        file.move("layers/conv2d_3", "layers/conv2d_10")  # block4_conv: after conv2d_9, whatever the alphabet says
        file["layers/conv2d_9/vars/0"] = kernel
        file["layers/conv2d_9/vars"].attrs["name"] = "block3_again"
    with h5py.File(keras_2_file(paths[1]), "a") as file:
        names = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = [*names[:-2], "block3_again", *names[-2:]]
        file["block3_again/block3_again/kernel:0"] = kernel
        file["block3_again"].attrs["weight_names"] = ["block3_again/kernel:0"]
    flat = {f"{layer}/{name}": array for layer, one in tiny_arrays().items() for name, array in one.items()}
    save_file({**flat, "block3_again/kernel": kernel}, paths[2])
    for path in paths:
        with pytest.raises(
            WeightsRefused, match=r"These are not the weights of Tiny network.*\(1 layers: block3_again\)"
        ):
            match(_read(path), "tiny_cnn")


def test_weights_of_another_architecture_are_refused_with_counts(tmp_path: Path) -> None:
    groups = _read(keras_3_file(tmp_path / "a.weights.h5"))
    with pytest.raises(WeightsRefused, match="not the weights of MobileNetV2, or not all of them"):
        match(groups, "mobilenet_v2")
    with pytest.raises(WeightsRefused, match="21 of its 25 arrays are in the file, 4 are missing"):
        match(groups[1:], "tiny_cnn")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = keras_3_file(tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        file["layers/conv2d/vars/0"][0, 0, 0, 0] = value
    with pytest.raises(WeightsRefused, match='"block1_conv/kernel" holds 1 values that are not numbers'):
        match(_read(path), "tiny_cnn")


def _named_with(name: Any, dtype: Any) -> Callable[[Path], None]:
    """A head whose layer has this name."""

    def write(path: Path) -> None:
        with h5py.File(keras_3_file(path), "a") as file:
            file["layers/dense/vars/0"] = np.zeros((64, 3), np.float32)
            file["layers/dense/vars"].attrs.create("name", name, dtype=dtype)

    return write


def _old_file_named_with_nothing_of_utf_8(path: Path) -> None:
    with h5py.File(keras_2_file(path), "a") as file:
        names = [*file.attrs["layer_names"], "head"]
        file.attrs["layer_names"] = names
        file["head/kernel"] = np.zeros((64, 3), np.float32)
        keys = np.array([b"\xff/kernel", b"kernel"], dtype=object)
        file["head"].attrs.create("weight_names", keys, dtype=h5py.string_dtype())


def _linked_to_nothing_of_utf_8(path: Path) -> None:
    with h5py.File(keras_3_file(path), "a") as file:
        file["layers/more"] = h5py.ExternalLink(b"\xff", "/layers")


def _linked_as_nothing_of_utf_8(path: Path) -> None:
    with h5py.File(keras_3_file(path), "a") as file:
        file[b"layers/\xff/vars/0"] = np.zeros(3, np.float32)


def _safetensors_with_nul(path: Path) -> None:
    flat = {f"{layer}.{name}": array for layer, one in tiny_arrays().items() for name, array in one.items()}
    save_file({**flat, "a\0b.kernel": np.zeros((64, 3), np.float32)}, path)


NO_TEXT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a name of any length": (_named_with(b"\xff", h5py.string_dtype()), "\ufffd/0"),
    "a name of one length": (_named_with(b"\xff\0b", "S3"), "\ufffd\ufffdb/0"),
    "a key of safetensors": (_safetensors_with_nul, "a\ufffdb/kernel"),
    "a key of Keras 2": (_old_file_named_with_nothing_of_utf_8, "damaged or cut off"),
    "a link's target": (_linked_to_nothing_of_utf_8, 'a link to another file ("\ufffd")'),
    "a link": (_linked_as_nothing_of_utf_8, "damaged or cut off"),
}


@pytest.mark.parametrize("what", NO_TEXT)
def test_names_that_are_no_text_are_text_in_the_report(tmp_path: Path, what: str) -> None:
    make, told = NO_TEXT[what]
    make(tmp_path / "a")
    question = {"source": str(tmp_path / "a"), "target": str(tmp_path / "out.npz")}
    answer = check({**question, "backbone": "tiny_cnn", "most_bytes": MOST})
    said = " ".join([answer.get("error", ""), *answer.get("unexpected", ())])
    assert told in said
    assert "\0" not in said
    said.encode()  # fails on lone surrogates, as every answer would


def _external_link(file: h5py.File, folder: Path) -> None:
    keras_3_file(folder / "secret.h5")
    file["layers/more"] = h5py.ExternalLink(str(folder / "secret.h5"), "/layers")


def _soft_link(file: h5py.File, _folder: Path) -> None:
    file["layers/more"] = h5py.SoftLink("/layers")


def _hard_loop(file: h5py.File, _folder: Path) -> None:
    file["layers/more"] = file["layers"]


def _virtual(file: h5py.File, folder: Path) -> None:
    keras_3_file(folder / "secret.h5")
    layout = h5py.VirtualLayout((2, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (2, 2))
    file.create_virtual_dataset("layers/x/vars/0", layout)


def _external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(b"0123456789abcdef")
    file.create_dataset("layers/x/vars/0", (4,), np.float32, external=[(str(folder / "secret"), 0, 16)])


def _huge(file: h5py.File, _folder: Path) -> None:
    file.create_dataset("layers/x/vars/0", (1 << 18, 1 << 18), np.float32, chunks=(1, 1024), compression="gzip")


def _objects(file: h5py.File, _folder: Path) -> None:
    file.create_dataset("layers/x/vars/0", (3,), h5py.string_dtype())


HOSTILE = {
    "link to another file": _external_link,
    "link to another place": _soft_link,
    "under two names": _hard_loop,
    "is virtual": _virtual,
    "is in another file": _external_storage,
    "declares arrays of": _huge,
    "weights are floating-point numbers": _objects,
}


@pytest.mark.parametrize("sentence", sorted(HOSTILE))
def test_hostile_hdf5_is_refused_before_its_data_is_read(tmp_path: Path, sentence: str) -> None:
    path = keras_3_file(tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        HOSTILE[sentence](file, tmp_path)
    with pytest.raises(WeightsRefused, match=sentence):
        _read(path)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1.0]}, protocol=4))


def _torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")


def _saved_model(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/saved_model.pb", b"")


def _truncated(path: Path) -> None:
    keras_3_file(path)
    path.write_bytes(path.read_bytes()[:-2000])


def _torn_zip(path: Path) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model.weights.h5", b"x" * 5000)
    path.write_bytes(whole.getvalue()[:3000])


def _torn_safetensors(path: Path) -> None:
    save_file({"a.kernel": np.zeros(1000, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-10])


def _lying_safetensors(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pickle called .h5": (_pickle, "This is a pickle"),
    "a PyTorch archive": (_torch_zip, "a pickle inside a zip"),
    "a SavedModel": (_saved_model, "This is a SavedModel"),
    "a truncated HDF5 file": (_truncated, "damaged or cut off"),
    "a torn zip": (_torn_zip, "damaged or cut off"),
    "a torn safetensors": (_torn_safetensors, "damaged or cut off"),
    "a lying safetensors": (_lying_safetensors, "damaged or cut off"),
    "nothing": (_empty, "empty"),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_files_of_another_kind_or_cut_short_are_refused_with_a_sentence(tmp_path: Path, what: str) -> None:
    make, sentence = WRONG[what]
    make(tmp_path / "a.h5")
    with pytest.raises(WeightsRefused, match=sentence):
        _read(tmp_path / "a.h5")


def _keras_archive(path: Path) -> Path:
    keras_3_file(path.with_name("inner.h5"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_name("inner.h5"), "model.weights.h5")
        archive.writestr("config.json", "{}")
    return path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is a thing of Linux")
@pytest.mark.parametrize("full", ["out.h5", "out.npz"])
def test_a_full_disk_is_told_as_such_and_not_as_a_damaged_file(tmp_path: Path, full: str) -> None:
    (tmp_path / full).symlink_to("/dev/full")
    question = {"source": str(_keras_archive(tmp_path / "a.keras")), "target": str(tmp_path / "out.npz")}
    answer = check({**question, "backbone": "tiny_cnn", "most_bytes": MOST})
    assert answer == {
        "error": "The disk became full while this file was checked. Free some space and try again. "
        "This file was not kept: send it again then."
    }
    assert not (tmp_path / "out.h5").is_symlink()


def test_names_of_a_file_are_bounded_and_counted(tmp_path: Path) -> None:
    path = keras_3_file(tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        for number in range(201):
            file[f"layers/dense_{number}/vars/0"] = np.zeros(1, np.float32)
            file[f"layers/dense_{number}/vars"].attrs["name"] = "x" * 300
    question = {"source": str(path), "target": str(tmp_path / "out.npz")}
    answer = check({**question, "backbone": "tiny_cnn", "most_bytes": MOST})
    assert answer["unexpected"] == ["x" * 200] * 200
    assert answer["unexpected_count"] == 201


def test_the_arrays_are_kept_under_their_form_and_name(tmp_path: Path) -> None:
    question = {"source": str(keras_3_file(tmp_path / "a.h5")), "target": str(tmp_path / "out.npz")}
    answer = check({**question, "backbone": "tiny_cnn", "most_bytes": MOST})
    counts = {"matched": 25, "missing": [], "unexpected": [], "unexpected_count": 0}
    assert answer == {"form": "plain", "way": "name", **counts}
    with np.load(tmp_path / "out.npz", allow_pickle=False) as kept:
        assert np.array_equal(kept["plain:block1_conv/kernel"], tiny_arrays()["block1_conv"]["kernel"])
