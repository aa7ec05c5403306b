"""What 95 % intervals really cover, by simulation. Slow; `docs/figures.md` has the figures that this prints (`-s`)."""

import numpy as np
import pytest

from worker.training.statistics import accuracy_interval, difference_interval, wilson_interval

SHARES = np.linspace(0.5, 0.99, 50)


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_wilsons_interval_covers_94_to_97_of_100_on_average(n: int) -> None:
    random = np.random.default_rng(n)
    bounds = np.array([wilson_interval(right, n) for right in range(n + 1)])
    coverage = []
    for share in SHARES:
        drawn = bounds[random.binomial(n, share, 20_000)]
        coverage.append(float(np.mean((drawn[:, 0] <= share) & (share <= drawn[:, 1]))))
    assert 0.94 <= np.mean(coverage) <= 0.97
    assert min(coverage) > 0.85


def grouped(
    random: np.random.Generator, n: int, share: float, likeness: float, mean_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """(right, groups): sizes are geometric; `likeness` is the correlation of two pictures of a group (beta-binomial)."""
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(int(random.geometric(1 / mean_size)))
    sizes[-1] -= sum(sizes) - n
    spread = (1 - likeness) / likeness if likeness else np.inf
    count = len(sizes)
    rates = np.full(count, share) if likeness == 0 else random.beta(share * spread, (1 - share) * spread, count)
    groups = np.repeat(np.arange(count), sizes)
    return random.random(n) < rates[groups], groups


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_the_interval_of_grouped_pictures_covers_94_to_97_of_100_on_average(n: int) -> None:
    random = np.random.default_rng(n)
    coverage = {}
    for size in (1.5, 3.0, 8.0 if n > 50 else 5.0):
        for likeness in (0.0, 0.2, 0.6):
            for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
                held = 0
                rounds = 200 if n < 1000 else 80
                for _ in range(rounds):
                    found = accuracy_interval(*grouped(random, n, share, likeness, size))
                    held += found.low <= share <= found.high
                coverage[size, likeness, share] = held / rounds
    least = min(coverage, key=lambda one: coverage[one])
    mean = float(np.mean(list(coverage.values())))
    assert 0.94 <= mean <= 0.97
    assert coverage[least] > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
def test_the_interval_of_a_paired_difference_covers_at_least_93_of_100_on_average(n: int) -> None:
    random = np.random.default_rng(n)
    coverage = []
    for gained, lost in ((0.02, 0.02), (0.05, 0.02), (0.1, 0.05), (0.15, 0.15)):
        held = 0
        for _ in range(400):
            kinds = random.choice(3, n, p=[gained, lost, 1 - gained - lost])
            low, high = difference_interval(kinds != 0, kinds != 1, np.arange(n))
            held += low <= gained - lost <= high
        coverage.append(held / 400)
    assert 0.93 <= np.mean(coverage) <= 0.99
