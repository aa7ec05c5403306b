"""The download answers as the trained network did, proves it, and gives nothing out when it does not."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from app.downloading import swap_golden
from core.training_config import FrozenPhase, Head, TrainingConfig
from tests.worker.training.doubts import doubt_of
from tests.worker.training.exports import export_now, go_on
from worker.training.export import (
    KERAS_FILE,
    ExportDisagrees,
    ExportResult,
    checking,
    exporting,
    write_zip,
)
from worker.training.golden import Reference, patterns, write_pictures
from worker.training.network import Network, build_network
from worker.training.orders import Cancelled
from worker.training.pictures import decode

CONFIG = TrainingConfig(
    backbone="tiny_cnn",
    weights="none",
    image_size=(24, 16),
    resize="crop",
    head=Head(binary=True),
    phases=(FrozenPhase(features="live"),),
)
CLASS_NAMES = ["кот `1`", "狗"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("прогон 狗")


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(CONFIG, 2)


@pytest.fixture(scope="module")
def pictures(folder: Path) -> list[Path]:
    paths = []
    for index, pixels in enumerate(patterns(7)):
        kind = ("jpg", "png", "webp")[index % 3]
        path = folder / f"zdjęcie {index}.{kind}"
        Image.fromarray(pixels).save(path, quality=95)
        paths.append(path)
    return paths[:9]


@pytest.fixture(scope="module")
def result(network: Network, pictures: list[Path], folder: Path) -> ExportResult:
    return export_now(
        network,
        config=CONFIG,
        doubt=doubt_of(network),
        class_names=CLASS_NAMES,
        folder=folder,
        test_pictures=pictures,
        card=["Test accuracy: 93.0 %."],
    )


@pytest.fixture(scope="module")
def unpacked(result: ExportResult, folder: Path) -> Iterator[Path]:
    with zipfile.ZipFile(folder / "saved_model.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(folder / "unpacked")
    yield folder / "unpacked"
    assert result.size_bytes == (folder / "saved_model.zip").stat().st_size


def _verify(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "verify.py"], cwd=folder, capture_output=True, text=True, check=False)


def test_every_signature_agrees_with_the_trained_network(result: ExportResult) -> None:
    assert result.agreement.top1 == 1.0
    assert result.agreement.max_abs_diff <= 1e-5
    assert result.agreement.end_to_end_top1 == 1.0
    described = result.as_json()
    assert set(described) == {"format", "size_bytes", "sha256", "agreement"}
    assert set(described["agreement"]) == {
        "top1",
        "max_abs_diff",
        "end_to_end_top1",
        "same_verdict",
        "max_known_score_diff",
        "count",
    }


def test_the_signatures_take_and_give_what_they_promise(
    result: ExportResult, folder: Path, network: Network, pictures: list[Path]
) -> None:
    assert result.format == "saved_model"
    model = tf.saved_model.load(str(folder / "saved_model"))
    reference = Reference(network, CONFIG, doubt_of(network))
    pixels = decode(pictures[0])
    expected = reference.answer(reference.resize(pixels))["probabilities"]
    batch = np.stack([pixels, pixels])
    whole = model.signatures["serving_default"](images=tf.constant(batch))["probabilities"]
    small = model.signatures["serving_resized"](images=tf.constant(reference.resize(pixels)[None]))["probabilities"]
    data = tf.constant([pictures[1].read_bytes(), pictures[0].read_bytes()])
    encoded = model.signatures["serving_bytes"](images=data)["probabilities"]
    assert whole.shape == encoded.shape == (2, 2)
    assert whole.dtype == tf.float32
    np.testing.assert_allclose(whole[1], expected, atol=1e-6)
    np.testing.assert_allclose(small[0], expected, atol=1e-6)
    np.testing.assert_allclose(encoded[1], expected, atol=1e-3)  # JPEG decoders differ by a step here and there


def test_the_export_is_not_random(result: ExportResult, folder: Path, pictures: list[Path]) -> None:
    assert result.sha256
    model = tf.saved_model.load(str(folder / "saved_model"))
    images = tf.constant(decode(pictures[0])[None])
    one, two = (model.signatures["serving_default"](images=images)["probabilities"].numpy() for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_the_zip_holds_everything_that_explains_the_model(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    papers = {"labels.json", "model_card.md", "training_config.json", "verify.py", "golden/expected.json"}
    assert papers | {"saved_model/saved_model.pb", "golden/pictures/0001.png", "golden/resized/0009.png"} <= names
    assert not any("zdj" in name for name in names)
    assert json.loads((unpacked / "labels.json").read_text(encoding="utf-8"))["class_names"] == CLASS_NAMES
    config = json.loads((unpacked / "training_config.json").read_text(encoding="utf-8"))
    assert TrainingConfig.model_validate(config) == CONFIG
    card = (unpacked / "model_card.md").read_text(encoding="utf-8")
    assert "狗" in card
    assert card.index("Test accuracy: 93.0 %.") < card.index("## Classes")
    assert "## Signatures" in card


def test_golden_pictures_tell_nothing_of_the_person_s_files(unpacked: Path) -> None:
    assert "zdj" not in (unpacked / "golden" / "expected.json").read_text(encoding="utf-8")
    assert "original" not in json.loads((unpacked / "golden" / "expected.json").read_text())["pictures"][0]


def test_a_download_without_test_pictures_has_none_and_proves_itself(
    result: ExportResult, folder: Path, tmp_path: Path
) -> None:
    assert result.format == "saved_model"
    swap_golden(folder / "saved_model.zip", tmp_path / "one.zip")
    swap_golden(folder / "saved_model.zip", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(folder / "saved_model.zip") as whole, zipfile.ZipFile(tmp_path / "one.zip") as without:
        assert without.testzip() is None
        without.extractall(tmp_path / "unpacked")
        shown = {whole.read(name) for name in whole.namelist() if name.startswith("golden/")}
        left = {without.read(name) for name in without.namelist()}
        assert {name for name in whole.namelist() if not name.startswith("golden")} < set(without.namelist())
    assert len(shown) > 1
    assert not shown & left
    done = _verify(tmp_path / "unpacked")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The answers agree.")


def test_the_zip_s_own_check_passes_and_fails_when_an_answer_is_wrong(unpacked: Path) -> None:
    right = _verify(unpacked)
    assert (right.returncode, right.stdout.splitlines()[-1]) == (0, "The answers agree.")
    file = unpacked / "golden" / "expected.json"
    expected = json.loads(file.read_text())
    expected["pictures"][2]["probabilities"][0] += 0.01
    file.write_text(json.dumps(expected))
    wrong = _verify(unpacked)
    assert wrong.returncode == 1
    assert "DISAGREE" in wrong.stdout


def test_an_export_of_another_network_is_refused(result: ExportResult, folder: Path) -> None:
    assert result.format == "saved_model"
    other = build_network(CONFIG.model_copy(update={"seed": 5}), 2)
    write_pictures(folder / "other", patterns(0), Reference(other, CONFIG, doubt_of(other)), side=100)
    with (
        pytest.raises(ExportDisagrees, match="does not answer as the trained network"),
        checking(folder / "saved_model", folder / "other") as wait,
    ):
        wait(go_on)


def test_an_export_that_cannot_be_opened_is_refused(tmp_path: Path, network: Network) -> None:
    write_pictures(tmp_path / "golden", patterns(0), Reference(network, CONFIG, doubt_of(network)), side=100)
    (tmp_path / "saved_model").mkdir()
    with (
        pytest.raises(ExportDisagrees, match=r"(?s)could not be checked .* SavedModel"),
        checking(tmp_path / "saved_model", tmp_path / "golden") as wait,
    ):
        wait(go_on)


def test_a_check_that_linux_kills_for_its_memory_is_a_lack_of_memory(folder: Path, result: ExportResult) -> None:
    assert result.format == "saved_model"
    before = _children()
    with pytest.raises(MemoryError), checking(folder / "saved_model", folder / "other") as wait:
        (number,) = _children() - before
        os.kill(int(number), signal.SIGKILL)
        wait(go_on)


@pytest.mark.parametrize(
    ("disagrees", "error", "told"),
    [
        (True, OSError("It cannot be loaded."), ExportDisagrees),
        (False, OSError("It cannot be loaded."), OSError),
        (True, OSError(errno.ENOSPC, "The disk is full."), OSError),
        (True, Cancelled(), Cancelled),
    ],
)
def test_a_judgement_that_fails_ends_the_check_and_gives_nothing_out(
    tmp_path: Path,
    network: Network,
    disagrees: bool,
    error: Exception,
    told: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broken export may be why: then that is said."""
    if disagrees:
        answer = Reference.answer
        monkeypatch.setattr(Reference, "answer", lambda *asked: {**answer(*asked), "known_score": -1.0})
    before = _children()
    with (
        pytest.raises(told),
        exporting(
            network,
            config=CONFIG,
            doubt=doubt_of(network),
            class_names=CLASS_NAMES,
            folder=tmp_path,
            test_pictures=[],
            decode=decode,
        ),
    ):
        raise error
    assert _children() == before
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", KERAS_FILE}


def test_what_a_killed_attempt_left_is_not_in_the_way(tmp_path: Path, network: Network) -> None:
    (tmp_path / "export-killed" / "golden").mkdir(parents=True)
    (tmp_path / "export-killed" / "golden" / "somebody.png").write_bytes(b"private")
    export_now(
        network, config=CONFIG, doubt=doubt_of(network), class_names=CLASS_NAMES, folder=tmp_path, test_pictures=[]
    )
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", "saved_model.zip", KERAS_FILE}


def test_the_keras_file_describes_a_network_that_can_learn_anew(folder: Path, result: ExportResult) -> None:
    assert result.format == "saved_model"
    with zipfile.ZipFile(folder / KERAS_FILE) as archive:
        described = archive.read("config.json").decode()
    assert '"GlorotUniform"' in described
    zeros = re.findall(r'"(\w*(?:kernel|depthwise|pointwise)_initializer)": \{[^{}]*"class_name": "Zeros"', described)
    assert not zeros


def test_who_ends_the_waiting_ends_the_check(folder: Path, result: ExportResult) -> None:
    assert result.format == "saved_model"
    before = _children()
    running: set[str] = set()

    def cancel() -> None:
        running.update(_children() - before)
        raise Cancelled

    began = time.monotonic()
    with pytest.raises(Cancelled), checking(folder / "saved_model", folder / "golden") as wait:
        wait(cancel)
    assert time.monotonic() - began < 2
    assert len(running) == 1
    assert not running & _children()


def _children() -> set[str]:
    """Process numbers of what this thread has started and not yet waited for."""
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="ascii").split())


def test_a_very_sure_sigmoid_is_exported_with_its_temperature(tmp_path: Path) -> None:
    sure = build_network(CONFIG, 2)
    dense = sure.head.get_layer("head_dense")
    plain = Reference(sure, CONFIG, doubt_of(sure, None))
    shares = np.array([plain.answer(plain.resize(pixels))["probabilities"] for pixels in patterns(CONFIG.seed)])
    logits = np.log(shares[:, 1] / shares[:, 0])
    dense.kernel.assign(dense.kernel * 30)
    dense.bias.assign([18.0 - 30 * np.median(logits)])  # sure of label 1: float32 has few steps below 1
    exported = export_now(
        sure, config=CONFIG, doubt=doubt_of(sure, 3.0), class_names=CLASS_NAMES, folder=tmp_path, test_pictures=[]
    )
    assert exported.agreement.top1 == 1.0
    assert exported.agreement.max_abs_diff < 1e-4


def test_the_same_files_give_the_same_zip(tmp_path: Path) -> None:
    for name in ("b.json", "я.png"):
        (tmp_path / name).write_text("content of " + name, encoding="utf-8")
    members = [(name, tmp_path / name) for name in ("b.json", "я.png")]
    first = write_zip(tmp_path / "one.zip", members)
    (tmp_path / "b.json").touch()
    assert write_zip(tmp_path / "two.zip", members) == first
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["b.json", "я.png"]


def test_generated_patterns_are_the_same_every_time_and_of_many_shapes() -> None:
    once, again = list(patterns(3)), list(patterns(3))
    assert len(once) == 20
    assert len({picture.shape for picture in once}) > 10
    assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))
