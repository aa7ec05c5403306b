"""Checks that this model file answers here as it answered where it was made.

    python verify.py

Needs numpy and Pillow, and what runs the file: onnxruntime for .onnx, ai-edge-litert for .tflite, tensorflow for .keras. Every
picture of golden/resized/ (of golden/pictures/ for .keras, which resizes itself) is asked about and the answers compared with
golden/expected.json; what difference is allowed stands in agreement.json. Prints the agreement and exits with 0 when all agree, 1
when they do not.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

OUTPUTS = ("probabilities", "known_score", "verdict")
Answer = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_onnx(path: Path) -> Answer:
    """uint8 [1, H, W, 3] -> outputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}), strict=True))


def open_tflite(path: Path) -> Answer:
    """uint8 [1, H, W, 3] -> outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner("serving_resized")
    return lambda images: runner(images=images)


def open_keras(path: Path) -> Answer:
    """uint8 [1, h, w, 3] of any size -> outputs by name. Safe mode: the file has only Keras' own layers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    model = keras.saving.load_model(str(path))
    return lambda images: {name: np.asarray(value) for name, value in model(images, training=False).items()}


OPENERS = {".onnx": open_onnx, ".tflite": open_tflite, ".keras": open_keras}


def read_png(path: Path) -> np.ndarray:
    """uint8 [h, w, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def golden(folder: Path, pixels: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Pictures uint8 [h, w, 3], `resized` or the whole `picture`, and the outputs expected for them."""
    rows = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["pictures"]
    pictures = [read_png(folder / row[pixels]) for row in rows]
    return pictures, {name: np.asarray([row[name] for row in rows]) for name in OUTPUTS}


def compare(
    answer: Answer, pictures: Any, expected: dict[str, np.ndarray], seconds: float = float("inf")
) -> dict[str, Any]:
    """Shares of pictures with the same first class and verdict, and the largest differences, of as many as fit into the time."""
    same, verdicts, worst, worst_score, count = 0, 0, 0.0, 0.0, 0
    until = time.monotonic() + seconds
    for index, pixels in enumerate(pictures[: len(expected["verdict"])]):
        if count and time.monotonic() > until:
            break
        count += 1
        found = {name: np.asarray(value)[0] for name, value in answer(np.asarray(pixels)[None]).items()}
        wanted = expected["probabilities"][index]
        # two classes that tie to the sixth digit may come in either order
        same += int(wanted[found["probabilities"].argmax()] >= wanted.max() - 1e-6)
        verdicts += int(found["verdict"] == expected["verdict"][index])
        differences = (
            np.abs(wanted - found["probabilities"]).max(),
            abs(found["known_score"] - expected["known_score"][index]),
        )
        # NaN compares false with everything: it must count as disagreement
        probability, score = (float(one) if np.isfinite(one) else float("inf") for one in differences)
        worst, worst_score = max(worst, probability), max(worst_score, score)
    return {
        "pictures": count,
        "top1": same / count,
        "same_verdict": verdicts / count,
        "max_abs_diff": worst,
        "max_known_score_diff": worst_score,
    }


def arrays(folder: Path, answer: Answer, seconds: float) -> dict[str, Any]:
    """Compare on what lies in a folder: resized pictures, and whole ones where the file takes those. The worse of both counts."""
    found = compare(
        answer, np.load(folder / "pictures.npy", mmap_mode="r"), dict(np.load(folder / "expected.npz")), seconds
    )
    if not (folder / "whole").is_dir():
        return found
    pictures = [read_png(path) for path in sorted((folder / "whole").iterdir())]
    whole = compare(answer, pictures, dict(np.load(folder / "whole.npz")))
    return {name: (max if name.startswith("max") else min)(found[name], whole[name]) for name in found} | {
        "pictures": found["pictures"]
    }


def end_with(parent: int) -> None:
    """End this process when the one that started it has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Compare, print, and give the exit code."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Compare this model's answers with those expected.")
    parser.add_argument("--model", type=Path, help="the model file; without: the one beside this script")
    parser.add_argument("--golden", type=Path, default=here / "golden")
    parser.add_argument("--arrays", type=Path, help="folder with pictures.npy and expected.npz, instead of --golden")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="with --arrays: what is left then is not compared"
    )
    parser.add_argument("--parent", type=int, help="process that this one ends with")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    path = options.model or next(one for one in sorted(here.iterdir()) if one.suffix in OPENERS)
    if options.parent:
        end_with(options.parent)
    answer = OPENERS[path.suffix](path)
    if options.arrays:
        found = arrays(options.arrays, answer, options.seconds)
    else:
        found = compare(answer, *golden(options.golden, "picture" if path.suffix == ".keras" else "resized"))
    if options.json:
        print(json.dumps(found))
        return 0
    allowed = json.loads((here / "agreement.json").read_text(encoding="utf-8"))["allowed"]
    differences = max(found["max_abs_diff"], found["max_known_score_diff"])
    agrees = found["top1"] >= allowed["top1"] and differences <= allowed["difference"]
    print(
        f"{path.name}: {found['top1']:.1%} same class, {found['same_verdict']:.1%} same verdict, largest difference "
        f"{differences:.2g}, {found['pictures']} pictures"
    )
    print("The answers agree." if agrees else f"The answers DISAGREE. Allowed: {allowed}.")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
