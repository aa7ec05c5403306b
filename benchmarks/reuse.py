"""`python -m benchmarks reuse`: does a model of one's own help a second task? The book's experiment on Fashion-MNIST, over many draws.

Model A learns eight classes from scratch; B tells sandals from shirts with 200 pictures, alone and on A's layers (preset
`hands-on-ml-reuse`; Aurelien Geron, Hands-On Machine Learning, chapter 11). Every seed draws other pictures and other
random weights; A is one model. Each training is the product's own trainer (`python -m worker.training`). Pictures: the IDX
files of Debian's `dataset-fashion-mnist`.
"""

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from core.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
SANDAL, SHIRT = 5, 6
NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
A_CLASSES = tuple(label for label in range(10) if label not in {SANDAL, SHIRT})
SCRATCH = {"kind": "fine_tune", "features": "live", "keep": "last"}
TESTED = 1000  # pictures of a class


def read_idx(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 28, 28] and labels of "train" or "t10k"."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return pictures, np.frombuffer(file.read(), np.uint8, offset=8)


class Wardrobe:
    """Fashion-MNIST as PNG files, written when a run needs them."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._parts = {part: read_idx(source, part) for part in ("train", "t10k")}
        self._folder = folder
        folder.mkdir()

    def draw(self, part: str, label: int, count: int, random: np.random.Generator) -> np.ndarray:
        """Positions of some pictures of a class, without repeats."""
        found = np.flatnonzero(self._parts[part][1] == label)
        return random.permutation(found)[:count]

    def row(self, part: str, position: int, label: int, split: str) -> dict[str, Any]:
        """A line of images.jsonl."""
        path = self._folder / f"{part}-{position}.png"
        if not path.exists():
            Image.fromarray(self._parts[part][0][position]).convert("RGB").save(path)
        name = f"{part}-{position}"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"image_id": name, "sha256": digest, "path": str(path), "label": label, "split": split, "group": None}


def rows_of(wardrobe: Wardrobe, classes: Sequence[int], train: int, validation: int, seed: int) -> list[dict[str, Any]]:
    """A dataset with so many pictures of each class; the test pictures are always the same."""
    random = np.random.default_rng(seed)
    rows = []
    for label, wanted in enumerate(classes):
        drawn = wardrobe.draw("train", wanted, train + validation, random)
        parts = [("train", "train", drawn[:train]), ("train", "validation", drawn[train:])]
        parts.append(("t10k", "test", wardrobe.draw("t10k", wanted, TESTED, np.random.default_rng(0))))
        rows += [wardrobe.row(part, int(at), label, split) for part, split, places in parts for at in places]
    return rows


def train(folder: Path, config: dict[str, Any], rows: list[dict[str, Any]], names: Sequence[str], **more: Any) -> float:
    """Train in the product's own trainer; returns the test accuracy."""
    folder.mkdir()
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = {"config": config, "class_names": list(names), "images": "images.jsonl", **more}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    command = [sys.executable, "-m", "worker.training", str(folder)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return float(result["summary"]["test_accuracy"])


def configs() -> dict[str, dict[str, Any]]:
    """What is compared: B alone (the book's rate, and ten times it) and B on A."""
    recipe = PRESETS["hands-on-ml-reuse"].config.model_dump(mode="json")
    alone = [{**SCRATCH, "epochs": 20, "optimizer": {"name": "sgd", "learning_rate": rate}} for rate in (0.001, 0.01)]
    return {
        "B alone, SGD 0.001": {**recipe, "phases": [alone[0]]},
        "B alone, SGD 0.01": {**recipe, "phases": [alone[1]]},
        "B on A": {**recipe, "weights": {"model_id": "A"}},
    }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval over seeds (Student's t)."""
    mean, spread = float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else 0.0
    reach = spread * float(stats.t.ppf(0.975, max(1, len(values) - 1)))
    return mean, mean - reach, mean + reach


def main() -> None:
    """Train A once, then B for every seed in every way, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks reuse", description=__doc__)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--a-pictures", type=int, default=1000, help="training pictures of each of A's eight classes")
    parser.add_argument("--a-epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    errors: dict[str, list[float]] = {name: [] for name in configs()}
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        wardrobe = Wardrobe(options.source, work / "pictures")
        recipe = PRESETS["hands-on-ml-reuse"].config.model_dump(mode="json")
        phase = {**SCRATCH, "epochs": options.a_epochs, "optimizer": {"name": "adam", "learning_rate": 0.001}}
        config = {**recipe, "head": {**recipe["head"], "binary": False}, "phases": [phase], "seed": 42}
        rows = rows_of(wardrobe, A_CLASSES, options.a_pictures, 100, 42)
        accuracy = train(work / "a", config, rows, [NAMES[one] for one in A_CLASSES])
        print(f"A: eight classes, {options.a_pictures} pictures each, test accuracy {accuracy:.3f}", flush=True)
        start = {"file": str(work / "a" / "model" / "backbone_and_head" / "fine_tune.npz"), "cut_layer": None}
        before = hashlib.sha256(Path(start["file"] or "").read_bytes()).hexdigest()
        for seed in range(options.seeds):
            rows = rows_of(wardrobe, (SANDAL, SHIRT), 100, 250, seed)
            for name, config in configs().items():
                more = {"start": start} if name == "B on A" else {}
                folder = work / f"b-{seed}-{len(more)}-{name[-3:]}"
                error = 1 - train(folder, {**config, "seed": seed}, rows, ("sandal", "shirt"), **more)
                errors[name].append(error)
                print(f"seed {seed}, {name}: error {100 * error:.2f} %", flush=True)
        assert hashlib.sha256(Path(start["file"] or "").read_bytes()).hexdigest() == before, "A was changed"
    print(report(errors))
    if options.json:
        options.json.write_text(json.dumps({"a_accuracy": accuracy, "errors": errors}, indent=1), encoding="utf-8")


def report(errors: dict[str, list[float]]) -> str:
    """The table, and the difference pair by pair."""
    lines = ["| way | error on 2,000 test pictures, mean | 95 % interval | runs |", "|---|---|---|---|"]
    for name, values in errors.items():
        mean, low, high = interval(values)
        low = max(0.0, low)  # an error
        lines.append(f"| {name} | {100 * mean:.2f} % | {100 * low:.2f} to {100 * high:.2f} % | {len(values)} |")
    for name in list(errors)[:2]:
        pairs = [one - other for one, other in zip(errors[name], errors["B on A"], strict=True)]
        mean, low, high = interval(pairs)
        lines.append(
            f"\n{name} minus B on A: {100 * mean:.2f} points ({100 * low:.2f} to {100 * high:.2f}), same seeds."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
