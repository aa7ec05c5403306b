"""Laying one picture over the other finds heavy crops and turned copies, and calls other pictures no copies."""

import random

import numpy as np
import pytest
from PIL import Image

from benchmarks.near_duplicates import HEAVIER, heavier
from tests.worker.ingest.test_guard import scene
from worker.ingest import aligned as module
from worker.ingest.aligned import ALIKE, aligned
from worker.ingest.looks import GREY, look_at


def grey(image: Image.Image) -> np.ndarray:
    return np.frombuffer(look_at(image).grey, np.uint8).reshape(GREY, GREY).astype(np.float32)


# "colour" is left out: of these scenes, which are nothing but colour, another hue makes another grey picture
@pytest.mark.parametrize("kind", [kind for kind in HEAVIER if kind != "colour"])
def test_heavier_copies_are_alike_both_ways_and_mirrored(kind: str) -> None:
    chance = random.Random(4)
    originals = [Image.fromarray(scene(seed, 200)) for seed in range(6)]
    copies = [heavier(one, kind, chance) for one in originals]
    copies[0] = copies[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pictures = np.stack([grey(one) for one in (*originals, *copies)])
    pairs = np.array([(place, 6 + place) for place in range(6)])
    scores = aligned(pictures, pairs)
    assert (scores >= ALIKE).sum() >= 5
    np.testing.assert_allclose(aligned(pictures, pairs[:, ::-1]), scores, atol=1e-5)


def test_other_pictures_are_not_alike_however_many_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.stack([grey(Image.fromarray(scene(seed, 200))) for seed in range(12)])
    pairs = np.array([(one, other) for one in range(12) for other in range(one)])
    assert not aligned(pictures, pairs).any()
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 5)
    twins = np.array([(3, 3), (4, 4), (5, 6), (7, 7), (1, 2), (0, 0), (9, 9)])
    np.testing.assert_allclose(aligned(pictures, twins), [1, 1, 0, 1, 0, 1, 1], atol=1e-5)
