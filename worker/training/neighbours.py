"""The training pictures that a wrongly answered test picture looks most like, by the backbone's stored features."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.backbones import NEAR_BY, NEAR_BY_WEIGHTS
from core.errors import DiskFull
from worker.training.events import Place, Progress
from worker.training.features import Features
from worker.training.materials import Workplace, plain_pooled

MOST_ASKED = 200
NEAREST = 3
MOST_STORED = 20_000  # training pictures compared with, when their features are in the store anyway
MOST_COMPUTED = 1_000  # and when they have to be computed for this
_CHUNK_BYTES = 64 * 2**20


def neighbours(work: Workplace, wrong: Sequence[int], *, stored: bool) -> dict[str, Any]:
    """Compare with the network's backbone as it stands.

    Args:
        work: the run's workplace; the network has the weights whose features are meant.
        wrong: positions of wrongly answered test pictures, worst first; the first 200 are looked at.
        stored: a phase has stored the features of the plain training pictures.

    Returns:
        `pictures`, how many training pictures were compared with, and `nearest`: image id -> up to three `[image id, label, similarity]`,
        the most similar first (cosine). Nothing where the disk has no room: the run is worth more.
    """
    asked = np.asarray(wrong[:MOST_ASKED], np.int64)
    train = spread_over(work.positions("train"), MOST_STORED if stored else MOST_COMPUTED)
    extractor = plain_pooled(work)
    if not len(asked) or not work.store.fits(extractor, len(train) + len(asked)):
        return {"pictures": 0, "nearest": {}}
    say = _speaking(work, "Looking for similar training pictures")
    try:
        known = work.store.features(extractor, train, 1, say)
        questions = work.store.features(extractor, asked, 1, say)
    except DiskFull as error:
        work.speaker.log(f"No similar training pictures are shown. {error.message}")
        return {"pictures": 0, "nearest": {}}
    order, similarity = closest(known, len(train), _directions(questions, np.arange(len(asked))))
    ids, labels = work.folder.pictures.ids, work.folder.pictures.labels
    nearest = {
        ids[position]: [
            [ids[train[place]], int(labels[train[place]]), round(float(share), 3)]
            for place, share in zip(*row, strict=True)
        ]
        for position, *row in zip(asked, order, similarity, strict=True)
    }
    return {"pictures": len(train), "nearest": nearest}


def store_test(work: Workplace) -> None:
    """Store the features of the plain test pictures beside those of train and validation, where their cosines are of use.

    After the run near duplicates are looked for among what is stored, and a test picture that is in train too is the worst of them. The
    network has the weights whose features are meant. Costs what asking a model about the test pictures costs. Where the disk has no room
    for them, the log says so, and the run goes on.
    """
    if work.config.backbone != NEAR_BY:
        return
    extractor = plain_pooled(work)
    if extractor.meaning["weights"] not in NEAR_BY_WEIGHTS or not work.store.fits(extractor, len(work.folder.pictures)):
        return
    say = _speaking(work, "Storing what the backbone sees in the test pictures")
    try:
        work.store.features(extractor, work.positions("test"), 1, say)
    except DiskFull as error:
        work.speaker.log(f"Near duplicates in test are not looked for. {error.message}")


def _speaking(work: Workplace, message: str) -> Callable[[int, int], None]:
    """A listener that turns (done, all) into progress events, and orders into an end."""
    progress: list[Progress] = []

    def say(done: int, to_do: int) -> None:
        work.orders.check()
        if not progress:
            progress.append(Progress(work.speaker, Place("evaluate", message=message), to_do, to_do))
        progress[0].at(done, done)

    return say


def spread_over(positions: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of them, drawn at random, always the same ones, in order."""
    if len(positions) <= most:
        return positions
    drawn: np.ndarray = np.sort(np.random.default_rng(0).choice(positions, most, replace=False))
    return drawn


def closest(known: Features, count: int, questions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places int64 [n, k], cosines float32 [n, k]) of the nearest known features, most similar first.

    Args:
        known: features of `count` pictures, read in pieces.
        questions: float32 [n, d], of length one.
    """
    places = np.zeros((len(questions), 0), np.int64)
    best = np.zeros((len(questions), 0), np.float32)
    size = max(1, _CHUNK_BYTES // (4 * questions.shape[1]))
    for first in range(0, count, size):
        rows = np.arange(first, min(first + size, count))
        found = questions @ _directions(known, rows).T
        best = np.concatenate([best, found], axis=1)
        places = np.concatenate([places, np.broadcast_to(rows, found.shape)], axis=1)
        kept = np.argsort(-best, axis=1, kind="stable")[:, :NEAREST]
        best, places = np.take_along_axis(best, kept, axis=1), np.take_along_axis(places, kept, axis=1)
    return places, best


def _directions(features: Features, places: np.ndarray) -> np.ndarray:
    rows = features.gather(places).astype(np.float32).reshape(len(places), -1)
    directions: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return directions
