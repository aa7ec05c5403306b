"""A backbone trained from nothing, as plain Keras does it, for a recipe whose ImageNet weights a machine lacks.

A thousand small pictures make no ImageNet: the filters are poor, but they are trained ones, with statistics that belong to them, and the
file is Keras' own without the top, so it goes the way of every uploaded file of weights (`worker.weights.checker`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import applications, layers

from benchmarks._sets import read_set
from worker.training.machine import prepare_tensorflow
from worker.weights.checker import check

SIZE = (75, 75)  # the least that all of them take
BATCH = 32
_NETWORKS: dict[str, tuple[Any, Any]] = {
    "xception": (applications.Xception, applications.xception.preprocess_input),
    "inception_v3": (applications.InceptionV3, applications.inception_v3.preprocess_input),
    "vgg16": (applications.VGG16, applications.vgg16.preprocess_input),
}
_MOST_BYTES = 2_000_000_000


def pretrain(backbone: str, folders: Sequence[str], epochs: int, threads: int, target: str) -> dict[str, Any]:
    """Train on the folders joined, classes side by side: Adam 0.001 that falls to nothing by a cosine, flips, BatchNorm as Keras has it.

    Args:
        backbone: id of the catalogue; one of the recipes' networks.
        target: `.npz`, made here: what `start` of a run.json names.

    Returns:
        pictures, classes, curves, and the report of the check that every file of weights goes through.
    """
    pictures = read_set([Path(one) for one in folders], 0)
    prepare_tensorflow(threads)
    keras.utils.set_random_seed(0)
    build, preprocess = _NETWORKS[backbone]
    base = build(include_top=False, weights=None, input_shape=(*SIZE, 3))
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            # a few hundred steps are too few for Keras' 0.99: the statistics would lag behind the filters
            layer.momentum = 0.9
    inputs = keras.Input((*SIZE, 3))
    pooled = layers.GlobalAveragePooling2D()(base(layers.RandomFlip("horizontal")(inputs)))
    model = keras.Model(inputs, layers.Dense(len(pictures.class_names))(layers.Dropout(0.2)(pooled)))
    # the test pictures of these sets are nobody's test here
    train = [*pictures.of_split("train"), *pictures.of_split("test")]
    steps = epochs * -(-len(train) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.001, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def dataset(places: Sequence[int], *, mixed: bool) -> Any:
        paths, labels = [str(pictures.paths[place]) for place in places], pictures.labels[list(places)]
        read = tf.data.Dataset.from_tensor_slices((paths, labels)).map(_read, num_parallel_calls=threads).cache()
        shuffled = read.shuffle(len(paths), seed=0) if mixed else read
        ready = shuffled.batch(BATCH).map(lambda x, label: (preprocess(x), label))
        return ready.prefetch(2)

    validation = dataset(list(pictures.of_split("validation")), mixed=False)
    curves = model.fit(dataset(train, mixed=True), epochs=epochs, validation_data=validation, verbose=2).history
    source = Path(target).with_suffix(".weights.h5")
    base.save_weights(source)
    question = {"source": str(source), "target": target, "backbone": backbone, "most_bytes": _MOST_BYTES}
    report = check(question)
    if "error" in report:
        raise SystemExit(f"The weights were trained and not taken: {report['error']}")
    return {"pictures": len(train), "classes": len(pictures.class_names), "curves": curves, "report": report}


def _read(path: Any, label: Any) -> tuple[Any, Any]:
    picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    picture = tf.image.resize(picture, SIZE, antialias=True)
    picture.set_shape((*SIZE, 3))
    return picture, label
