"""Every further format answers as the model does, proves it where it is to run, and is not given out when it cannot."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.training_config import FrozenPhase, TrainingConfig
from tests.end_to_end.house import wait_until
from tests.worker.training.doubts import doubt_of
from tests.worker.training.exports import export_now
from worker.training import convert as converting
from worker.training.answering import answering_model, whole_model
from worker.training.convert import ENDINGS, EXACT, Order, Unfit, convert, write_order
from worker.training.export import KERAS_FILE
from worker.training.golden import patterns
from worker.training.layers import PictureResizer, ResizeMode, build_resizer
from worker.training.network import build_network
from worker.training.pictures import decode

CONFIG = TrainingConfig(
    backbone="tiny_cnn",
    weights="none",
    image_size=(32, 32),
    resize="crop",
    phases=(FrozenPhase(features="live"),),
)
RUNTIMES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert", "tflite_int8": "ai-edge-litert"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an exported model, unpacked in `papers`, and test pictures."""
    folder = tmp_path_factory.mktemp("model")
    paths = []
    for index, pixels in enumerate(patterns(7)):
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    network = build_network(CONFIG, 3)
    export_now(
        network,
        config=CONFIG,
        doubt=doubt_of(network),
        class_names=["a", "b", "c"],
        folder=folder,
        test_pictures=paths,
    )
    with zipfile.ZipFile(folder / "saved_model.zip") as packed:
        packed.extractall(folder / "papers", [one for one in packed.namelist() if not one.startswith("saved_model/")])
    return folder


def order(model: Path, file_format: str) -> Order:
    pictures = tuple(str(model / f"{index}.png") for index in range(20))
    return Order(
        format=file_format,
        keras=str(model / KERAS_FILE),
        saved_model=str(model / "saved_model"),
        papers=str(model / "papers"),
        image_size=CONFIG.image_size,
        resize=CONFIG.resize,
        test=pictures,
        train=pictures[:5],
    )


# TensorFlow's own converter uses its own deprecated interpreter to find the ranges of int8
@pytest.mark.filterwarnings("ignore:[\\s\\S]*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize(
    "file_format",
    [
        "onnx",
        "tflite",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("keras", "tflite_float16", "tflite_int8")),
    ],
)
def test_a_format_agrees_and_its_zip_proves_it(model: Path, tmp_path: Path, file_format: str) -> None:
    result = convert(tmp_path, order(model, file_format))
    agreement = result["agreement"]
    assert (agreement["count"], agreement["pictures"]) == (20, "test")
    if file_format in EXACT:
        assert agreement["top1"] == 1.0
        assert agreement["max_abs_diff"] <= 1e-3
        assert agreement["max_known_score_diff"] <= 1e-3
    with zipfile.ZipFile(tmp_path / f"{file_format}.zip") as packed:
        names = set(packed.namelist())
        packed.extractall(tmp_path / "unpacked")
    papers = {"labels.json", "model_card.md", "training_config.json", "golden/expected.json", "verify.py", "resize.py"}
    assert papers | {f"model.{ENDINGS[file_format]}", "agreement.json"} <= names
    verify = [sys.executable, "verify.py"]
    done = subprocess.run(verify, cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The answers agree."), done.stderr
    expected = tmp_path / "unpacked" / "golden" / "expected.json"
    wrong = json.loads(expected.read_text())
    for row in wrong["pictures"]:
        row["probabilities"] = row["probabilities"][::-1]
        row["known_score"] = 1 - row["known_score"]
    expected.write_text(json.dumps(wrong))
    done = subprocess.run(verify, cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DISAGREE" in done.stdout


def _other(folder: Path, seed: int, resize: ResizeMode = CONFIG.resize) -> str:
    """The `.keras` file of a network with other weights, or of another resize."""
    network = build_network(CONFIG.model_copy(update={"seed": seed}), 3)
    file = folder / "other.keras"
    whole_model(build_resizer(CONFIG.image_size, resize), answering_model(network, doubt_of(network))).save(file)
    return str(file)


@pytest.mark.parametrize("file_format", ["keras", "onnx"])
def test_the_file_of_another_network_is_not_given_out(model: Path, tmp_path: Path, file_format: str) -> None:
    wanted = replace(order(model, file_format), keras=_other(tmp_path, 4))
    with pytest.raises(Unfit, match="does not answer as the model"):
        convert(tmp_path, wanted)
    assert not list(tmp_path.glob("*.zip"))


def test_a_keras_file_that_resizes_otherwise_is_not_given_out(model: Path, tmp_path: Path) -> None:
    wanted = replace(order(model, "keras"), keras=_other(tmp_path, CONFIG.seed, "squash"))
    with pytest.raises(Unfit, match="does not answer as the model"):
        convert(tmp_path, wanted)


def test_no_more_is_compared_than_there_is_time_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "_BATCH", 4)
    monkeypatch.setattr(converting, "_ASK_SECONDS", 0.0)
    resize = PictureResizer(CONFIG.image_size, CONFIG.resize)
    assert converting._write_arrays(tmp_path / "arrays", order(model, "onnx"), resize) > 0.5
    assert len(np.load(tmp_path / "arrays" / "expected.npz")["verdict"]) == 4
    (tmp_path / "onnx").mkdir()
    assert convert(tmp_path / "onnx", order(model, "onnx"))["agreement"]["count"] == 1


def test_a_file_that_gives_no_answer_in_time_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "_CHECK_SECONDS", 0.1)
    with pytest.raises(Unfit, match=r"no answers within 0\.1 seconds"):
        converting._check(tmp_path / "model.onnx", tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_that_asks_a_file_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.keras")  # nobody writes: opening it takes for ever
    script = "import sys, pathlib; from worker.training.convert import _check; _check(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", script, str(tmp_path / "model.keras"), str(tmp_path)]
    with subprocess.Popen(command) as parent:
        child = wait_until(lambda: _asking(parent.pid), 60, "it asks")
        parent.kill()
        parent.wait()
        assert parent.returncode == -signal.SIGKILL
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def _asking(parent: int) -> int | None:
    """The process that asks a file for this one, once it does nothing but wait for its answer."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        threads = len(list(Path(f"/proc/{child}/task").iterdir()))
        if b"verify_file_template" in Path(f"/proc/{child}/cmdline").read_bytes() and threads > 1:
            return int(child)
    return None


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
def test_the_resize_snippet_resizes_as_the_model_was_trained(model: Path, mode: str) -> None:
    snippet: dict[str, object] = {}
    wanted = Order("onnx", "", "", "", (40, 30), mode)  # type: ignore[arg-type]
    exec(converting._resize_snippet(wanted), snippet)
    resize = PictureResizer((40, 30), mode)  # type: ignore[arg-type]
    for index in range(6):
        path = model / f"{index}.png"
        ours, theirs = resize(decode(path)), snippet["ready"](str(path))[0]  # type: ignore[operator]
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 1.5, (mode, index)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:[\\s\\S]*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.parametrize("file_format", list(RUNTIMES))
def test_a_file_runs_where_there_is_no_tensorflow(model: Path, tmp_path: Path, file_format: str) -> None:
    convert(tmp_path, order(model, file_format))
    with zipfile.ZipFile(tmp_path / f"{file_format}.zip") as packed:
        packed.extractall(tmp_path / "unpacked")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", RUNTIMES[file_format], "numpy", "pillow"], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert "tensorflow" not in listed
    assert "keras" not in listed
    done = subprocess.run([python, "verify.py"], cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_process_writes_its_result(model: Path, tmp_path: Path) -> None:
    write_order(tmp_path, order(model, "keras"))
    command = [sys.executable, "-m", "worker.training.convert", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["format"] == "keras"
