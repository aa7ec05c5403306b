"""`python -m worker.training.convert FOLDER`: another file format of a model, compared with its SavedModel on the test split.

`order.json` in the folder says what is wanted; `FORMAT.zip` and `result.json` are written beside it. The file is checked in a
process of its own that runs it as a person will (onnxruntime, ai-edge-litert: without TensorFlow) before it goes into the zip.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from core.errors import ThawError
from worker.training.export import write_zip
from worker.training.golden import TOLERANCE, patterns
from worker.training.layers import PictureResizer, ResizeMode
from worker.training.pictures import decode

ENDINGS = {"keras": "keras", "tflite": "tflite", "tflite_float16": "tflite", "tflite_int8": "tflite", "onnx": "onnx"}
EXACT = ("keras", "tflite", "onnx")  # float32: the same answers, or there is no file
MOST_COMPARED = 10_000  # test pictures; more are drawn evenly, and fewer are compared where the time is over
MOST_WHOLE = 32  # test pictures that a file with the resize inside is asked about from their own pixels
WHOLE_SIDE = 1280  # pixels; larger ones are made smaller first
CALIBRATING = 128  # training pictures that set the ranges of int8
LEAST_TOP1 = 0.5  # a quantised file that agrees less is broken
_BATCH = 32
_OPSET = 17
_HERE = Path(__file__).parent
_ASK_SECONDS = (
    300.0  # for the SavedModel's answers, and as much again for the file's: what is left then is not compared
)
_CHECK_SECONDS = 900  # then the file's process hangs
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
    resize = PictureResizer(order.image_size, order.resize)
    file = folder / f"model.{ENDINGS[order.format]}"
    _MAKERS[order.format](order, resize, file)
    pictures = _write_arrays(folder / "arrays", order, resize)
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


def _write_keras(order: Order, _: PictureResizer, file: Path) -> None:
    file.write_bytes(Path(order.keras).read_bytes())


def _write_tflite(order: Order, resize: PictureResizer, file: Path) -> None:
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


def _write_onnx(order: Order, _: PictureResizer, file: Path) -> None:
    import tf2onnx  # noqa: PLC0415 - an extra of its own, slow to import

    whole: keras.Model = keras.saving.load_model(order.keras)  # by our own trainer, and in safe mode all the same
    classifier = whole.get_layer("classifier")
    spec = tf.TensorSpec((None, *order.image_size, 3), tf.uint8, name="images")
    classifier(
        np.zeros((1, *order.image_size, 3), np.uint8)
    )  # tf2onnx finds no variables in a model that never answered

    @tf.function(input_signature=[spec])
    def serving(images: Any) -> dict[str, Any]:
        return dict(classifier(images, training=False))

    tf2onnx.convert.from_function(serving, input_signature=[spec], opset=_OPSET, output_path=str(file))


_MAKERS: dict[str, Callable[[Order, PictureResizer, Path], None]] = {
    "keras": _write_keras,
    "tflite": _write_tflite,
    "tflite_float16": _write_tflite,
    "tflite_int8": _write_tflite,
    "onnx": _write_onnx,
}


def _pixels(paths: Sequence[str], seed: int) -> Iterator[Any]:
    """Decoded pictures, or patterns where there are none."""
    return (decode(Path(path)) for path in paths) if paths else patterns(seed)


def _write_arrays(folder: Path, order: Order, resize: PictureResizer) -> float:
    """Write pictures and the SavedModel's answers for the check: pictures.npy uint8 [n, H, W, 3] and expected.npz, and for a file
    with the resize inside whole/*.png and whole.npz.

    Pictures go in an order that is drawn: where the time is over, those that were asked about speak for all.

    Returns:
        Share of files that get the same first class from the pixels of `resize.py`.
    """
    folder.mkdir()
    saved = tf.saved_model.load(order.saved_model)
    order = replace(order, test=tuple(np.random.default_rng(order.seed).permutation(np.array(order.test, object))))
    count = len(order.test) or len(list(patterns(order.seed)))
    shape = (count, *order.image_size, 3)
    arrays = np.lib.format.open_memmap(folder / "pictures.npy", "w+", dtype=np.uint8, shape=shape)
    snippet: dict[str, Any] = {}
    exec(compile(_resize_snippet(order), "resize.py", "exec"), snippet)  # noqa: S102 - our own template, as it is shipped
    same, parts, asked = 0, [], 0
    resized = _asker(saved, "serving_resized")
    until = time.monotonic() + _ASK_SECONDS
    while asked < count and (not asked or time.monotonic() < until):
        some = range(asked, min(asked + _BATCH, count))
        for index, pixels in zip(some, _pixels(order.test[some.start : some.stop], order.seed), strict=True):
            arrays[index] = resize(pixels)
        parts.append(resized(arrays[some.start : some.stop]))
        if order.test:
            theirs = np.concatenate([snippet["ready"](path) for path in order.test[some.start : some.stop]])
            shown = resized(theirs)["probabilities"].argmax(axis=1)
            same += int(np.count_nonzero(shown == parts[-1]["probabilities"].argmax(axis=1)))
        asked = some.stop
    _write_expected(folder / "expected.npz", parts)
    if order.format == "keras":
        _write_whole(folder, order, _asker(saved, "serving_default"))
    return same / asked if order.test else 1.0


def _write_whole(folder: Path, order: Order, answer: Callable[[Any], dict[str, Any]]) -> None:
    (folder / "whole").mkdir()
    parts = []
    for index, pixels in enumerate(_pixels(order.test[:MOST_WHOLE], order.seed)):
        image = Image.fromarray(pixels)
        image.thumbnail((WHOLE_SIDE, WHOLE_SIDE))
        image.save(folder / "whole" / f"{index:04}.png", compress_level=1)
        parts.append(answer(np.asarray(image)[None]))
    _write_expected(folder / "whole.npz", parts)


def _asker(saved: Any, signature: str) -> Callable[[Any], dict[str, Any]]:
    ask = saved.signatures[signature]
    return lambda images: {name: value.numpy() for name, value in ask(images=tf.constant(images)).items()}


def _write_expected(file: Path, parts: Sequence[dict[str, Any]]) -> None:
    np.savez(file, allow_pickle=False, **{name: np.concatenate([one[name] for one in parts]) for name in parts[0]})


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
    command += ["--seconds", str(_ASK_SECONDS), "--parent", str(os.getpid())]
    try:
        done = subprocess.run(  # noqa: S603 - our own script by our own interpreter
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unfit(
            f"The file gave no answers within {_CHECK_SECONDS} seconds in a clean process. Nothing is given out."
        ) from error
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
