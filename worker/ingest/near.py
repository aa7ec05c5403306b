"""Near duplicates: pictures that are one picture cropped, mirrored, resized, encoded again or made lighter.

An index, not all pairs: the 64 bits of a hash are four bands of 16, and two hashes that differ in at most 7 bits agree in some band but
for one bit (multi-index hashing: Norouzi, Punjani, Fleet, 2012). So each hash looks at 4 x 17 places of sorted arrays. Whoever is met
there is compared on the 32 x 32 grey copies, moved and scaled as a crop would: the best correlation decides.

Crowds: of thousands of frames of a still camera each would meet all others. Where a hash would meet more than `CROWD`, it looks at some of
every place: those next to it in the order of the hashes, and others drawn by chance. A picture is compared with `MOST_MET` of those it met.
Pairs within a cluster of more than `SMALL` pictures are left out once both have `ENOUGH`. So the pairs are a few times as many as the
pictures, and the cluster is one all the same: each picture has some by chance, and a graph of a few random edges a node is connected.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.clusters import SMALL, Clusters
from worker.ingest.looks import GREY, HASHES

RADIUS = 11  # bits; up to 7 are always met, more than that nearly always
ALIKE = 0.85  # least correlation of the grey copies (copies cropped by 5 %: 0.87 and more)
ALIKE_DETAIL = (
    0.75  # of what remains without their soft parts (cropped copies: 0.77 and more; other photographs: 0.69 at most)
)
SURE = 0.95  # correlation of wholes that are alike in detail, too, from which on no window is looked at
CROWD = 2048  # entries that a hash may meet, beside four times those that hashes by chance would: more are a crowd
BESIDE, DRAWN = 24, 8  # of a crowd, at one place: entries next in order, and drawn by chance
NEAREST, BY_CHANCE = 96, 32  # of the pictures met
MOST_MET = NEAREST + BY_CHANCE
ENOUGH = 4  # pairs of a picture in a large cluster
AT_ONCE = 512
COMPARED = 1024  # pairs whose wholes are compared at once
WINDOWED = 384  # pictures whose windows are held at once: 0.16 MB each
_ENTRIES = 4_000_000  # looked at by one hash of all that ask at once, at most
FRUITLESS = 32  # pictures that one is found unlike, in vain: it is compared with windows of no more of them
_FIRST = 4  # of the nearest, and of those by chance: compared before the others
_SECOND = 28  # of the nearest: compared before the rest
_BANDS = 4
_PAIRS_AT_ONCE = 512
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.uint64)

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
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


def find_near(
    hashes: Hashes, asking: Flags, greys: Callable[[Ints], Greys], known: Ints | None = None
) -> Iterator[NearPair]:
    """Pairs of near duplicates of which at least one is asking, each once: every one of small clusters, some of large ones.

    Args:
        hashes: `[n, HASHES]`: windows, the whole first, and last the mirror image.
        asking: `[n]`, True for the pictures whose pairs are wanted.
        greys: gives `[k, 32, 32]` for k indices; asked for a few thousand at a time.
        known: `[k, 2]`, pairs that are known already; they are given again where they are met.
    """
    links = _Links(len(hashes), known)
    for met, turns in _met(hashes, asking):
        for turn in range(3):
            some = met[turns == turn]
            for start in range(0, len(some), COMPARED):
                yield from _compared(some[start : start + COMPARED], links, greys)


class _Links:
    """The clusters so far, and which further pairs are wanted."""

    def __init__(self, count: int, known: Ints | None) -> None:
        self._clusters = Clusters(count)
        self._pairs = np.zeros(count, np.int64)  # of each picture
        self._given: set[int] = set()
        self._misses = np.zeros(count, np.int64)
        for one, other in known.tolist() if known is not None else ():
            self._join(one, other)

    def wanted(self, pairs: Ints) -> Flags:
        """Of pairs `[k, 2 or more]`: those of two clusters, of a small one, or of a picture that has too few."""
        one, other = pairs[:, 0], pairs[:, 1]
        clusters = self._clusters.of[one]
        few = np.minimum(self._pairs[one], self._pairs[other]) < ENOUGH
        wanted: Flags = few | (self._clusters.size[clusters] <= SMALL) | (clusters != self._clusters.of[other])
        return wanted

    def add(self, pairs: Ints, scores: npt.NDArray[np.float64]) -> Iterator[NearPair]:
        """Those of these near duplicates that are wanted still, one after another."""
        for pair, score in zip(pairs, scores.tolist(), strict=True):
            first, second = int(pair[0]), int(pair[1])
            key = first * len(self._pairs) + second
            if key not in self._given and self.wanted(pair[None])[0]:
                self._given.add(key)
                self._join(first, second)
                yield NearPair(first, second, min(score, 1.0))

    def missed(self, askers: Ints) -> None:
        """These asked, once for each time that they are named, and were unlike whom they met."""
        np.add.at(self._misses, askers, 1)

    def hopeful(self, askers: Ints) -> Flags:
        """Those who have not asked in vain too often."""
        hopeful: Flags = self._misses[askers] < FRUITLESS
        return hopeful

    def _join(self, one: int, other: int) -> None:
        self._clusters.join(one, other)
        self._pairs[[one, other]] += 1


def _compared(pairs: Ints, links: _Links, greys: Callable[[Ints], Greys]) -> Iterator[NearPair]:
    """Near duplicates among candidates `[k, 4]`: the wholes first, then windows of those that are wanted still."""
    pairs = pairs[links.wanted(pairs)]
    if not len(pairs):
        return
    needed, places = np.unique(pairs[:, :2], return_inverse=True)
    pictures, places = greys(needed), places.reshape(-1, 2)
    scores = _whole_alikeness(pictures, places, pairs[:, 2].astype(np.bool_))
    sure = scores >= SURE
    yield from links.add(pairs[sure], scores[sure])
    left = np.flatnonzero(~sure)
    left = left[links.wanted(pairs[left])]
    left = left[np.lexsort((pairs[left, 1], pairs[left, 0]))]  # those of one picture together
    for start, end in _blocks(pairs[left]):
        some = left[start:end]
        some = some[links.wanted(pairs[some]) & links.hopeful(pairs[some, 3])]
        if not len(some):
            continue
        used, among = np.unique(places[some], return_inverse=True)
        scores = alikeness(pictures[used], among.reshape(-1, 2), pairs[some, 2].astype(np.bool_))
        links.missed(pairs[some[scores <= 0], 3])
        yield from links.add(pairs[some[scores > 0]], scores[scores > 0])


def _blocks(pairs: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of pairs with at most `WINDOWED` pictures among them: the windows of a picture are cut once a range, not once a pair."""
    start, pictures = 0, set[int]()
    for number, (first, second, *_) in enumerate(pairs.tolist()):
        if len(pictures) + len({first, second} - pictures) > WINDOWED:
            yield start, number
            start, pictures = number, set()
        pictures |= {first, second}
    if start < len(pairs):
        yield start, len(pairs)


def _met(hashes: Hashes, asking: Flags) -> Iterator[tuple[Ints, Ints]]:
    """Candidates `[k, 4]` (first < second, mirrored, who asked) in blocks, and the turn in which each is compared: 0, 1, 2."""
    count, mirror = len(hashes), HASHES - 1
    index = _Index(hashes[:, :mirror].reshape(-1))
    random = np.random.default_rng(0)
    who = np.flatnonzero(asking)
    crowds = np.zeros((2, count), bool)  # who asked and met a crowd: by its windows, by its mirror image
    at_once = int(np.clip(_ENTRIES // index.most, 16, AT_ONCE))
    for start in range(0, len(who), at_once):
        some = who[start : start + at_once]
        found, turns = [], []
        for mirrored, columns in enumerate((range(mirror), (mirror,))):
            met_all, crowded = _ask(index, hashes[some][:, columns], some, count, random)
            asked, met, turn = _few_of_each(met_all, count, random)
            # where both ask, the smaller one does: unless one of them is of a crowd, and the smaller one may have missed the other
            crowded |= np.bincount(asked, minlength=len(some)) >= MOST_MET
            crowds[mirrored, some] = crowded
            keep = ~(asking[met] & (met < some[asked]) & ~crowds[mirrored, met]) | crowded[asked]
            low, high = np.minimum(some[asked], met), np.maximum(some[asked], met)
            turned = np.full(len(met), mirrored)
            found.append(np.stack([low, high, turned, some[asked]], axis=1)[keep])
            turns.append(turn[keep])
        pairs, turned = np.concatenate(found), np.concatenate(turns)
        _, once = np.unique((pairs[:, 0] * count + pairs[:, 1]) * 2 + pairs[:, 2], return_index=True)
        yield pairs[once], turned[once]


class _Index:
    """All entries (hashes of windows), once sorted by each band and what follows it.

    Attributes:
        most: entries that one hash looks at, at most.
    """

    def __init__(self, entries: Hashes) -> None:
        self.entries = entries
        self.most = CROWD + 4 * _BANDS * len(_FLIPS) * len(entries) // 65536
        self._order: list[npt.NDArray[np.int32]] = []
        self._keys: list[Hashes] = []
        self._starts: list[Ints] = []
        for band in range(_BANDS):
            keys = _turned(entries, band)
            order = np.argsort(keys, kind="stable").astype(np.int32)
            keys = keys[order]
            self._order.append(order)
            self._keys.append(keys)
            self._starts.append(np.searchsorted(keys >> np.uint64(48), np.arange(65537, dtype=np.uint64)))

    def near(self, asked: Hashes, random: np.random.Generator) -> tuple[Ints, Ints, Ints, Flags]:
        """Entries within `RADIUS` bits of hashes `[k]`: which hash, entry, bits; an entry may come more than once.

        Last `[k]`: whether there was a crowd, of which only some were looked at.
        """
        wanted = [_turned(asked, band)[:, None] ^ (_FLIPS << np.uint64(48)) for band in range(_BANDS)]
        lows = [
            starts[(keys >> np.uint64(48)).astype(np.int64)] for starts, keys in zip(self._starts, wanted, strict=True)
        ]
        highs = [
            starts[(keys >> np.uint64(48)).astype(np.int64) + 1]
            for starts, keys in zip(self._starts, wanted, strict=True)
        ]
        met = np.sum([(high - low).sum(axis=1) for low, high in zip(lows, highs, strict=True)], axis=0)
        crowd = met > self.most
        found = []
        for band, (keys, low, high) in enumerate(zip(wanted, lows, highs, strict=True)):
            much = crowd[:, None] & (high - low > BESIDE + DRAWN)
            who, place = np.nonzero(~much & (high > low))
            found.append(self._within(band, asked, who, low[who, place], high[who, place] - low[who, place]))
            who, place = np.nonzero(much)
            if len(who):
                least, most = low[who, place], high[who, place]
                left = np.searchsorted(self._keys[band], keys[who, place], "left")
                right = np.searchsorted(self._keys[band], keys[who, place], "right")
                # equal hashes have no order of their own: each looks elsewhere among them
                own = left + (random.random(len(who)) * (right - left)).astype(np.int64)
                begin = np.clip(own - BESIDE // 2, least, most - BESIDE)
                found.append(self._within(band, asked, who, begin, np.full(len(who), BESIDE)))
                drawn = least[:, None] + (random.random((len(who), DRAWN)) * (most - least)[:, None]).astype(np.int64)
                who = np.repeat(who, DRAWN)
                found.append(self._within(band, asked, who, drawn.ravel(), np.ones(len(who), np.int64)))
        hashes, entries, bits = (np.concatenate(part) for part in zip(*found, strict=True))
        return hashes, entries, bits, crowd

    def _within(self, band: int, asked: Hashes, who: Ints, begin: Ints, lengths: Ints) -> tuple[Ints, Ints, Ints]:
        """As `near`, of ranges in the order of a band."""
        asker = np.repeat(who, lengths)
        offsets = np.arange(len(asker)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        met = self._order[band][np.repeat(begin, lengths) + offsets]
        bits = np.bitwise_count(self.entries[met] ^ asked[asker])
        near = bits <= RADIUS
        return asker[near], met[near].astype(np.int64), bits[near].astype(np.int64)


def _turned(hashes: Hashes, band: int) -> Hashes:
    """Bits turned round, so that this band is the highest 16."""
    up = np.uint64(48 - 16 * band)
    turned: Hashes = (hashes << up) | (hashes >> (np.uint64(64) - up)) if up else hashes
    return turned


def _ask(index: _Index, asked: Hashes, who: Ints, count: int, random: np.random.Generator) -> tuple[Ints, Flags]:
    """Whom the askers `who` met with some of their hashes `[k, columns]`: sorted numbers (asker * count + picture) * 16 + bits.

    Second `[k]`: whether there was a crowd, of which only some were looked at.
    """
    found, crowded = np.zeros(0, np.int64), np.zeros(len(who), np.bool_)
    for column in range(asked.shape[1]):
        asker, entries, bits, crowd = index.near(asked[:, column], random)
        crowded |= crowd
        met = entries // (HASHES - 1)
        other = met != who[asker]
        keys = ((asker * count + met) * 16 + bits)[other]
        found = np.sort(np.concatenate([found, keys]))  # several times as fast as numpy.unique
        # of each picture the fewest bits
        found = found[np.concatenate([[True], found[1:] >> 4 != found[:-1] >> 4])] if len(found) else found
    return found, crowded


def _few_of_each(found: Ints, count: int, random: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """At most `MOST_MET` of the pictures that each asker met, the nearest and some by chance: asker, picture, turn."""
    asked, met, bits = found // 16 // count, found // 16 % count, found % 16
    order = np.argsort((asked * 16 + bits) << 24 | random.integers(0, 1 << 24, len(found)))
    asked, met = asked[order], met[order]
    rank = np.arange(len(asked)) - np.searchsorted(asked, asked, "left")
    rest = np.flatnonzero(rank >= NEAREST)
    order = np.argsort(asked[rest] << 24 | random.integers(0, 1 << 24, len(rest)))
    drawn = asked[rest]
    rank[rest[order]] = NEAREST + np.arange(len(rest)) - np.searchsorted(drawn, drawn, "left")
    first = (rank < _FIRST) | ((rank >= NEAREST) & (rank < NEAREST + _FIRST))
    turn = np.where(first, 0, np.where(rank < _SECOND, 1, 2))
    keep = rank < MOST_MET
    return asked[keep], met[keep], turn[keep]


def _whole_alikeness(pictures: Greys, pairs: Ints, mirrored: Flags) -> npt.NDArray[np.float64]:
    """Correlation of whole pictures; 0 where they are unlike without their soft parts."""
    plain, detail = (_whole(normal(some), pairs, mirrored) for some in (pictures, without_soft(pictures)))
    alike: npt.NDArray[np.float64] = np.where(detail >= ALIKE_DETAIL, plain, 0)
    return alike


def _whole(flat: Greys, pairs: Ints, mirrored: Flags) -> npt.NDArray[np.float64]:
    square = flat.reshape(-1, GREY, GREY)
    one = square[pairs[:, 0]]
    one[mirrored] = one[mirrored][:, :, ::-1]
    found: npt.NDArray[np.float64] = np.einsum("krc,krc->k", one, square[pairs[:, 1]]).astype(np.float64)
    return found


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


def alikeness(pictures: Greys, pairs: Ints, mirrored: Flags) -> npt.NDArray[np.float64]:
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


def _against(windows: Greys, whole: Ints, cut: Ints, mirrored: Flags) -> Greys:
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
    """Minus the mean of 5 x 5 points around each; beyond the edge its points go on."""
    sharp: Greys = (pictures - _MEAN_OF_FIVE @ pictures @ _MEAN_OF_FIVE.T).astype(np.float32, copy=False)
    return sharp


def _mean_of_five() -> Greys:
    matrix = np.zeros((GREY, GREY), np.float32)
    for step in range(-2, 3):
        np.add.at(matrix, (np.arange(GREY), np.clip(np.arange(GREY) + step, 0, GREY - 1)), 0.2)
    return matrix


_MEAN_OF_FIVE = _mean_of_five()
