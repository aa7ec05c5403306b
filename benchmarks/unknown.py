"""Does the exported graph know what it does not know? One run per sample set, then each model asked about the other sets' pictures.

    python -m benchmarks unknown FOLDER FOLDER ... [--preset standard] [--seed 0]

Prints, per set: test pictures, log loss before and after the temperature, calibration error with the band of a calibrated model of that
size, share of own test pictures called unknown, and the AUROC of `known_score` for own test pictures against each other set.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BATCH = 32


def write_run(folder: Path, data: Path, preset: str, seed: int, shared: Path) -> Path:
    """A run folder of one set, 70/15/15 of every class."""
    from core.presets import PRESETS  # noqa: PLC0415 - after the arguments

    folder.mkdir(parents=True)
    names = sorted(path.name for path in data.iterdir() if path.is_dir())
    rows = []
    for label, name in enumerate(names):
        paths = sorted(path for path in (data / name).iterdir() if path.is_file())
        order = np.random.default_rng([seed, label]).permutation(len(paths))
        ends = round(0.7 * len(paths)), round(0.85 * len(paths))
        for place, index in enumerate(order):
            path = paths[index]
            split = "train" if place < ends[0] else "validation" if place < ends[1] else "test"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            row = {"image_id": f"{label}-{index}", "sha256": digest, "path": str(path), "label": label, "split": split}
            rows.append({**row, "group": None, "filename": path.name})
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {**PRESETS[preset].config.model_dump(mode="json"), "seed": seed}
    told = {"format": 1, "run_id": data.name, "config": config, "class_names": names, "images": "images.jsonl"}
    told |= {"decoded_cache": str(shared / "decoded"), "feature_store": str(shared / "features")}
    (folder / "run.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def known_scores(saved_model: Path, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`known_score` and `verdict` of resized pictures by the exported graph."""
    import tensorflow as tf  # noqa: PLC0415

    module = tf.saved_model.load(str(saved_model))
    ask = module.signatures["serving_resized"]
    found = [ask(images=tf.constant(pixels[first : first + BATCH])) for first in range(0, len(pixels), BATCH)]
    scores, verdicts = (np.concatenate([one[name].numpy() for one in found]) for name in ("known_score", "verdict"))
    return scores, verdicts


def resized(paths: list[str], size: tuple[int, int], mode: Any) -> np.ndarray:
    """Pictures as the run sees them, uint8 [n, H, W, 3]."""
    from worker.training.layers import PictureResizer  # noqa: PLC0415
    from worker.training.pictures import decode  # noqa: PLC0415

    resize = PictureResizer(size, mode)
    return np.stack([resize(decode(Path(path))) for path in paths])


def main() -> None:
    """Train, ask, print one JSON object per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of class folders, two or more")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="run folders are kept here, and used again when they are there")
    arguments = parser.parse_args()
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415

    from worker.training.run_folder import read_run_folder  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="thaw-unknown-") as temporary:
        place = (arguments.keep or Path(temporary)).resolve()
        runs = {}
        for data in arguments.folders:
            folder = place / data.name
            if not (folder / "result.json").is_file():
                write_run(folder, data.resolve(), arguments.preset, arguments.seed, place / "cache")
                command = [sys.executable, "-m", "worker.training", str(folder)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            runs[data.name] = read_run_folder(folder)
        pixels = {}
        for name, run in runs.items():
            pixels[name] = resized(run.pictures.paths, run.config.image_size, run.config.resize)
        for name, run in runs.items():
            test = run.pictures.of_split("test")
            own, verdicts = known_scores(run.path / "model" / "saved_model", pixels[name][test])
            evaluation = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
            judged = evaluation["phases"][evaluation["chosen_phase"]]
            auroc = {}
            for other in runs:
                if other != name:
                    foreign, _ = known_scores(run.path / "model" / "saved_model", pixels[other])
                    truth = np.r_[np.ones(len(own)), np.zeros(len(foreign))]
                    auroc[other] = round(float(roc_auc_score(truth, np.r_[own, foreign])), 4)
            calibration = judged["calibration"]
            after = calibration["after"] or {}
            print(
                json.dumps(
                    {
                        "set": name,
                        "test_pictures": len(test),
                        "chosen_phase": evaluation["chosen_phase"],
                        "accuracy": judged["accuracy"],
                        "temperature": calibration["temperature"],
                        "loss_before": round(calibration["before"]["loss"], 4),
                        "loss_after": round(after["loss"], 4) if after else None,
                        "ece": round(calibration["ece"], 4),
                        "ece_band": calibration.get("ece_band"),
                        "own_called_unknown": round(float(np.mean(verdicts == 2)), 4),
                        "auroc": auroc,
                        "lowest_auroc": min(auroc.values()),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
