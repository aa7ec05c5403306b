"""The index of near checks at size: seconds, memory, and how many planted copies it meets, on made-up features on disk.

`python -m benchmarks likeness [--pictures 100000]`

Features lie in 300 clouds, a twentieth are changed copies of others. Beside it: what a blocked product of all pairs would take, by a part.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from worker.likeness import alike

SIZE, CLOUDS, ROWS = 1280, 300, 4096


def write(path: Path, count: int) -> np.ndarray:
    """Make the features; planted pairs int64 [count // 20, 2]."""
    random = np.random.default_rng(0)
    rows = np.memmap(path, np.float32, "w+", shape=(count, SIZE))
    clouds = np.abs(random.normal(size=(CLOUDS, SIZE))).astype(np.float32)
    for start in range(0, count, ROWS):
        size = min(ROWS, count - start)
        noise = random.normal(size=(size, SIZE)).astype(np.float32)
        rows[start : start + size] = np.maximum(0, 0.7 * clouds[random.integers(0, CLOUDS, size)] + 0.8 * noise)
    first = random.choice(count // 2, count // 20, replace=False)
    second = count // 2 + np.arange(count // 20)
    for start in range(0, len(first), ROWS):
        noise = random.normal(size=(len(first[start : start + ROWS]), SIZE)).astype(np.float32)
        rows[second[start : start + ROWS]] = np.maximum(0, rows[first[start : start + ROWS]] + 0.35 * noise)
    rows.flush()
    return np.stack([first, second], axis=1)


def main(arguments: list[str]) -> None:
    """Make, search, count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks likeness", description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    count = parser.parse_args(arguments).pictures
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features"
        planted = write(path, count)
        rows = np.memmap(path, np.float32, "r", shape=(count, SIZE))

        def directions(places: np.ndarray) -> np.ndarray:
            found = np.array(rows[places])
            found /= np.linalg.norm(found, axis=1, keepdims=True)
            return found

        started = time.monotonic()
        pairs = alike(directions, count)
        seconds = time.monotonic() - started
        met = set(map(tuple, pairs.tolist()))
        recall = np.mean([pair in met for pair in map(tuple, planted.tolist())])
        started = time.monotonic()
        part = directions(np.arange(min(ROWS, count)))
        for start in range(0, count, ROWS):
            _ = part @ directions(np.arange(start, min(start + ROWS, count))).T
        everything = (time.monotonic() - started) * count / len(part) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(f"{count} pictures: {seconds:.1f} s, {len(pairs)} pairs, {recall:.4f} of {len(planted)} planted copies met")
    print(f"a product of all pairs, by a part of it: {everything:.0f} s without choosing neighbours")
    print(f"peak memory of the process, mapped features included: {peak:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
