"""Pairs of high cosine: the index finds what comparing all pairs finds, and features are read from the store that holds most of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from core.backbones import BACKBONES, NEAR_BY, NEAR_BY_WEIGHTS
from worker import likeness
from worker.likeness import alike, find_stored
from worker.training.segments import SegmentStore

SIZE = BACKBONES[NEAR_BY].features
PLAIN = {
    "name": f"{NEAR_BY}/folded",
    "end": "top_activation/GlobalAveragePooling2D",
    "weights": NEAR_BY_WEIGHTS[0],
    "augmentation": None,
}


def scattered(count: int, size: int = 64, *, copies: int = 0) -> np.ndarray:
    """Directions in 40 clouds; the last `copies` are slightly changed copies of the first."""
    random = np.random.default_rng(5)
    rows = random.normal(size=(40, size))[random.integers(0, 40, count)] + random.normal(size=(count, size)) * 0.6
    if copies:
        rows[-copies:] = rows[:copies] + random.normal(size=(copies, size)) * 0.15
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def reader(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda places: rows[places]


def standing_out(rows: np.ndarray) -> set[tuple[int, int]]:
    """What `alike` promises, by comparing all pairs."""
    distances = 1 - rows @ rows.T
    np.fill_diagonal(distances, 2)
    near = likeness.STANDS_OUT * np.sort(distances, axis=1)[:, min(likeness.NEIGHBOURS, len(rows) - 1) - 1]
    found = (distances <= near[:, None]) & (distances <= near) & (distances <= 1 - likeness.LEAST_COSINE)
    return {(int(one), int(other)) for one, other in np.argwhere(np.triu(found, 1))}


def asked(rows: np.ndarray, keep: Callable[[], None] = lambda: None) -> set[tuple[int, int]]:
    pairs = alike(reader(rows), len(rows), keep)
    found = {(one, other) for one, other in pairs.tolist()}
    assert len(found) == len(pairs), "each once"
    return found


def test_few_pictures_are_all_compared() -> None:
    rows = scattered(300, copies=20)
    wanted = {(place, 280 + place) for place in range(20)}
    assert asked(rows) == standing_out(rows)
    assert asked(rows) >= wanted
    assert asked(rows[:1]) == set()
    assert asked(rows[[0, 0]]) == {(0, 1)}


def test_the_index_finds_the_copies_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "AT_ONCE", 300)
    rows = scattered(6000, copies=300)
    kept: list[None] = []
    found, wanted = asked(rows, lambda: kept.append(None)), standing_out(rows)
    copies = {(place, 5700 + place) for place in range(300)}
    assert len(copies & found) >= 297
    assert len(found & wanted) >= 0.98 * len(wanted)
    assert len(found - wanted) <= 0.05 * len(wanted), "a neighbour that was not met makes surroundings look wider"
    assert len(kept) > 30


def test_hardly_anything_is_done_unheard_and_by_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "AT_ONCE", 100)
    rows = scattered(6000)
    read, most, threads = [0], [0], set()

    def directions(places: np.ndarray) -> np.ndarray:
        read[0] += len(places)
        most[0] = max(most[0], read[0])
        return rows[places]

    def keep() -> None:
        read[0] = 0
        if len(threads) < 2:  # asking takes a while
            threads.update(pool["num_threads"] for pool in threadpool_info())

    with threadpool_limits(7):
        alike(directions, len(rows), keep)
        assert {pool["num_threads"] for pool in threadpool_info()} == {7}
    assert most[0] <= 4 * likeness.AT_ONCE
    assert max(threads) <= likeness.MOST_THREADS


def test_what_is_all_alike_stands_out_of_nothing() -> None:
    rows = scattered(1)[[0] * 1000] + np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32) * 0.01
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert float((rows @ rows.T).min()) > 0.95  # 499,500 pairs
    assert len(asked(rows)) <= 10


def keys(*numbers: int) -> np.ndarray:
    flat = b"".join(number.to_bytes(32, "big") for number in numbers)
    return np.frombuffer(flat, np.uint8).reshape(-1, 32)


def put(root: Path, meaning: dict[str, object], numbers: tuple[int, ...], size: int = SIZE) -> None:
    """Features whose first number is the picture's."""
    dtype = np.dtype(np.float32)
    store = SegmentStore(root, meaning, (size,), dtype, limit_bytes=10**9, reserve_bytes=0)
    segment = store.begin(keys(*numbers))
    segment.records[:] = 0
    segment.records[:, 0], segment.records[:, 1] = numbers, 1
    store.publish(segment)
    store.finish()


def test_the_store_that_holds_most_of_the_pictures_is_read(tmp_path: Path) -> None:
    put(tmp_path, {**PLAIN, "height": 224}, (1, 2, 3))
    put(tmp_path, {**PLAIN, "height": 256}, (3, 4))
    put(tmp_path, {**PLAIN, "height": 256}, (2, 1, 9))
    found = find_stored(tmp_path, keys(4, 7, 3, 1))
    assert found is not None
    assert found.there.tolist() == [0, 2, 3]
    rows = found.directions(np.array([2, 0]))
    np.testing.assert_allclose(rows[:, 0] / rows[:, 1], [1, 4], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "size"),
    [
        ({"augmentation": {"flip": "horizontal"}}, SIZE),
        ({"name": "xception/plain"}, SIZE),
        ({"weights": "0" * 64}, SIZE),
        ({"end": "top_activation/GlobalMaxPooling2D"}, SIZE),
        ({"end": "block6a_expand_activation"}, 640),
    ],
)
def test_other_features_say_nothing_of_near_duplicates(tmp_path: Path, changed: dict[str, object], size: int) -> None:
    put(tmp_path, {**PLAIN, **changed}, (1, 2, 3), size)
    assert find_stored(tmp_path, keys(1, 2, 3)) is None


def test_nothing_stored_is_nothing_found(tmp_path: Path) -> None:
    assert find_stored(tmp_path / "not made yet", keys(1, 2)) is None
    put(tmp_path, PLAIN, (1, 8))
    assert find_stored(tmp_path, keys(1, 2)) is None, "one picture alone has no pair"
