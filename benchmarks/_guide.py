"""The recipe of the Keras guide "Transfer learning & fine-tuning", as it is written there (https://keras.io/guides/transfer_learning).

What differs is named: the backbone is EfficientNet-Lite0 with its own scaling (the guide: Xception), pictures come from files, are
224 px and resized as Thaw resizes them, and there is one output per class with the cross entropy that belongs to it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks._sets import PictureSet, read_set
from worker.training.backbones import build_backbone
from worker.training.layers import FixedBatchNormalization
from worker.training.machine import prepare_tensorflow

SIZE = (224, 224)
BATCH = 32


def pictures_in(paths: Sequence[Path], labels: np.ndarray) -> Any:
    """Dataset of (float32 [n, 224, 224, 3], label), decoded in the first epoch and kept in memory, as the guide has it."""
    resize = layers.Resizing(*SIZE, crop_to_aspect_ratio=True, antialias=True)

    def read(path: Any, label: Any) -> tuple[Any, Any]:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False), label

    def resized(picture: Any, label: Any) -> tuple[Any, Any]:
        picture.set_shape((None, None, 3))
        return resize(picture), label

    dataset = tf.data.Dataset.from_tensor_slices(([str(path) for path in paths], labels))
    return dataset.map(read).map(resized).cache().batch(BATCH).prefetch(buffer_size=10)


def datasets(pictures: PictureSet, seed: int) -> dict[str, Any]:
    """Split -> `pictures_in` of it."""
    found = {}
    for split in ("train", "validation", "test"):
        # The guide's pictures come in a mixed order, always the same; so do these.
        places = np.random.default_rng(seed).permutation(pictures.of_split(split))
        found[split] = pictures_in([pictures.paths[place] for place in places], pictures.labels[places])
    return found


def augmentation() -> keras.Sequential:
    """What the guide does to the pictures while it trains."""
    return keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])


def frozen_base() -> keras.Model:
    """The guide's base model; its first layer is the scaling."""
    base_model = _stock_lite0()
    base_model.trainable = False
    return base_model


def head(pooled: Any, n_classes: int) -> Any:
    """The guide's layers behind the pooling."""
    return keras.layers.Dense(n_classes)(keras.layers.Dropout(0.2)(pooled))


def make_model(n_classes: int) -> tuple[keras.Model, keras.Model]:
    """(model, base model), as the guide builds them: augmentation inside, `training=False` for the base."""
    data_augmentation, base_model = augmentation(), frozen_base()
    inputs = keras.Input(shape=(*SIZE, 3))
    x = data_augmentation(inputs)
    x = base_model(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, head(x, n_classes)), base_model


def _stock_lite0() -> keras.Model:
    """EfficientNet-Lite0 with ImageNet weights, of Keras' own layers only."""
    ours = build_backbone("efficientnet_lite0", image_size=SIZE, weights="imagenet", seed=0)

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = keras.layers.BatchNormalization if isinstance(layer, FixedBatchNormalization) else type(layer)
        return kind.from_config(layer.get_config())

    model = keras.models.clone_model(ours, clone_function=stock)
    model.set_weights(ours.get_weights())
    return model


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """With the guide's loss and metric, one output per class."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy()])


def fix_statistics(base_model: keras.Model) -> None:
    """What `training=False` was meant to do: every BatchNorm in inference mode for real."""
    for layer in base_model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch, validation included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.seconds.append(time.monotonic() - self._began)


def frozen_phase(
    folders: Sequence[str], seed: int, most: int | None, epochs: int, threads: int, weights: str
) -> dict[str, Any]:
    """Train the top layer; from files to test score. The weights go to the file `weights`."""
    pictures = read_set([Path(one) for one in folders], seed, most=most)
    prepare_tensorflow(threads)
    keras.utils.set_random_seed(seed)
    started, clock = time.monotonic(), _Clock()
    data = datasets(pictures, seed)
    model, _ = make_model(len(pictures.class_names))
    compile_model(model, keras.optimizers.Adam())
    history = model.fit(
        data["train"], epochs=epochs, validation_data=data["validation"], callbacks=[clock], verbose=0
    ).history
    fitted = time.monotonic()
    right = _right(model, data["test"])
    ended = time.monotonic()
    Path(weights).parent.mkdir(parents=True, exist_ok=True)
    model.save_weights(weights)
    return _found(fitted - started, ended - fitted, clock, right, history, pictures, seed)


def tune_phase(
    folders: Sequence[str],
    seed: int,
    most: int | None,
    epochs: int,
    threads: int,
    weights: str,
    fixed: bool,
) -> dict[str, Any]:
    """Fine-tune everything from the weights of `frozen_phase`. The pictures are in memory already when the clock starts."""
    pictures = read_set([Path(one) for one in folders], seed, most=most)
    prepare_tensorflow(threads)
    keras.utils.set_random_seed(seed)
    data = datasets(pictures, seed)
    for split in data.values():
        for _ in split:
            pass
    model, base_model = make_model(len(pictures.class_names))
    model.load_weights(weights)
    started, clock = time.monotonic(), _Clock()
    base_model.trainable = True
    if fixed:
        fix_statistics(base_model)
    compile_model(model, keras.optimizers.Adam(1e-5))
    history = model.fit(
        data["train"], epochs=epochs, validation_data=data["validation"], callbacks=[clock], verbose=0
    ).history
    fitted = time.monotonic()
    right = _right(model, data["test"])
    return _found(fitted - started, time.monotonic() - fitted, clock, right, history, pictures, seed)


def _right(model: keras.Model, test: Any) -> np.ndarray:
    answers, labels = [], []
    for pixels, truth in test:
        answers.append(model.predict_on_batch(pixels).argmax(axis=1))
        labels.append(truth.numpy())
    right: np.ndarray = np.concatenate(answers) == np.concatenate(labels)
    return right


def _found(
    fit: float, test: float, clock: _Clock, right: np.ndarray, history: Any, pictures: PictureSet, seed: int
) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(pictures.of_split("test"))
    by_place = right[np.argsort(order)]
    return {
        "fit_s": round(fit, 2),
        "test_s": round(test, 2),
        "epochs_s": [round(one, 3) for one in clock.seconds],
        "right": "".join("1" if one else "0" for one in by_place),
        "test_accuracy": float(right.mean()),
        "validation_accuracy": [round(one, 4) for one in history["val_sparse_categorical_accuracy"]],
    }
