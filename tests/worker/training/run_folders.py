"""Makes run folders of tiny coloured-shape pictures: quick to train on, and learnable."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASS_NAMES = ("red round", "green square", "blue cross")
_COLOURS = ((200, 40, 40), (40, 180, 60), (40, 60, 200))
COUNTS = {"train": 8, "validation": 3, "test": 4}

TINY: dict[str, Any] = {
    "backbone": "tiny_cnn",
    "weights": "none",
    "image_size": [16, 16],
    "batch_size": 8,
    "precision": "float32",
    "phases": [{"kind": "frozen", "epochs": 2}],
}


def tiny_picture(label: int, seed: int, side: int = 24) -> Image.Image:
    """A shape of the class's colour on noise, `side` pixels high and a little wider."""
    random = np.random.default_rng([label, seed])
    noise = random.integers(90, 160, (side, side + 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    x, y = (int(value) for value in random.integers(2, side // 3, 2))
    box = (x, y, x + side // 2, y + side // 2)
    if label % 3 == 0:
        draw.ellipse(box, fill=_COLOURS[0])
    elif label % 3 == 1:
        draw.rectangle(box, fill=_COLOURS[1])
    else:
        draw.line(box, fill=_COLOURS[2], width=4)
        draw.line((box[0], box[3], box[2], box[1]), fill=_COLOURS[2], width=4)
    return image


def make_run_folder(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    counts: Mapping[str, int] = COUNTS,
    class_names: Sequence[str] = CLASS_NAMES,
    shared: Path | None = None,
    **settings: Any,
) -> Path:
    """Make a run folder with `counts` pictures per class and split.

    Args:
        folder: made here.
        config: changes to TINY (top-level keys replace).
        shared: folder of pictures and caches; the run folder's own when None.
        settings: further keys of run.json.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True)
    shared = shared or folder
    rows = []
    for label in range(len(class_names)):
        seed = 0
        for split, count in counts.items():
            for _ in range(count):
                rows.append(_row(shared / "pictures", label, seed, split))
                seed += 1
    write_images(folder, rows)
    data = {
        "format": 1,
        "run_id": "test-run",
        "attempt": 1,
        "code_version": "test",
        "config": {**TINY, **(config or {})},
        "class_names": list(class_names),
        "images": "images.jsonl",
        "decoded_cache": str(shared / "cache" / "decoded"),
        "feature_store": str(shared / "cache" / "features"),
        "cache_limit_bytes": 100_000_000,
        "disk_reserve_bytes": 1_000_000,
        "threads": 2,
        **settings,
    }
    (folder / "run.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def write_images(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write images.jsonl."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "images.jsonl").write_text(text, encoding="utf-8")


def read_images(folder: Path) -> list[dict[str, Any]]:
    """Read images.jsonl, to change and write it again."""
    return [json.loads(line) for line in (folder / "images.jsonl").read_text(encoding="utf-8").splitlines()]


def _row(pictures: Path, label: int, seed: int, split: str) -> dict[str, Any]:
    pictures.mkdir(parents=True, exist_ok=True)
    path = pictures / f"{label}-{seed}.png"
    if not path.exists():
        tiny_picture(label, seed).save(path)
    return {
        "image_id": f"image-{label}-{seed}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "path": str(path),
        "label": label,
        "split": split,
        "group": None,
        "filename": path.name,
    }
