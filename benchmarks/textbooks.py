"""The textbooks' recipes, run by the product's own trainer, and told as docs/recipes.md has it.

    python -m benchmarks textbooks [--two FOLDER] [--many FOLDER] [--weights imagenet|none|small] [--only ID] [--epochs 3] [--steps 5]

Recipes of two classes run on --two, the flowers on --many (default: the sample sets of X-rays and flowers). Without the ImageNet
weights of a backbone on this machine its recipe runs on untrained ones and says so: then it shows that every step of the recipe is
taken, and its accuracy means nothing. With --weights small the backbone is first trained from nothing on the other sample sets at 75 pixels
(`benchmarks._pretrain`; --pretrain names other folders): trained weights, if poor ones. --epochs and --steps shorten every phase; without
them a recipe runs to the letter
(VGG16: 120,000 pictures through the network). `hands-on-ml-reuse` has its own: `python -m benchmarks reuse`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._record import TRIED, in_own_process
from benchmarks._sets import SAMPLES, read_set, sample_sets, write_run_folder
from benchmarks._tables import table
from core.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("keras-guide", "hands-on-ml-flowers", "inception-mixed7", "vgg16-block5")


def config_of(recipe: str, weights: str, epochs: int | None, steps: int | None, slower: float) -> dict[str, Any]:
    """The recipe's settings, shortened and with lower rates where that was said."""
    config = PRESETS[recipe].config.model_dump(mode="json")
    config["weights"] = {"weights_id": "small"} if weights == "small" else weights
    for phase in config["phases"]:
        phase["optimizer"]["learning_rate"] /= slower
        phase["epochs"] = min(phase["epochs"], epochs or phase["epochs"])
        if steps is not None and phase["steps_per_epoch"] is not None:
            phase["steps_per_epoch"] = min(phase["steps_per_epoch"], steps)
    return config


def run(recipe: str, folder: Path, config: dict[str, Any], start: Path | None) -> dict[str, Any]:
    """Train; returns what the trainer said of each phase, the test accuracy and the seconds. `failed` names why it could not.

    Args:
        start: arrays that the backbone starts from, where the config names weights of one's own.
    """
    pictures = read_set([folder], 0)
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as temporary:
        where = Path(temporary)
        own = {"start": {"file": str(start), "cut_layer": None}} if start else {}
        threads = os.cpu_count() or 1
        path = write_run_folder(
            where / "run", pictures, config, cache=where / "cache", threads=threads, run_id=recipe, **own
        )
        command = [sys.executable, "-m", "worker.training", str(path)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        started = time.monotonic()
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False).stdout
        seconds = time.monotonic() - started
        events = [json.loads(line) for line in said.splitlines()]
        if events[-1]["event"] != "succeeded":
            return {"failed": events[-1].get("message", "The trainer ended without a word.")}
        layers = json.loads((path / "layers.json").read_text(encoding="utf-8"))
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    epochs = [event for event in events if event["event"] == "epoch"]
    phases = []
    for index, phase in enumerate(result["phases"]):
        curve = [event["metrics"] for event in epochs if event["phase_index"] == index]
        learning, fixed = (layers[index][f"{kind}_parameters"] for kind in ("trainable", "non_trainable"))
        phases.append(
            {"seconds": phase["seconds"], "learning": learning, "fixed": fixed, "first": curve[0], "last": curve[-1]}
        )
    summary = result["summary"]
    return {"phases": phases, "test": summary["test_accuracy"], "pictures": pictures.counts(), "seconds": seconds}


def rows_of(recipe: str, weights: str, config: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line a phase."""
    if "failed" in found:
        return [(recipe, weights, found["failed"], *[""] * 6)]
    rows: list[tuple[str, ...]] = []
    for index, (phase, told) in enumerate(zip(config["phases"], found["phases"], strict=True)):
        steps = phase["steps_per_epoch"]
        last = index == len(config["phases"]) - 1
        rows.append(
            (
                recipe,
                weights,
                f"{phase['kind']}, {phase['epochs']} epochs" + (f" of {steps} steps" if steps else ""),
                f"{told['learning']:,} / {told['fixed']:,}",
                " → ".join(f"{told[end]['train']['loss']:.3f}" for end in ("first", "last")),
                f"{told['last']['train']['accuracy']:.3f}",
                f"{told['last']['validation']['accuracy']:.3f}",
                f"{found['test']:.3f}" if last else "",
                f"{told['seconds']:.0f}",
            )
        )
    return rows


def pretrained(backbone: str, folders: list[Path], epochs: int) -> Path:
    """Arrays of the backbone trained on the folders, made once for these pictures and epochs."""
    names = "-".join(folder.name for folder in folders)
    target = TRIED / "weights" / f"{backbone}-{names}-{epochs}.npz"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f"part-{target.name}")
        wanted = {"folders": [str(folder) for folder in folders], "epochs": epochs, "threads": os.cpu_count() or 1}
        told = in_own_process("_pretrain:pretrain", backbone=backbone, target=str(aside), **wanted)
        aside.rename(target)
        print(json.dumps({"pretrained": backbone, **told}), flush=True)
    return target


def main() -> None:
    """Run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--two", type=Path, default=SAMPLES / "chest_xray2", help="folder of two class folders")
    parser.add_argument("--many", type=Path, default=SAMPLES / "flowers5", help="folder of class folders")
    parser.add_argument(
        "--weights", choices=("imagenet", "none", "small"), help="default: imagenet where they are, else none"
    )
    parser.add_argument("--pretrain", type=Path, action="append", help="with --weights small: folders of class folders")
    parser.add_argument("--pretrain-epochs", type=int, default=8)
    parser.add_argument("--only", action="append", choices=RECIPES)
    parser.add_argument("--epochs", type=int, help="at most so many a phase")
    parser.add_argument("--steps", type=int, help="at most so many an epoch, where the recipe names them")
    parser.add_argument("--slower", type=float, default=1.0, help="divide every phase's rate by this")
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = [
        ("recipe", "weights", "phase", "learning / fixed", "loss, first → last", "train", "validation", "test", "s")
    ]
    for recipe in options.only or RECIPES:
        folder = options.two if PRESETS[recipe].config.head.binary else options.many
        for weights in [options.weights] if options.weights else ["imagenet", "none"]:
            config = config_of(recipe, weights, options.epochs, options.steps, options.slower)
            start = None
            if weights == "small":
                others = options.pretrain or [one for one in sample_sets() if one.name != folder.name]
                start = pretrained(config["backbone"], others, options.pretrain_epochs)
            found = run(recipe, folder, config, start)
            print(json.dumps({"recipe": recipe, "weights": weights, **found}), flush=True)
            if "failed" not in found:
                break
        rows += rows_of(recipe, weights, config, found)
    print(table(rows))


if __name__ == "__main__":
    main()
