"""`python -m worker.training.convert FOLDER`: another file format of a model, compared with it on the whole test split.

`order.json` in the folder says what is wanted; `FORMAT.zip` and `result.json` are written beside it. The file is checked in a
process of its own that runs it as a person will (onnxruntime, ai-edge-litert: without TensorFlow) before it goes into the zip.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from core.errors import ThawError
from worker.training.export import write_zip
from worker.training.golden import TOLERANCE, patterns
from worker.training.layers import PictureResizer, ResizeMode
from worker.training.pictures import decode

ENDINGS = {"keras": "keras", "tflite": "tflite", "tflite_float16": "tflite", "tflite_int8": "tflite", "onnx": "onnx"}
EXACT = ("keras", "tflite", "onnx")  # float32: the same answers, or there is no file
MOST_COMPARED = 10_000  # test pictures; more are drawn evenly
CALIBRATING = 128  # training pictures that set the ranges of int8
LEAST_TOP1 = 0.5  # a quantised file that agrees less is broken
_BATCH = 32
_OPSET = 17
_HERE = Path(__file__).parent
_CHECK_SECONDS = 3000
_NOTE = """
## This file

`{file}` ({title}) takes `images` uint8 [n, {height}, {width}, 3], already resized ({mode}); `resize.py` does that. It gives
`probabilities`, `known_score` and `verdict` as above. Compared with the SavedModel on {count} {pictures}: {top1:.1%} same class,
{same_verdict:.1%} same verdict, largest difference of a probability {max_abs_diff:.1e}. Same class from the original files through
`resize.py`: {end_to_end}.
"""
_TITLES = {
    "keras": "Keras 3, resizing inside: pictures of any size",
    "tflite": "LiteRT, float32",
    "tflite_float16": "LiteRT, weights as float16",
    "tflite_int8": "LiteRT, int8",
    "onnx": "ONNX",
}


class Unfit(ThawError):
    """The file does not answer as the model does, or could not be made."""


@dataclass(frozen=True)
class Order:
    """What is wanted.

    Attributes:
        format: one of ENDINGS.
        keras: the model's `.keras` file.
        saved_model: its SavedModel, a folder.
        papers: folder with labels.json, model_card.md, training_config.json and golden/.
        image_size: (height, width) in pixels.
        resize: mode.
        test, train: picture files to compare on, and to set the ranges of int8 by; empty: generated patterns stand in.
        seed: of the patterns.
    """

    format: str
    keras: str
    saved_model: str
    papers: str
    image_size: tuple[int, int]
    resize: ResizeMode
    test: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    seed: int = 0


def convert(folder: Path, order: Order) -> dict[str, Any]:
    """Make the file, prove it, pack it.

    Returns:
        `{format, size_bytes, sha256, agreement}`.

    Raises:
        Unfit: nothing is given out.
    """
    whole: keras.Model = keras.saving.load_model(
        order.keras
    )  # written by our own trainer, and in safe mode all the same
    classifier = whole.get_layer("classifier")
    resize = PictureResizer(order.image_size, order.resize)
    file = folder / f"model.{ENDINGS[order.format]}"
    _MAKERS[order.format](order, classifier, resize, file)
    pictures = _write_arrays(folder / "arrays", order, classifier, resize)
    found = _check(file, folder / "arrays")
    agreement = {
        **{name: found[name] for name in ("top1", "same_verdict", "max_abs_diff", "max_known_score_diff")},
        "count": found["pictures"],
        "pictures": "test" if order.test else "patterns",
        "end_to_end_top1": None if order.format == "keras" else pictures,
    }
    _judge(order.format, agreement)
    size, digest = _pack(folder, order, file, agreement)
    return {"format": order.format, "size_bytes": size, "sha256": digest, "agreement": agreement}


def _write_keras(order: Order, _: keras.Model, __: PictureResizer, file: Path) -> None:
    file.write_bytes(Path(order.keras).read_bytes())


def _write_tflite(order: Order, _: keras.Model, resize: PictureResizer, file: Path) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(order.saved_model, signature_keys=["serving_resized"])
    if order.format != "tflite":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if order.format == "tflite_float16":
        converter.target_spec.supported_types = [tf.float16]
    if order.format == "tflite_int8":
        paths = order.train

        def ranges() -> Iterator[Any]:
            for pixels in _pixels(paths, order.seed):
                yield "serving_resized", {"images": resize(pixels)[None]}

        converter.representative_dataset = ranges
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    file.write_bytes(converter.convert())


def _write_onnx(order: Order, classifier: keras.Model, _: PictureResizer, file: Path) -> None:
    import tf2onnx  # noqa: PLC0415 - an extra of its own, slow to import

    spec = tf.TensorSpec((None, *order.image_size, 3), tf.uint8, name="images")
    classifier(
        np.zeros((1, *order.image_size, 3), np.uint8)
    )  # tf2onnx finds no variables in a model that never answered

    @tf.function(input_signature=[spec])
    def serving(images: Any) -> dict[str, Any]:
        return dict(classifier(images, training=False))

    tf2onnx.convert.from_function(serving, input_signature=[spec], opset=_OPSET, output_path=str(file))


_MAKERS: dict[str, Callable[[Order, keras.Model, PictureResizer, Path], None]] = {
    "keras": _write_keras,
    "tflite": _write_tflite,
    "tflite_float16": _write_tflite,
    "tflite_int8": _write_tflite,
    "onnx": _write_onnx,
}


def _pixels(paths: Sequence[str], seed: int) -> Iterator[Any]:
    """Decoded pictures, or patterns where there are none."""
    return (decode(Path(path)) for path in paths) if paths else patterns(seed)


def _write_arrays(folder: Path, order: Order, classifier: keras.Model, resize: PictureResizer) -> float:
    """Write pictures.npy uint8 [n, H, W, 3] and expected.npz for the check.

    Returns:
        Share of files that get the same first class from the pixels of `resize.py`.
    """
    folder.mkdir()
    count = len(order.test) or len(list(patterns(order.seed)))
    shape = (count, *order.image_size, 3)
    arrays = np.lib.format.open_memmap(folder / "pictures.npy", "w+", dtype=np.uint8, shape=shape)
    snippet: dict[str, Any] = {}
    exec(compile(_resize_snippet(order), "resize.py", "exec"), snippet)  # noqa: S102 - our own template, as it is shipped
    same, parts = 0, []
    answer = tf.function(lambda images: classifier(images, training=False))
    for first in range(0, count, _BATCH):
        some = range(first, min(first + _BATCH, count))
        for index, pixels in zip(some, _pixels(order.test[first : first + _BATCH], order.seed), strict=False):
            arrays[index] = resize(pixels)
        found = {name: value.numpy() for name, value in answer(tf.constant(arrays[some.start : some.stop])).items()}
        parts.append(found)
        if order.test:
            theirs = np.concatenate([snippet["ready"](path) for path in order.test[some.start : some.stop]])
            shown = answer(tf.constant(theirs))["probabilities"].numpy().argmax(axis=1)
            same += int(np.count_nonzero(shown == found["probabilities"].argmax(axis=1)))
    expected = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    np.savez(folder / "expected.npz", allow_pickle=False, **expected)
    return same / count if order.test else 1.0


def _resize_snippet(order: Order) -> str:
    text = (_HERE / "resize_template.py").read_text(encoding="utf-8")
    height, width = order.image_size
    return text.replace(
        'HEIGHT, WIDTH, MODE = 224, 224, "crop"', f'HEIGHT, WIDTH, MODE = {height}, {width}, "{order.resize}"'
    )


def _check(file: Path, arrays: Path) -> dict[str, Any]:
    """Ask the file in a process that has no TensorFlow of ours in it."""
    command = [
        sys.executable,
        "-I",
        str(_HERE / "verify_file_template.py"),
        "--json",
        "--model",
        str(file),
        "--arrays",
        str(arrays),
    ]
    done = subprocess.run(  # noqa: S603 - our own script by our own interpreter
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHECK_SECONDS, check=False
    )
    if done.returncode or not done.stdout.strip():
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise Unfit(f"The file could not be asked in a clean process (exit code {done.returncode}): {said}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _judge(file_format: str, agreement: dict[str, Any]) -> None:
    worst = max(agreement["max_abs_diff"], agreement["max_known_score_diff"])
    least, most = (1.0, TOLERANCE) if file_format in EXACT else (LEAST_TOP1, float("inf"))
    if agreement["top1"] < least or not worst <= most:
        raise Unfit(
            f"The {file_format} file does not answer as the model: same class on {agreement['top1']:.1%} of {agreement['count']} "
            f"pictures, largest difference {worst:.2g}. Allowed: {least:.0%} and {most:g}. Nothing is given out."
        )


def allowed(file_format: str, agreement: dict[str, Any]) -> dict[str, float]:
    """What `verify.py` allows on another machine: for quantised files what was measured, and some more."""
    if file_format in EXACT:
        return {"top1": 1.0, "difference": TOLERANCE}
    measured = max(agreement["max_abs_diff"], agreement["max_known_score_diff"])
    return {"top1": max(0.0, agreement["top1"] - 0.1), "difference": 2 * measured + TOLERANCE}


def _pack(folder: Path, order: Order, file: Path, agreement: dict[str, Any]) -> tuple[int, str]:
    papers = Path(order.papers)
    height, width = order.image_size
    end_to_end = agreement["end_to_end_top1"]
    note = _NOTE.format(
        **{**agreement, "pictures": "test pictures" if order.test else "generated patterns"},
        file=file.name,
        title=_TITLES[order.format],
        height=height,
        width=width,
        mode=order.resize,
        end_to_end="not needed" if end_to_end is None else f"{end_to_end:.1%}",
    )
    told = {"format": order.format, "agreement": agreement, "allowed": allowed(order.format, agreement)}
    made = {
        "model_card.md": (papers / "model_card.md").read_text(encoding="utf-8") + note,
        "agreement.json": json.dumps(told, indent=1) + "\n",
        "resize.py": _resize_snippet(order),
        "verify.py": (_HERE / "verify_file_template.py").read_text(encoding="utf-8"),
    }
    members = [(path.relative_to(papers).as_posix(), path) for path in papers.rglob("*") if path.is_file()]
    members = [(name, path) for name, path in members if name not in made]
    (folder / "made").mkdir()
    for name, text in made.items():
        (folder / "made" / name).write_text(text, encoding="utf-8")
        members.append((name, folder / "made" / name))
    return write_zip(folder / f"{order.format}.zip", sorted([*members, (file.name, file)]))


def main() -> int:
    """Carry out the order of the folder in `sys.argv[1]`; 0 when the zip is there, 1 with the reason in result.json."""
    folder = Path(sys.argv[1]).resolve()
    asked: dict[str, Any] = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    asked = {name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()}
    order = Order(**asked)
    try:
        result, code = convert(folder, order), 0
    except ThawError as error:
        result, code = {"error": str(error)}, 1
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return code


def write_order(folder: Path, order: Order) -> None:
    """Write order.json."""
    (folder / "order.json").write_text(json.dumps(asdict(order)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
