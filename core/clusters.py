"""Things that pairs join: every member of a cluster is alike to some other member of it, not to each.

Many near-identical pictures (frames of a still camera) are one cluster of which not every pair is looked for: see `SMALL`.
"""

from collections.abc import Iterable

import numpy as np

SMALL = 16  # of a cluster of up to so many pictures every pair is looked for; a larger one is held together by some of its pairs


class Clusters:
    """Clusters of the numbers from 0 to `count` - 1, each by itself at first.

    Attributes:
        of: cluster of every number, int64 [count].
        size: members by cluster, int64 [count].
    """

    def __init__(self, count: int, pairs: Iterable[Iterable[int]] = ()) -> None:
        self.of = np.arange(count)
        self.size = np.ones(count, np.int64)
        self._members: dict[int, list[int]] = {}
        for one, other in pairs:
            self.join(one, other)

    def join(self, one: int, other: int) -> bool:
        """Join the clusters of both; False where they are one already. The smaller takes the name of the larger."""
        kept, gone = int(self.of[one]), int(self.of[other])
        if kept == gone:
            return False
        if self.size[kept] < self.size[gone]:
            kept, gone = gone, kept
        moved = self._members.pop(gone, [gone])
        self._members.setdefault(kept, [kept]).extend(moved)
        self.of[moved] = kept
        self.size[kept] += len(moved)
        return True
