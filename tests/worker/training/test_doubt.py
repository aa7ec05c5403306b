"""What makes the exported graph say "I don't know": known pictures, thresholds, the network that decides."""

import numpy as np

from worker.training.doubt import fit_known, outside


def test_pictures_that_are_all_alike_get_a_score_that_rounding_does_not_move() -> None:
    random = np.random.default_rng(0)
    one = random.random(64)
    alike = (one + 1e-4 * random.random((60, 64))).astype(np.float32)
    mean, directions, limit, width = fit_known(alike[:40], alike[40:])
    left = outside(alike[40:], mean, directions)
    rounded = left + 1e-6  # float32 on another runtime
    scores = [1 / (1 + np.exp((lengths - limit) / width)) for lengths in (left, rounded)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


def test_a_picture_of_something_else_lies_outside() -> None:
    random = np.random.default_rng(0)
    kind, other = random.random((2, 64))
    own = (kind + 0.2 * random.random((80, 64))).astype(np.float32)
    mean, directions, limit, _ = fit_known(own[:50], own[50:])
    assert np.mean(outside(own[50:], mean, directions) < limit) > 0.9
    assert outside(np.stack([other, 0 * other]).astype(np.float32), mean, directions).min() > limit
