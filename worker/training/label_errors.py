"""`python -m worker.training FOLDER --label-errors`: which labels of train and validation are doubtful. Test is not looked at.

Works on the features of the folder's first phase, which a run with the same settings finds in the store (and the other way round).
Writes `label_errors.jsonl`, the worst first: `{"image_id", "given", "suggested", "given_probability", "suggested_probability", "likely"}`.
"""

import json
import time
from pathlib import Path

import keras
import numpy as np

from core.errors import ConfigInvalid
from worker.training.data import DecodedPictures
from worker.training.events import Place, Progress, Speaker
from worker.training.features import FeatureStore
from worker.training.layers import PictureResizer
from worker.training.machine import prepare_tensorflow
from worker.training.materials import Setup, Workplace, make_setup
from worker.training.network import build_network
from worker.training.orders import Orders
from worker.training.out_of_fold import Ranking, out_of_fold, ranked
from worker.training.precision import may_use_bfloat16
from worker.training.run_folder import RunFolder

FOUND = "label_errors.jsonl"
LEAST_LISTED, MOST_LISTED = 200, 5000
_SHARE_LISTED = 0.2  # of all pictures: beyond the likely errors, for whoever wants to look further


def find_label_errors(folder: RunFolder, pictures: DecodedPictures, speaker: Speaker, orders: Orders) -> None:
    """Rank the labels of train and validation by how little they are believed.

    Raises:
        ConfigInvalid: the features do not fit the cache limit.
        Cancelled, Drained: that was said.
    """
    started = time.monotonic()
    prepare_tensorflow(folder.threads)
    keras.utils.set_random_seed(folder.config.seed)
    pictures.set_resize(PictureResizer(folder.config.image_size, folder.config.resize))
    network = build_network(folder.config, len(folder.class_names))
    wants_bfloat16 = may_use_bfloat16(folder.config.precision)
    work = Workplace(folder, network, pictures, FeatureStore(folder, pictures), speaker, orders, wants_bfloat16)
    _wait_for_pictures(work)
    setup = make_setup(work, folder.config.phases[0], 0)
    features, positions = _features(work, setup)
    speaker.log(f"{work.store.computed} of {len(positions)} features were computed, the others found in the store.")
    labels = folder.pictures.labels[positions].astype(np.int64)
    names = [folder.pictures.groups[position] or f"/{position}" for position in positions]
    groups = np.unique(names, return_inverse=True)[1]
    _say(speaker, "Comparing labels", 0, 1)
    probabilities = out_of_fold(features, labels, groups, work.n_classes, threads=folder.threads, check=orders.check)
    ranking = ranked(labels, probabilities)
    _write(folder, positions, labels, probabilities, ranking)
    work.store.finish()
    pictures.finish()
    summary = {
        "pictures": len(positions),
        "likely": int(ranking.likely.sum()),
        "agreement": round(float(np.mean(probabilities.argmax(axis=1) == labels)), 4),
        "features_computed": work.store.computed,
        "backbone": folder.config.backbone,
        "seconds": round(time.monotonic() - started, 1),
    }
    speaker.say("succeeded", result=FOUND, summary=summary)


def _wait_for_pictures(work: Workplace) -> None:
    count = work.pictures.to_decode
    if count:
        progress = Progress(work.speaker, Place("prepare", message="Decoding pictures"), count, count)
        work.pictures.wait_all(lambda done: progress.at(done, done))


def _features(work: Workplace, setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """(features float32 [n, d], positions) of train, then of validation."""
    if setup.train_features is None:
        raise ConfigInvalid(
            "The cache limit is too small for the features of this dataset. Raise THAW_CACHE_LIMIT_BYTES."
        )
    splits = ((setup.train, work.positions("train")), (setup.validation, work.positions("validation")))
    features = [material.fetch(np.arange(len(positions)), 0).astype(np.float32) for material, positions in splits]
    return np.concatenate(features), np.concatenate([positions for _, positions in splits])


def _write(
    folder: RunFolder, positions: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, ranking: Ranking
) -> None:
    """The likely errors, and the next in the list."""
    listed = min(MOST_LISTED, max(LEAST_LISTED, int(_SHARE_LISTED * len(labels))))
    aside = folder.path / f".{FOUND}"
    with aside.open("w", encoding="utf-8") as out:
        for number, at in enumerate(ranking.order):
            if number >= listed and not ranking.likely[at]:
                continue
            row = {
                "image_id": folder.pictures.ids[positions[at]],
                "given": int(labels[at]),
                "suggested": int(ranking.suggested[at]),
                "given_probability": float(probabilities[at, labels[at]]),
                "suggested_probability": float(probabilities[at, ranking.suggested[at]]),
                "likely": bool(ranking.likely[at]),
            }
            out.write(json.dumps(row) + "\n")
    aside.replace(Path(folder.path) / FOUND)


def _say(speaker: Speaker, message: str, step: int, steps: int) -> None:
    speaker.say("progress", phase="frozen", message=message, step=step, steps_total=steps)
