"""Models on the shelf answer as the SavedModel itself does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from core.errors import NotFound
from core.storage import FolderStorage
from worker.prediction import models
from worker.prediction.models import VERDICTS, Answered, ModelShelf, as_rows, batches, loaded_bytes


def write_model(folder: Path, *, weight: float = 0.01, explains: bool = False) -> Path:
    """A SavedModel with the signature of ours: probabilities from the mean colour; `explains` by where that colour is."""
    module: Any = tf.Module()
    module.weight = tf.Variable(weight)

    def answer(images: Any) -> dict[str, Any]:
        colours = tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2))
        known = colours[:, 0] / 255.0
        verdict = tf.cast(known < 0.5, tf.int32) * 2
        return {"probabilities": tf.nn.softmax(colours * module.weight), "known_score": known, "verdict": verdict}

    spec = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    module.answer = tf.function(answer, input_signature=[spec])
    if explains:
        specs = [tf.TensorSpec((None, None, None, 3), tf.uint8), tf.TensorSpec((None,), tf.int32)]

        def explain(images: Any, labels: Any) -> Any:
            grid = tf.nn.avg_pool2d(tf.cast(images, tf.float32), 5, 5, "VALID")
            return tf.gather(grid, labels, axis=3, batch_dims=1)

        module.explain = tf.function(explain, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.answer})
    return folder


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """Random pictures of these heights and widths."""
    random = np.random.default_rng(7)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    """A storage with two models, `models/a` and `models/b`."""
    made = FolderStorage(tmp_path, reserve_bytes=0)
    write_model(tmp_path / "models/a/saved_model")
    write_model(tmp_path / "models/b/saved_model", weight=0.02)
    return made


def test_answers_equal_those_of_the_saved_model_in_order(storage: FolderStorage) -> None:
    asked = pictures((8, 9), (5, 5), (8, 9), (3, 30))
    found = ModelShelf(storage, 10**9).get("models/a").answers(asked)
    alone = tf.saved_model.load(str(storage.folder / "models/a/saved_model")).signatures["serving_default"]
    for picture, answered in zip(asked, found, strict=True):
        expected = {name: value.numpy()[0] for name, value in alone(images=tf.constant(picture[None])).items()}
        np.testing.assert_allclose(answered.probabilities, expected["probabilities"], atol=1e-6, rtol=0)
        assert answered.known_score == pytest.approx(expected["known_score"])
        assert answered.verdict == VERDICTS[expected["verdict"]]


def test_a_model_stays_loaded_and_the_one_unused_for_longest_makes_room(storage: FolderStorage) -> None:
    shelf = ModelShelf(storage, 10**9)
    first = shelf.get("models/a")
    assert shelf.get("models/a") is first
    small = ModelShelf(storage, loaded_bytes(storage.folder / "models/a/saved_model") + 1000)
    small.get("models/a")
    small.get("models/b")
    assert small.keys == ["models/b"]


def test_a_model_larger_than_the_limit_is_served_all_the_same(storage: FolderStorage) -> None:
    shelf = ModelShelf(storage, 1)
    assert len(shelf.get("models/a").answers(pictures((4, 4)))) == 1


def test_a_deleted_model_is_not_answered_from_memory(storage: FolderStorage) -> None:
    shelf = ModelShelf(storage, 10**9)
    shelf.get("models/a")
    storage.delete("models/a")
    with pytest.raises(NotFound, match="deleted"):
        shelf.get("models/a")
    assert shelf.keys == []


def test_only_pictures_of_one_size_go_through_together_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BATCH_PIXELS", 200)
    shapes = [(10, 10, 3), (10, 10, 3), (5, 5, 3), (10, 10, 3), (50, 50, 3)]
    assert batches(shapes) == [[0, 1], [2], [3], [4]]


def test_a_row_names_the_best_class_every_probability_and_the_verdict() -> None:
    answered = Answered(np.array([0.2, 0.7, 0.1], np.float32), 0.25, "unknown")
    (row,) = as_rows([answered], ["cat", "dog", "eel"])
    assert (row["class_name"], row["known_score"], row["verdict"]) == ("dog", 0.25, "unknown")
    assert row["probability"] == pytest.approx(0.7)
    assert list(row["probabilities"]) == ["cat", "dog", "eel"]


def test_verdicts_are_counted_as_the_graph_counts_them() -> None:
    from worker.training import doubt  # noqa: PLC0415 - only here

    assert doubt.VERDICTS == VERDICTS
