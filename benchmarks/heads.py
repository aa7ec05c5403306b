"""Is the frozen phase as accurate as the guide's over many splits? The heads alone, on the same features of the same network. A picture
counts in every split that tests it, so p is surer than it ought to be.

Three seeds of some eighty test pictures tell differences of five points; these are 16. The guide's frozen phase works on features too: its
base answers in the mode of inference, what changes are the augmentation before and the dropout behind it. So each picture goes through the
guide's augmentation and base some ten times, and the guide's head learns from them as it does there: 20 epochs of Adam, batch 32, dropout,
each epoch by other changes (the second ten epochs see the first ten's again). Thaw's is the head of the preset quick, on the plain
pictures' features.

    python -m benchmarks heads [FOLDER ...] [--seeds 16] [--views 10]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks._guide import BATCH, augmentation, compile_model, frozen_base, head, pictures_in
from benchmarks._record import Record, folders_of, options, settings_of
from benchmarks._sets import PictureSet, read_set
from benchmarks._tables import heads_rows, table
from core.presets import PRESETS
from worker.training.heads import Problem, choose_strength, fit, fit_scaler, one_blas_thread, smoothed, unpack
from worker.training.machine import prepare_tensorflow
from worker.training.phases import class_weights

EPOCHS = 20


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__, seeds=16)
    parser.add_argument(
        "--views", type=int, default=10, help="times each picture goes through the guide's augmentation"
    )
    arguments = parser.parse_args()
    folders, seeds, views, most = folders_of(arguments), arguments.seeds, arguments.views, None
    if arguments.quick:
        seeds, views, most = 2, 2, 60
    settings = {**settings_of(folders), "seeds": seeds, "views": views, "most": most}
    record = Record("heads", arguments, settings, timed=False)
    for folder in folders:
        wanted = {"folder": str(folder), "seeds": seeds, "views": views, "most": most, "threads": arguments.threads}
        record.part(folder.name, "heads:compare", **wanted)
    print(table(heads_rows(record.body)))


def compare(folder: str, seeds: int, views: int, most: int | None, threads: int) -> dict[str, Any]:
    """Both heads on every split: by side, one `{right, test_accuracy}` a seed."""
    prepare_tensorflow(threads)
    keras.utils.set_random_seed(0)
    splits = [read_set([Path(folder)], seed, most=most) for seed in range(seeds)]
    paths = sorted({path for one in splits for path in one.paths})
    plain, changed = _features(paths, views)
    place = {path: number for number, path in enumerate(paths)}
    sides: dict[str, list[dict[str, Any]]] = {"guide": [], "thaw": []}
    for seed, pictures in enumerate(splits):
        rows = np.asarray([place[path] for path in pictures.paths])
        for side, found in (
            ("guide", _guide(plain[rows], changed[:, rows], pictures, seed)),
            ("thaw", _thaw(plain[rows], pictures, threads)),
        ):
            right = found == pictures.labels[pictures.of_split("test")]
            text = "".join("1" if one else "0" for one in right)
            sides[side].append({"right": text, "test_accuracy": float(right.mean())})
    return dict(sides)


def _features(paths: Sequence[Path], views: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [n, d] of the plain pictures, float32 [views, n, d] of changed ones), by the guide's base and pooling."""
    change, base = augmentation(), frozen_base()
    pool = keras.layers.GlobalAveragePooling2D()
    answer = tf.function(lambda pixels: pool(base(pixels, training=False)))
    batches = [batch for batch, _ in pictures_in(paths, np.zeros(len(paths), np.int64))]
    plain = np.concatenate([answer(batch).numpy() for batch in batches])
    changed = [
        np.concatenate([answer(change(batch, training=True)).numpy() for batch in batches]) for _ in range(views)
    ]
    return plain, np.stack(changed)


def _guide(plain: np.ndarray, changed: np.ndarray, pictures: PictureSet, seed: int) -> np.ndarray:
    """Labels that the guide's head says for the test pictures."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(plain.shape[1:])
    model = keras.Model(inputs, head(inputs, len(pictures.class_names)))
    compile_model(model, keras.optimizers.Adam())
    # the guide's order of the pictures, always the same
    train = np.random.default_rng(seed).permutation(pictures.of_split("train"))
    for epoch in range(EPOCHS):
        features = changed[epoch % len(changed)]
        model.fit(features[train], pictures.labels[train], batch_size=BATCH, shuffle=False, verbose=0)
    said: np.ndarray = model.predict(plain[pictures.of_split("test")], verbose=0).argmax(axis=1)
    return said


def _thaw(plain: np.ndarray, pictures: PictureSet, threads: int) -> np.ndarray:
    """Labels that the head of the preset quick says, fitted as `worker.training.logistic_phase` does."""
    config = PRESETS["quick"].config
    train, test, n_classes = pictures.of_split("train"), pictures.of_split("test"), len(pictures.class_names)
    labels, scaler = pictures.labels[train], fit_scaler(plain[train])
    weights = class_weights(labels, n_classes, config.class_weights)[labels]
    problem = Problem(scaler(plain[train]), smoothed(labels, n_classes, config.label_smoothing), weights)
    strength, _ = choose_strength(problem, np.arange(len(labels)), threads=threads, check=lambda: None)
    with one_blas_thread():
        parameters = fit(problem, strength, iterations=config.phases[0].epochs)
    kernel, bias = unpack(parameters, n_classes)
    said: np.ndarray = (scaler(plain[test]) @ kernel + bias).argmax(axis=1)
    return said


if __name__ == "__main__":
    main()
