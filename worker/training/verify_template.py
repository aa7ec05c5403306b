"""Checks that this model answers here as it answered where it was trained.

    python verify.py

Needs TensorFlow and numpy, nothing else. Every picture of golden/ goes through every signature of saved_model/; the answers are
compared with golden/expected.json. Prints the agreement and exits with 0 when all agree, 1 when they do not.

golden/pictures/*.png are whole pictures (for serving_default as pixels, for serving_bytes as the file's bytes);
golden/resized/*.png are the same in the network's own size (for serving_resized).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def read_png(path: Path) -> Any:
    """uint8 [1, h, w, 3]."""
    return tf.io.decode_png(path.read_bytes(), channels=3)[None]


def read_expected(folders: list[Path]) -> tuple[list[dict[str, Any]], float]:
    """Rows of every expected.json, with whole paths, and the allowed difference."""
    rows, tolerances = [], []
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        tolerances.append(expected["tolerance"])
        files = ("picture", "resized")
        rows += [{**row, **{key: folder / row[key] for key in files}} for row in expected["pictures"]]
    return rows, min(tolerances)


def signatures(model: Any) -> dict[str, Answer]:
    """Signature name -> function from a row of expected.json to its answer: probabilities [classes], known_score, verdict."""

    def ask(name: str, **inputs: Any) -> dict[str, Any]:
        return {key: value.numpy()[0] for key, value in model.signatures[name](**inputs).items()}

    return {
        "serving_default": lambda row: ask("serving_default", images=read_png(row["picture"])),
        "serving_resized": lambda row: ask("serving_resized", images=read_png(row["resized"])),
        "serving_bytes": lambda row: ask("serving_bytes", images=tf.constant([row["picture"].read_bytes()])),
    }


def compare(answer: Answer, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of pictures with the same first class and verdict, and the largest differences of probability and known_score."""
    same, verdicts, worst, worst_score = 0, 0, 0.0, 0.0
    for row in rows:
        answered = answer(row)
        expected, found = np.asarray(row["probabilities"]), answered["probabilities"]
        verdicts += int(row["verdict"] == answered["verdict"])
        distance = abs(float(answered["known_score"]) - row["known_score"])
        worst_score = max(worst_score, distance if np.isfinite(distance) else float("inf"))
        # two classes that tie to the sixth digit may come in either order
        same += int(expected[found.argmax()] >= expected.max() - 1e-6)
        # NaN compares false with everything: it must count as disagreement
        difference = float(np.abs(expected - found).max()) if np.isfinite(found).all() else float("inf")
        worst = max(worst, difference)
    count = len(rows)
    shares = {"top1": same / count, "same_verdict": verdicts / count}
    return {"pictures": count, **shares, "max_abs_diff": worst, "max_known_score_diff": worst_score}


def end_to_end(model: Any, rows: list[dict[str, Any]]) -> float | None:
    """Share of original files whose bytes, decoded by TensorFlow, give the expected first class; None without such files."""
    rows = [row for row in rows if row.get("original")]
    same = 0
    for row in rows:
        try:
            answer = model.signatures["serving_bytes"](images=tf.constant([Path(row["original"]).read_bytes()]))
        except tf.errors.InvalidArgumentError:
            continue  # TensorFlow cannot decode it: it does not agree
        same += int(np.argmax(answer["probabilities"].numpy()[0]) == np.argmax(row["original_probabilities"]))
    return same / len(rows) if rows else None


def main() -> int:
    """Compare, print, and give the exit code."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Compare this model's answers with those expected.")
    parser.add_argument("--model", type=Path, default=here / "saved_model")
    parser.add_argument("--golden", type=Path, nargs="+", default=[here / "golden"])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of sentences")
    options = parser.parse_args()
    model = tf.saved_model.load(str(options.model))
    rows, tolerance = read_expected(options.golden)
    found = {name: compare(answer, rows) for name, answer in signatures(model).items()}
    agrees = all(
        one["top1"] == 1.0 and max(one["max_abs_diff"], one["max_known_score_diff"]) <= tolerance
        for one in found.values()
    )
    if options.json:
        print(json.dumps({"agrees": agrees, "signatures": found, "end_to_end_top1": end_to_end(model, rows)}))
    else:
        for name, one in found.items():
            print(
                f"{name}: {one['top1']:.1%} same class, largest difference {one['max_abs_diff']:.2g}, {one['pictures']} pictures"
            )
        print("The answers agree." if agrees else f"The answers DISAGREE (allowed difference: {tolerance}).")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
