"""Pictures that a backbone sees far more alike than it sees others: pairs among stored features, by an inverted file.

How high a cosine means a copy differs from set to set: of hand signs on a wall most pairs are above .8, of flowers hardly one. So a pair's
distance (1 - cosine) is measured by that of each one's sixteenth neighbour: copies stand out from their surroundings.

An index, not all pairs: k-means on a sample gives cells; a picture is compared with those of the few cells whose centres are nearest to it
(Jégou, Douze, Schmid, 2011, without the compression). Features stay in the files of the store and are read a cell at a time, so memory
does not grow with them.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from core.backbones import BACKBONES, NEAR_BY, NEAR_BY_WEIGHTS
from worker.training.segments import Lookup, SegmentStore

CELL = 200  # pictures of a cell, on average
MOST_CELLS = 2048
PROBES = 6  # cells that a picture looks into
SAMPLE = 64  # pictures for each centre, at most
MOST_SAMPLED = 32_768
PASSES = 5  # of k-means over the sample
MOST_THREADS = 2  # of BLAS and of k-means: nobody waits for a near check
NEIGHBOURS = 16  # the last of them measures the surroundings
STANDS_OUT = 0.7  # most of its distance, for both of a pair
LEAST_COSINE = 0.6
AT_ONCE = 2048

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Gather = Callable[[Ints], Floats]


@dataclass(frozen=True)
class Stored:
    """Pooled features of plain pictures that are in the store.

    Attributes:
        there: index of the pictures that have them, int64 [n], into the digests that were asked for.
        directions: gives float32 [k, d] of length one for k places in `there`.
    """

    there: Ints
    directions: Gather


def find_stored(root: Path, digests: npt.NDArray[np.uint8]) -> Stored | None:
    """The features of most of these pictures; None where nothing is stored of two of them.

    Args:
        root: folder of the feature store.
        digests: uint8 [n, 32], SHA-256 of the pictures.
    """
    best: tuple[int, Lookup, int] | None = None
    for path in sorted(root.glob("*/meaning.json")):
        meaning = json.loads(path.read_text(encoding="utf-8"))
        if not _is_plain_vector(meaning):
            continue
        shape = tuple(meaning["shape"])
        store = SegmentStore(root, meaning, shape, np.dtype(np.float32), limit_bytes=0, reserve_bytes=0)
        lookup = Lookup(digests, store.whole_segments())
        count = len(digests) - len(lookup.missing)
        if count > max(1, best[0] if best else 0):
            best = (count, lookup, shape[0])
    if best is None:
        return None
    _, lookup, size = best
    there = np.setdiff1d(np.arange(len(digests)), lookup.missing)

    def directions(places: Ints) -> Floats:
        rows = lookup.gather(there[places], np.empty((len(places), size), np.float32))
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows

    return Stored(there, directions)


def _is_plain_vector(meaning: dict[str, object]) -> bool:
    """Whether these are averaged features of plain pictures by the backbone whose cosines were measured, uncut and untuned."""
    is_vector = meaning.get("shape") == [BACKBONES[NEAR_BY].features] and meaning.get("dtype") == "float32"
    averaged = str(meaning.get("end", "")).endswith("/GlobalAveragePooling2D")
    named = str(meaning.get("name", "")).split("/")[0] == NEAR_BY
    untuned = meaning.get("weights") in NEAR_BY_WEIGHTS
    return is_vector and averaged and named and untuned and meaning.get("augmentation", "") is None


def alike(directions: Gather, count: int, keep: Callable[[], None] = lambda: None, *, seed: int = 0) -> Ints:
    """Pairs that stand out from the surroundings of both: int64 [k, 2], each once, the smaller index first.

    Args:
        directions: gives float32 [m, d] of length one for m indices.
        count: of all pictures.
        keep: called many times a minute, and may raise to stop.
        seed: of the sample.
    """
    if count < 2:
        return np.zeros((0, 2), np.int64)
    with threadpool_limits(MOST_THREADS):
        return _alike(directions, count, keep, seed)


def _alike(directions: Gather, count: int, keep: Callable[[], None], seed: int) -> Ints:
    cells = _nearest_cells(directions, count, keep, seed)
    own, all_asking = _Members(cells[:, :1]), _Members(cells)
    near = _Neighbours(count, min(NEIGHBOURS, count - 1))
    for cell in range(int(cells.max()) + 1):
        members = own.of(cell)
        for asking in _blocks(all_asking.of(cell)):
            asked = directions(asking)
            for some in _blocks(members):
                keep()
                near.meet(asking, some, asked @ directions(some).T)
    return near.standing_out()


class _Neighbours:
    """The nearest pictures that each has met so far, the nearest first."""

    def __init__(self, count: int, wanted: int) -> None:
        self._places = np.full((count, wanted), -1, np.int32)
        self._cosines = np.full((count, wanted), -1, np.float32)

    def meet(self, asking: Ints, members: Ints, cosines: Floats) -> None:
        """`asking` [n] have these cosines [n, m] with the members."""
        wanted = self._places.shape[1]
        cosines[asking[:, None] == members] = -1
        if len(members) > wanted:
            best = np.argpartition(cosines, -wanted, axis=1)[:, -wanted:]
            cosines, met = np.take_along_axis(cosines, best, axis=1), members[best]
        else:
            met = np.broadcast_to(members, cosines.shape)
        cosines = np.concatenate([self._cosines[asking], cosines], axis=1)
        met = np.concatenate([self._places[asking], met], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :wanted]
        self._cosines[asking] = np.take_along_axis(cosines, order, axis=1)
        self._places[asking] = np.take_along_axis(met, order, axis=1)

    def standing_out(self) -> Ints:
        """See `alike`."""
        distances = np.clip(1 - self._cosines, 0, None)
        near = STANDS_OUT * distances[:, -1]
        one, turn = np.nonzero((distances <= near[:, None]) & (self._cosines >= LEAST_COSINE) & (self._places >= 0))
        other = self._places[one, turn].astype(np.int64)
        mutual = distances[one, turn] <= near[other]
        pairs: Ints = np.sort(np.stack([one[mutual], other[mutual]], axis=1), axis=1)
        _, first = np.unique(pairs[:, 0] * len(distances) + pairs[:, 1], return_index=True)
        return pairs[first]


class _Members:
    """Which pictures name a cell."""

    def __init__(self, cells: npt.NDArray[np.int32]) -> None:
        flat = cells.ravel()
        order = np.argsort(flat, kind="stable")
        self._cells, self._pictures = flat[order], order // cells.shape[1]

    def of(self, cell: int) -> Ints:
        low, high = np.searchsorted(self._cells, [cell, cell + 1])
        pictures: Ints = self._pictures[low:high]
        return pictures


def _blocks(places: Ints) -> Iterator[Ints]:
    for start in range(0, len(places), AT_ONCE):
        yield places[start : start + AT_ONCE]


def _nearest_cells(directions: Gather, count: int, keep: Callable[[], None], seed: int) -> npt.NDArray[np.int32]:
    """The cells that each picture looks into, int32 [count, probes], its own first."""
    n_cells = min(MOST_CELLS, count // CELL)
    if n_cells < 2 * PROBES:
        return np.zeros((count, 1), np.int32)
    centres = _centres(directions, count, n_cells, keep, seed)
    lengths = (centres**2).sum(axis=1)
    near = np.empty((count, PROBES), np.int32)
    for places in _blocks(np.arange(count)):
        keep()
        far = lengths - 2 * (directions(places) @ centres.T)
        some = np.argpartition(far, PROBES, axis=1)[:, :PROBES]
        order = np.argsort(np.take_along_axis(far, some, axis=1), axis=1)
        near[places] = np.take_along_axis(some, order, axis=1)
    return near


def _centres(directions: Gather, count: int, n_cells: int, keep: Callable[[], None], seed: int) -> Floats:
    """Centres of cells, float32 [n_cells, d]: k-means from pictures drawn at random, a batch at a time, so that `keep` is heard."""
    random = np.random.default_rng(seed)
    drawn = random.choice(count, min(count, n_cells * SAMPLE, MOST_SAMPLED), replace=False)
    first = directions(np.sort(drawn[:n_cells]))
    means = MiniBatchKMeans(n_cells, init=first, n_init=1, random_state=seed)
    for _ in range(PASSES):
        for places in np.array_split(random.permutation(drawn), -(-len(drawn) // (2 * AT_ONCE))):
            keep()
            means.partial_fit(directions(np.sort(places)))
    centres: Floats = means.cluster_centers_.astype(np.float32)
    return centres
