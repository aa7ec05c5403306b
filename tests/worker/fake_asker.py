"""Speaks the protocol of worker/prediction/batch.py without TensorFlow: class 1 where a picture is bright."""

import json
import os
import sys
import time

import numpy as np
from PIL import Image

BATCH = 32


def answer(lines: list[tuple[int, str]]) -> None:
    """Answer some pictures."""
    for ordinal, path in lines:
        time.sleep(float(os.environ.get("FAKE_ASKER_SECONDS", "0")))
        with Image.open(path) as image:
            label = int(np.asarray(image.convert("RGB")).mean() > 128)
        row = {"label": label, "probabilities": [1.0 - label, float(label)], "known_score": 0.9, "verdict": "confident"}
        sys.stdout.write(json.dumps({"ordinal": ordinal, **row}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer in batches, as the real one does."""
    waiting: list[tuple[int, str]] = []
    for line in sys.stdin:
        ordinal, path = json.loads(line)
        if ordinal >= 0:
            waiting.append((ordinal, path))
        if ordinal < 0 or len(waiting) == BATCH:
            answer(waiting)
            waiting = []


if __name__ == "__main__":
    main()
