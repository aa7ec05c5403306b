"""Near duplicates: pictures that are one picture cropped, mirrored, resized, encoded again or made lighter.

An index, not all pairs: the 64 bits of a hash are four bands of 16, and two hashes that differ in at most 7 bits agree in some band but
for one bit (multi-index hashing: Norouzi, Punjani, Fleet, 2012). So each hash looks at 4 x 17 places of sorted arrays. Whoever is met
there is compared on the 32 x 32 grey copies, moved and scaled as a crop would: the best correlation decides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.ingest.looks import GREY, HASHES

RADIUS = 11  # bits; up to 7 are always met, more than that nearly always
ALIKE = 0.85  # least correlation of the grey copies (copies cropped by 5 %: 0.87 and more)
ALIKE_DETAIL = (
    0.75  # of what remains without their soft parts (cropped copies: 0.77 and more; other photographs: 0.69 at most)
)
MOST_MET = 200  # pictures that one is compared with: of a thousand frames each still meets its neighbours
AT_ONCE = 2048
WINDOWED = 384  # pictures whose windows are held at once: 0.16 MB each
_BANDS = 4
_PAIRS_AT_ONCE = 512
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.uint16)

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Greys = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearPair:
    """Pictures `first` < `second` (indices) are alike; `score` is their correlation, at most 1."""

    first: int
    second: int
    score: float


def read_hashes(stored: list[bytes]) -> Hashes:
    """`[n, HASHES]` from looks with hashes."""
    return np.frombuffer(b"".join(stored), ">u8").astype(np.uint64).reshape(-1, HASHES)


def find_near(hashes: Hashes, asking: npt.NDArray[np.bool_], greys: Callable[[Ints], Greys]) -> Iterator[NearPair]:
    """Every pair of near duplicates of which at least one is asking.

    Args:
        hashes: `[n, HASHES]`: windows, the whole first, and last the mirror image.
        asking: `[n]`, True for the pictures whose pairs are wanted.
        greys: gives `[k, 32, 32]` for k indices; asked for a few thousand at a time.
    """
    for met in _met(hashes, asking):
        for start, end in _blocks(met):
            pairs = met[start:end]
            needed, places = np.unique(pairs[:, :2], return_inverse=True)
            scores = alikeness(greys(needed), places.reshape(-1, 2), pairs[:, 2].astype(np.bool_))
            for (first, second, _), score in zip(pairs.tolist(), scores.tolist(), strict=True):
                if score > 0:
                    yield NearPair(first, second, min(score, 1.0))


def _blocks(pairs: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of pairs with at most `WINDOWED` pictures among them: the windows of a picture are cut once a range, not once a pair."""
    start, pictures = 0, set[int]()
    for number, (first, second, _) in enumerate(pairs.tolist()):
        if len(pictures) + len({first, second} - pictures) > WINDOWED:
            yield start, number
            start, pictures = number, set()
        pictures |= {first, second}
    if start < len(pairs):
        yield start, len(pairs)


def _met(hashes: Hashes, asking: npt.NDArray[np.bool_]) -> Iterator[Ints]:
    """Candidates `[k, 3]` (first < second, mirrored) in blocks, each once."""
    count, mirror = len(hashes), HASHES - 1
    entries = hashes[:, :mirror].reshape(-1)  # entry e is of picture e // mirror
    index = [_sorted(_band(entries, band)) for band in range(_BANDS)]
    who = np.flatnonzero(asking)
    for start in range(0, len(who), AT_ONCE):
        some = who[start : start + AT_ONCE]
        found = [_ask(entries, index, some, hashes[some, column], column == mirror) for column in range(HASHES)]
        pairs = np.concatenate(found)
        # where both ask, the smaller one does
        keep = (pairs[:, 0] != pairs[:, 1]) & ~(asking[pairs[:, 1]] & (pairs[:, 1] < pairs[:, 0]))
        pairs = pairs[keep]
        low, high = np.minimum(pairs[:, 0], pairs[:, 1]), np.maximum(pairs[:, 0], pairs[:, 1])
        keys = (low * count + high) * 2 + pairs[:, 2]
        _, first = np.unique(keys, return_index=True)
        yield np.stack([low, high, pairs[:, 2]], axis=1)[first]


def _band(hashes: Hashes, band: int) -> npt.NDArray[np.uint16]:
    return (hashes >> np.uint64(16 * band)).astype(np.uint16)


def _sorted(band: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    order = np.argsort(band, kind="stable").astype(np.int32)
    return band[order], order


def _ask(
    entries: Hashes,
    index: list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]],
    who: Ints,
    asked: Hashes,
    mirrored: bool,
) -> Ints:
    """`[k, 3]`: picture that asks, picture that it met, mirrored."""
    found = []
    for band, (values, order) in enumerate(index):
        wanted = (_band(asked, band)[:, None] ^ _FLIPS).ravel()
        low, high = np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")
        lengths = high - low
        asker = np.repeat(np.arange(len(wanted)) // len(_FLIPS), lengths)
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        met = order[np.repeat(low, lengths) + offsets]
        near = np.bitwise_count(entries[met] ^ asked[asker]) <= RADIUS
        found.append(np.stack([asker[near], met[near] // (HASHES - 1)], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    pairs = pairs[_first_of_each(pairs[:, 0])]
    return np.stack([who[pairs[:, 0]], pairs[:, 1], np.full(len(pairs), int(mirrored))], axis=1)


def _first_of_each(sorted_keys: Ints) -> npt.NDArray[np.bool_]:
    """True for the first `MOST_MET` of every run of equal keys."""
    starts = np.searchsorted(sorted_keys, sorted_keys, "left")
    return np.arange(len(sorted_keys)) - starts < MOST_MET


def _windows() -> list[tuple[Greys, Greys]]:
    """Matrices that cut a window out of a 32 x 32 picture and stretch it to 32 x 32: rows, columns."""
    ends = {0.95: (0.0, 0.5, 1.0), 0.90: (0.0, 0.5, 1.0)}
    found = [(_stretch(1.0, 0.0), _stretch(1.0, 0.0))]
    for share, places in ends.items():
        found += [(_stretch(share, down), _stretch(share, right)) for down in places for right in places]
    return found


def _stretch(share: float, place: float) -> Greys:
    centres = (np.arange(GREY) + 0.5) * share + place * (1 - share) * GREY - 0.5
    low = np.clip(np.floor(centres), 0, GREY - 2).astype(int)
    part = np.clip(centres - low, 0, 1)
    matrix = np.zeros((GREY, GREY), np.float32)
    matrix[np.arange(GREY), low] = 1 - part
    matrix[np.arange(GREY), low + 1] += part
    return matrix


_WINDOWS = _windows()


def alikeness(pictures: Greys, pairs: Ints, mirrored: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Correlation of pairs, the best over the windows that one could be of the other; 0 where they are not alike.

    Args:
        pictures: `[n, 32, 32]`.
        pairs: `[k, 2]`, indices of pictures.
        mirrored: `[k]`, True where one is compared with the other's mirror image.
    """
    plain, detail = _all_windows(pictures)
    best = np.zeros(len(pairs))
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        for whole, cut in (pairs[some].T, pairs[some].T[::-1]):
            # a window of a mirror image is the mirror image of a window, and the windows lie alike on both sides
            soft = _against(plain, whole, cut, mirrored[some])
            near = np.flatnonzero((soft >= ALIKE).any(axis=1))
            if len(near):
                fine = _against(detail, whole[near], cut[near], mirrored[some][near])
                score = np.where((soft[near] >= ALIKE) & (fine >= ALIKE_DETAIL), soft[near], 0).max(axis=1)
                best[start + near] = np.maximum(best[start + near], score)
    return best


def _all_windows(pictures: Greys) -> tuple[Greys, Greys]:
    """`[n, windows, 32, 32]` of every picture, normal, as they are and without their soft parts; the first window is the whole."""
    plain = np.empty((len(pictures), len(_WINDOWS), GREY, GREY), np.float32)
    detail = np.empty_like(plain)
    for number, (rows, columns) in enumerate(_WINDOWS):
        window: Greys = (rows @ pictures @ columns.T).astype(np.float32)
        plain[:, number] = normal(window).reshape(window.shape)
        detail[:, number] = normal(without_soft(window)).reshape(window.shape)
    return plain, detail


def _against(windows: Greys, whole: Ints, cut: Ints, mirrored: npt.NDArray[np.bool_]) -> Greys:
    """Correlations `[k, windows]` of whole pictures, mirrored where it is said, with every window of others."""
    wholes = windows[whole, 0]
    wholes = np.where(mirrored[:, None, None], wholes[:, :, ::-1], wholes).reshape(len(whole), -1, 1)
    found: Greys = (windows[cut].reshape(len(cut), len(_WINDOWS), -1) @ wholes)[..., 0]
    return found


def normal(pictures: Greys) -> Greys:
    """`[n, points]`, of mean 0 and length 1: the product of two is their correlation."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    normal: Greys = flat / np.maximum(length, 1e-6)
    return normal


def without_soft(pictures: Greys) -> Greys:
    """Minus the mean of 5 x 5 points around each."""
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = np.sum([padded[:, start : start + GREY, :] for start in range(5)], axis=0)
    soft = np.sum([rows[:, :, start : start + GREY] for start in range(5)], axis=0)
    sharp: Greys = pictures - soft / 25
    return sharp
