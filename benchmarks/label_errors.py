"""How many planted label errors stand at the head of the label desk's list.

A tenth of the labels is changed at random to another class, and the list is made anew. Precision at k is the share of planted errors among
the first k of the list, k being the number planted. Every picture counts as train or validation (the desk never sees test).

    python -m benchmarks label_errors ../shared/data/dev_sample/flowers5 ../shared/data/dev_sample/trash6 --seeds 5
"""

import argparse
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import average_precision_score

from core.training_config import TrainingConfig
from worker.label_checks import check_config
from worker.training.layers import PictureResizer
from worker.training.materials import frozen_part
from worker.training.network import build_network
from worker.training.out_of_fold import out_of_fold, ranked
from worker.training.pictures import decode

SHARE = 0.1


def features_of(folder: Path, config: TrainingConfig) -> tuple[np.ndarray, np.ndarray]:
    """(features float32 [n, d], labels int64 [n]) of a folder of class folders, by the network of a label check in float32."""
    names = sorted(one.name for one in folder.iterdir() if one.is_dir())
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    network = build_network(config, len(names))
    frozen: Any = frozen_part(network, config.phases[0])[0]
    run = tf.function(lambda pictures: frozen(tf.cast(pictures, tf.float32), training=False))
    resize = PictureResizer(config.image_size, config.resize)
    found = []
    for start in range(0, len(paths), 32):
        pixels = np.stack([np.asarray(resize(decode(path))) for path, _ in paths[start : start + 32]])
        found.append(run(pixels).numpy())
    return np.concatenate(found), np.asarray([label for _, label in paths], np.int64)


def planted(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels with a tenth changed, True where they were)."""
    random = np.random.default_rng(seed)
    count, classes = round(SHARE * len(labels)), int(labels.max()) + 1
    places = random.choice(len(labels), count, replace=False)
    given = labels.copy()
    given[places] = (given[places] + random.integers(1, classes, count)) % classes
    wrong = np.zeros(len(labels), bool)
    wrong[places] = True
    return given, wrong


def measure(features: np.ndarray, labels: np.ndarray, seed: int, threads: int) -> dict[str, float]:
    """Figures of one planting."""
    given, wrong = planted(labels, seed)
    classes = int(labels.max()) + 1
    probabilities = out_of_fold(features, given, np.arange(len(labels)), classes, threads=threads)
    ranking = ranked(given, probabilities)
    own = probabilities[np.arange(len(labels)), given]
    return {
        "precision_at_k": float(wrong[ranking.order[: int(wrong.sum())]].mean()),
        "average_precision": float(average_precision_score(wrong, -own)),
        "chance": float(wrong.mean()),
        "suggested_is_true": float((ranking.suggested[wrong] == labels[wrong]).mean()),
        "likely": int(ranking.likely.sum()),
    }


def main() -> None:
    """Measure and print one JSON object per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of class folders")
    parser.add_argument("--seeds", type=int, default=5, help="plantings per set")
    parser.add_argument("--side", type=int, help="pixels a side; without: as label checks have it")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    config = check_config()
    if arguments.side:
        config = config.model_copy(update={"image_size": (arguments.side, arguments.side)})
    for folder in arguments.folders:
        features, labels = features_of(folder.resolve(), config)
        rows = [measure(features, labels, seed, arguments.threads) for seed in range(arguments.seeds)]
        mean = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
        each = [round(row["precision_at_k"], 3) for row in rows]
        print(
            json.dumps({"set": folder.name, "pictures": len(labels), **mean, "precision_at_k_each": each}), flush=True
        )


if __name__ == "__main__":
    main()
