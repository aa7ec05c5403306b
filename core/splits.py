"""Which split a picture goes to, and what happens to pictures that are there twice.

Everything works on arrays with one element per picture, so a million pictures are some tens of MB and a few sorts.

Splits, in this order:

1. A picture that was in the dataset before keeps its split for life (`settled`); pictures of its group follow it.
2. What folders or manifest said stays. A group that was given to several splits goes whole to the one with most of its pictures.
3. Where nobody said anything: 70 % train, 15 % validation, 15 % test, class by class, groups whole.
4. Where some were given, the rest is train. A class without test pictures gives 15 % of its *train* to test, one without validation
   15 % of its train to validation; test is never taken from validation.
5. However small the class, each of its splits gets at least one picture (so 3 groups or single pictures is the least).

What the random order depends on is the seed and the bytes of the pictures, not their names or order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from core.errors import UploadRejected
from core.tables import Split

ORDER = (Split.TRAIN, Split.VALIDATION, Split.TEST)
NOBODY_SAID = -1
TRAIN, VALIDATION, TEST = 0, 1, 2
Fractions = tuple[float, float, float]
FRACTIONS: Fractions = (0.70, 0.15, 0.15)

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pictures:
    """One element per picture.

    Attributes:
        digests: SHA-256, numpy `S32`.
        labels: class, index into the class names.
        given: split as an index into `ORDER`, or `NOBODY_SAID`.
        groups: number of the group, or -1 for a picture by itself.
        settled: True for a picture that was in the dataset before (its `given` is its split for life).
        units: as `groups`, wider: with what the guard found (near duplicates, groups read from names). They stay together where the
            split is free, but move nothing that was given a split. None: the same as `groups`.
    """

    digests: npt.NDArray[np.bytes_]
    labels: Ints
    given: Ints
    groups: Ints
    settled: Flags
    units: Ints | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, mask: Flags) -> "Pictures":
        """Those where `mask` is True."""
        units = None if self.units is None else self.units[mask]
        labels, given, groups = self.labels[mask], self.given[mask], self.groups[mask]
        return Pictures(self.digests[mask], labels, given, groups, self.settled[mask], units)


@dataclass(frozen=True, slots=True)
class Double:
    """Picture `index` has the same bytes as picture `other`. `kind`: duplicate, leak or label_conflict."""

    index: int
    other: int
    kind: str


def find_doubles(pictures: Pictures) -> list[Double]:
    """Every picture that is not kept because its bytes are there more than once.

    - Under one class: one is kept, the others are skipped: the settled one, else the one given to test, else to validation, else to
      train, else the first. Where the given splits differ it is a leak.
    - Under two classes: which is right nobody can know, so none of the new ones is kept. One that is settled stays.
    """
    order = np.argsort(pictures.digests, kind="stable")
    same = pictures.digests[order][1:] == pictures.digests[order][:-1]
    found: list[Double] = []
    for start, end in _runs(same):
        found.extend(_judge(pictures, order[start:end]))
    return sorted(found, key=lambda double: double.index)


def _runs(same_as_next: Flags) -> list[tuple[int, int]]:
    """Half-open ranges of equal neighbours."""
    edges = np.diff(np.concatenate(([False], same_as_next, [False])).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]


def _judge(pictures: Pictures, members: Ints) -> list[Double]:
    # settled first, then test, validation, train, unsaid; then the order in which they came
    ranked = sorted((int(m) for m in members), key=lambda m: (not pictures.settled[m], -pictures.given[m], m))
    kept, *others = ranked
    labels = {int(pictures.labels[m]) for m in members}
    if len(labels) > 1 and not pictures.settled[kept]:
        return [Double(m, _of_another_class(pictures, m, ranked), "label_conflict") for m in ranked]
    found = []
    for m in others:
        if pictures.labels[m] != pictures.labels[kept]:
            kind = "label_conflict"
        elif pictures.given[m] not in (NOBODY_SAID, pictures.given[kept]):
            kind = "leak"
        else:
            kind = "duplicate"
        found.append(Double(m, kept, kind))
    return found


def _of_another_class(pictures: Pictures, member: int, members: Sequence[int]) -> int:
    return next(m for m in members if pictures.labels[m] != pictures.labels[member])


@dataclass(frozen=True)
class Assigned:
    """`splits`: index into `ORDER` per picture; `notes`: what was decided, in sentences."""

    splits: Ints
    notes: list[str] = field(default_factory=list)


def assign_splits(
    pictures: Pictures, class_names: Sequence[str], *, seed: int = 0, fractions: Fractions = FRACTIONS
) -> Assigned:
    """Give every picture its split (see the top of this file). No two pictures may have the same bytes any more.

    Args:
        pictures: one element per picture.
        class_names: by label.
        seed: of the random order.
        fractions: train, validation, test; they add up to 1.

    Raises:
        UploadRejected: a class that cannot be in all three splits, named.
    """
    try:
        return _assign(pictures, class_names, seed, fractions)
    except _ClassesLack as lack:
        if pictures.units is None:
            raise
        # what the guard found must not make a class impossible that the person's own groups leave possible
        loose = np.isin(pictures.labels, lack.labels)
        units = np.where(loose, np.where(pictures.groups >= 0, pictures.groups + len(pictures), -1), pictures.units)
        assigned = _assign(replace(pictures, units=units), class_names, seed, fractions)
        named = ", ".join(f'"{class_names[label]}"' for label in lack.labels[:5])
        note = f"Too few different pictures to keep near duplicates and groups on one side in: {named}. The issues list what is torn."
        return Assigned(assigned.splits, [*assigned.notes, note])


class _ClassesLack(UploadRejected):
    """Classes that are not in all three splits."""

    def __init__(self, message: str, labels: list[int]) -> None:
        super().__init__(message)
        self.labels = labels


def join_units(groups: Ints, first: Ints, second: Ints) -> Ints:
    """Groups joined by pairs of pictures (indices): the number of each picture's unit, or -1 for one by itself."""
    size = len(groups)
    parent = list(range(size))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    head: dict[int, int] = {}
    grouped = np.flatnonzero(groups >= 0)
    links = [(int(one), head.setdefault(int(groups[one]), int(one))) for one in grouped]
    for one, other in [*links, *zip(first.tolist(), second.tolist(), strict=True)]:
        parent[root(one)] = root(other)
    roots = np.array([root(one) for one in range(size)], np.int64) if size else np.zeros(0, np.int64)
    several = np.bincount(roots, minlength=size) > 1
    return np.where(several[roots] | (groups >= 0), roots, -1)


def _assign(pictures: Pictures, class_names: Sequence[str], seed: int, fractions: Fractions) -> Assigned:
    notes: list[str] = []
    splits = pictures.given.copy()
    rank = _random_rank(pictures, seed)
    _keep_groups_whole(pictures, splits, notes)
    if pictures.units is not None:
        pictures = replace(pictures, groups=pictures.units)
        _follow(pictures, splits)
    new = ~pictures.settled
    if not (pictures.given[new] != NOBODY_SAID).any():
        _split_unsaid(pictures, splits, rank, notes, fractions)
    else:
        unsaid = int((splits == NOBODY_SAID).sum())
        if unsaid:
            notes.append(f"{unsaid:,} pictures without a split, beside others with one, went to train.")
            splits[splits == NOBODY_SAID] = TRAIN
    train = _counts(pictures, splits, len(class_names))[:, TRAIN]  # both shares are of what train was before
    for wanted in (TEST, VALIDATION):
        notes.extend(_take_from_train(pictures, splits, rank, train, wanted, class_names))
    _check_every_class(pictures, splits, class_names)
    return Assigned(splits, notes)


def _random_rank(pictures: Pictures, seed: int) -> Ints:
    """A seeded random order that depends on the bytes of the pictures only."""
    rank = np.empty(len(pictures), np.int64)
    rank[np.argsort(pictures.digests, kind="stable")] = np.random.default_rng(seed).permutation(len(pictures))
    return rank


def _keep_groups_whole(pictures: Pictures, splits: Ints, notes: list[str]) -> None:
    """Put every group that has a split anywhere into one split: a settled member's, else that of most members."""
    grouped = np.flatnonzero(pictures.groups >= 0)
    if not len(grouped):
        return
    votes = _votes(pictures, splits)
    winner = _winner(votes)
    decided = votes.max(axis=1) > 0
    members = grouped[decided[pictures.groups[grouped]] & ~pictures.settled[grouped]]
    target = winner[pictures.groups[members]]
    moved = int(((splits[members] != NOBODY_SAID) & (splits[members] != target)).sum())
    splits[members] = target
    if moved:
        notes.append(f"{moved:,} pictures changed split because the rest of their group is on the other side.")


def _follow(pictures: Pictures, splits: Ints) -> None:
    """Pictures without a split go where the others of their unit are: where a settled one is, else where most are."""
    votes = _votes(pictures, splits)
    free = np.flatnonzero((splits == NOBODY_SAID) & (pictures.groups >= 0))
    free = free[votes[pictures.groups[free]].max(axis=1) > 0] if len(free) else free
    splits[free] = _winner(votes[pictures.groups[free]])


def _votes(pictures: Pictures, splits: Ints) -> Ints:
    """Members of each group in each split `[groups, 3]`; a settled picture outvotes any number of new ones."""
    votes = np.zeros((int(pictures.groups.max(initial=-1)) + 1, 3), np.int64)
    said = np.flatnonzero((pictures.groups >= 0) & (splits != NOBODY_SAID))
    np.add.at(votes, (pictures.groups[said], splits[said]), np.where(pictures.settled[said], 10**9, 1))
    return votes


def _winner(votes: Ints) -> Ints:
    winner: Ints = 2 - np.argmax(votes[:, ::-1], axis=1)  # on a tie test wins, then validation
    return winner


def _split_unsaid(pictures: Pictures, splits: Ints, rank: Ints, notes: list[str], fractions: Fractions) -> None:
    """70/15/15, or other fractions, of the pictures that nobody said anything about: class by class, groups whole."""
    free = np.flatnonzero(splits == NOBODY_SAID)
    if not len(free):
        return
    classes = int(pictures.labels.max()) + 1
    quota = np.zeros((classes, 3))
    sizes = np.bincount(pictures.labels[free], minlength=classes)
    said = splits != NOBODY_SAID
    before = _counts(pictures.only(said), splits[said], classes)
    for split in (VALIDATION, TEST):
        least = (before[:, split] == 0) & (sizes > 0)
        quota[:, split] = np.maximum(np.rint(sizes * fractions[split]), least)
    quota[:, TRAIN] = np.maximum(sizes - quota[:, VALIDATION] - quota[:, TEST], 0)
    _fill(pictures, splits, rank, free, quota, ORDER_OF_NEED)
    # settled: in the dataset before, or kept where a manifest has them
    rest, old = (" to the rest", " The others keep theirs.") if pictures.settled.any() else ("", "")
    groups = ", groups whole" if (pictures.groups[free] >= 0).any() else ""
    shares = "/".join(f"{share * 100:g}" for share in fractions)
    notes.append(
        f"No splits were given{rest}: {len(free):,} pictures were split {shares} into train, validation and test, "
        f"class by class{groups}.{old}"
    )


ORDER_OF_NEED = (TEST, VALIDATION, TRAIN)


def _fill(
    pictures: Pictures, splits: Ints, rank: Ints, free: Ints, quota: npt.NDArray[np.float64], order: Sequence[int]
) -> None:
    """Distribute `free` so that class c gets `quota[c, s]` pictures in split s: groups first, largest first, then the rest."""
    left = quota.copy()
    for members in _groups_of(pictures, rank, free):
        labels, counts = np.unique(pictures.labels[members], return_counts=True)
        # the split that lacks most of its own quota of these classes; on a tie the one that lacks most pictures
        need = (left[labels] / np.maximum(quota[labels], 1)).T @ counts
        lacks = left[labels].sum(axis=0)
        allowed = [split for split in order if quota[labels, split].any()]
        target = max(allowed, key=lambda split: (round(float(need[split]), 9), lacks[split]))
        splits[members] = target
        left[labels, target] -= counts
    single = free[pictures.groups[free] < 0]
    single = single[np.lexsort((rank[single], pictures.labels[single]))]
    for members in np.split(single, np.flatnonzero(np.diff(pictures.labels[single])) + 1):
        if len(members):
            _fill_singles(splits, members, left[int(pictures.labels[members[0]])], order)


def _fill_singles(splits: Ints, members: Ints, left: npt.NDArray[np.float64], order: Sequence[int]) -> None:
    start = 0
    for split, count in zip(order[:-1], _shares(left[list(order)], len(members))[:-1].tolist(), strict=True):
        splits[members[start : start + count]] = split
        start += count
    splits[members[start:]] = order[
        -1
    ]  # groups may have overdrawn it or filled a split already: the last takes what remains


def _shares(lacking: npt.NDArray[np.float64], count: int) -> Ints:
    """How many of `count` pictures go to each split that lacks so many: where they are too few for all, each gets its part of them.

    They are too few where a large group has overdrawn a split: the others must not go to one of the other two alone.
    """
    wanted = np.maximum(lacking, 0)
    if wanted.sum() <= count:
        return wanted.astype(np.int64)
    parts = wanted * count / wanted.sum()
    shares: Ints = np.floor(parts).astype(np.int64)
    most = np.argsort(shares - parts, kind="stable")
    shares[most[: count - int(shares.sum())]] += 1
    for place in np.flatnonzero((wanted > 0) & (shares == 0)):
        largest = int(np.argmax(shares))
        if shares[largest] > 1:
            shares[largest] -= 1
            shares[place] += 1
    return shares


def _groups_of(pictures: Pictures, rank: Ints, free: Ints) -> list[Ints]:
    """Members of each group among `free`, largest group first, then in random order."""
    grouped = free[pictures.groups[free] >= 0]
    if not len(grouped):
        return []
    grouped = grouped[np.argsort(pictures.groups[grouped], kind="stable")]
    parts = np.split(grouped, np.flatnonzero(np.diff(pictures.groups[grouped])) + 1)
    return sorted(parts, key=lambda part: (-len(part), int(rank[part].min())))


def _take_from_train(
    pictures: Pictures, splits: Ints, rank: Ints, train: Ints, wanted: int, class_names: Sequence[str]
) -> list[str]:
    """Classes without `wanted` pictures give 15 % of their `train`, at least one; settled pictures stay where they are."""
    counts = _counts(pictures, splits, len(class_names))
    there = counts.sum(axis=1) > 0
    lacking = (counts[:, wanted] == 0) & there
    movable = ~pictures.settled & (splits == TRAIN) & ~_in_settled_group(pictures)
    free = np.flatnonzero(movable & lacking[pictures.labels])
    quota = np.where(lacking, np.maximum(1, np.rint(train * FRACTIONS[wanted])), 0)
    quota = np.minimum(quota, np.maximum(counts[:, TRAIN] - 1, 0)).astype(np.int64)
    _move_to_wanted(pictures, splits, rank, free, quota, wanted)
    moved = int((splits[free] == wanted).sum())
    if not moved:
        return []
    name = ORDER[wanted].value
    if (lacking == there).all():
        return [f"No {name} pictures were given: 15 % of train ({moved:,} pictures), class by class, became {name}."]
    which = [class_names[int(label)] for label in np.flatnonzero(lacking)]
    named = ", ".join(f'"{one}"' for one in which[:5]) + (", …" if len(which) > 5 else "")
    return [
        f"{len(which)} classes had no {name} pictures ({named}): 15 % of their train ({moved:,} pictures) became {name}."
    ]


def _move_to_wanted(pictures: Pictures, splits: Ints, rank: Ints, free: Ints, quota: Ints, wanted: int) -> None:
    """Move pictures from train to `wanted` up to the quota of each class: single ones first, then groups, smallest first.

    A class is never emptied of train, and a group never moves for one class what it would take too much of from another.
    """
    left = quota.copy()
    remains = _counts(pictures, splits, len(quota))[:, TRAIN].copy()
    whole_size = (
        np.bincount(pictures.groups[pictures.groups >= 0]) if (pictures.groups >= 0).any() else np.zeros(0, int)
    )
    single = free[pictures.groups[free] < 0]
    single = single[np.lexsort((rank[single], pictures.labels[single]))]
    for members in np.split(single, np.flatnonzero(np.diff(pictures.labels[single])) + 1):
        if len(members):
            label = int(pictures.labels[members[0]])
            taken = members[: int(left[label])]
            splits[taken] = wanted
            left[label] -= len(taken)
            remains[label] -= len(taken)
    for members in reversed(_groups_of(pictures, rank, free)):
        labels, counts = np.unique(pictures.labels[members], return_counts=True)
        whole = len(members) == whole_size[pictures.groups[members[0]]]
        if whole and (left[labels] > 0).any() and (remains[labels] - counts > 0).all():
            splits[members] = wanted
            left[labels] -= counts
            remains[labels] -= counts


def _in_settled_group(pictures: Pictures) -> Flags:
    settled_groups = np.unique(pictures.groups[pictures.settled & (pictures.groups >= 0)])
    return np.isin(pictures.groups, settled_groups)


def _counts(pictures: Pictures, splits: Ints, classes: int) -> Ints:
    counts = np.zeros((classes, 3), np.int64)
    np.add.at(counts, (pictures.labels, splits), 1)
    return counts


def _check_every_class(pictures: Pictures, splits: Ints, class_names: Sequence[str]) -> None:
    counts = _counts(pictures, splits, len(class_names))
    some = np.flatnonzero((counts.min(axis=1) == 0) & (counts.sum(axis=1) > 0)).tolist()
    # a class with settled pictures was so before this upload
    lacking = [label for label in some if not pictures.settled[pictures.labels == label].any()]
    if not lacking:
        return
    label = lacking[0]
    missing = ", ".join(ORDER[split].value for split in range(3) if counts[label, split] == 0)
    members = pictures.labels == label
    groups = len(np.unique(pictures.groups[members & (pictures.groups >= 0)]))
    if groups:
        why = f"its pictures are in only {groups} group{'s' if groups > 1 else ''}, and a group stays on one side"
    else:
        why = "the folders or the manifest put its pictures elsewhere, and pictures are taken from train only"
    raise _ClassesLack(f'The class "{class_names[label]}" has no {missing} picture: {why}.', lacking)
