"""Picture sets of the benchmarks: any folders of class folders, joined into one set and split anew by every seed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data" / "dev_sample"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
# 1,000 for training and 265 for validation of the 1,770 pictures of the joined sample sets; the same shares of any other set
_TRAIN, _VALIDATION = 1000 / 1770, 265 / 1770
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one seed.

    Attributes:
        name: of the folders, for tables.
        class_names: in order of their labels.
        paths: of every picture.
        labels: int64 [n].
        splits: int64 [n], index into SPLITS.
    """

    name: str
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    splits: np.ndarray

    def of_split(self, split: str) -> np.ndarray:
        """Positions of a split's pictures."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def counts(self) -> dict[str, int]:
        """Pictures per split."""
        return {split: len(self.of_split(split)) for split in SPLITS}


def sample_sets() -> list[Path]:
    """The sample sets that stand beside this checkout; empty elsewhere."""
    return sorted(path for path in SAMPLES.glob("*") if path.is_dir())


def read_set(folders: Sequence[Path], seed: int, *, most: int | None = None) -> PictureSet:
    """Join folders of class folders into one set, split within each class as `seed` draws.

    Args:
        folders: each holds one folder per class; equal class names in two of them stay two classes.
        seed: of the split.
        most: pictures taken in all, the same share of each class; None: every one.

    Raises:
        SystemExit: there is nothing to read.
    """
    found: list[tuple[str, list[Path]]] = []
    for folder in folders:
        for one in sorted(path for path in folder.iterdir() if path.is_dir()):
            pictures = sorted(path for path in one.rglob("*") if path.suffix.lower() in _SUFFIXES)
            if pictures:
                found.append((one.name if len(folders) == 1 else f"{folder.name}/{one.name}", pictures))
    total = sum(len(pictures) for _, pictures in found)
    if len(found) < 2:
        raise SystemExit(
            f"Give folders with one folder of pictures per class. Received: {[str(one) for one in folders]}."
        )
    share = 1.0 if most is None else min(1.0, most / total)
    names, paths, labels, splits = [], [], [], []
    for label, (name, pictures) in enumerate(found):
        names.append(name)
        order = np.random.default_rng([seed, label]).permutation(len(pictures))[: max(4, round(share * len(pictures)))]
        train, validation = (max(1, round(part * len(order))) for part in (_TRAIN, _VALIDATION))
        for place, number in enumerate(order):
            paths.append(pictures[number])
            labels.append(label)
            splits.append(0 if place < train else 1 if place < train + validation else 2)
    title = "+".join(folder.name for folder in folders)
    return PictureSet(title, tuple(names), tuple(paths), np.asarray(labels), np.asarray(splits))


def with_fewer(pictures: PictureSet, train: int, seed: int) -> PictureSet:
    """The set with only `train` training pictures, at least one of each class, and validation pictures in the same proportion.

    The test pictures stay as they are.
    """
    kept = np.ones(len(pictures.paths), bool)
    for split, wanted in ((0, train), (1, max(20, round(train * _VALIDATION / _TRAIN)))):
        places = np.random.default_rng([seed, split]).permutation(np.flatnonzero(pictures.splits == split))
        _, first = np.unique(pictures.labels[places], return_index=True)
        order = [*places[first], *np.delete(places, first)] if split == 0 else places
        kept[np.asarray(order[max(wanted, len(first) if split == 0 else 0) :], int)] = False
    which = np.flatnonzero(kept)
    paths = tuple(pictures.paths[place] for place in which)
    return PictureSet(pictures.name, pictures.class_names, paths, pictures.labels[which], pictures.splits[which])


def write_run_folder(
    folder: Path, pictures: PictureSet, config: Mapping[str, Any], *, cache: Path, threads: int, **settings: Any
) -> Path:
    """Write what the trainer reads (docs/decisions/0002-run-folder.md).

    Args:
        folder: made here.
        cache: folder of the decoded cache and the feature store.
        settings: further keys of run.json.
    """
    folder.mkdir(parents=True)
    with (folder / "images.jsonl").open("w", encoding="utf-8") as lines:
        for number, (path, label, split) in enumerate(
            zip(pictures.paths, pictures.labels, pictures.splits, strict=True)
        ):
            row = {
                "image_id": f"{number:06d}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "path": str(path),
                "label": int(label),
                "split": SPLITS[split],
                "group": None,
                "filename": path.name,
            }
            lines.write(json.dumps(row) + "\n")
    data = {
        "format": 1,
        "run_id": folder.name,
        "attempt": 1,
        "code_version": "benchmark",
        "config": config,
        "class_names": pictures.class_names,
        "images": "images.jsonl",
        "decoded_cache": str(cache / "decoded"),
        "feature_store": str(cache / "features"),
        "cache_limit_bytes": 40_000_000_000,
        "disk_reserve_bytes": 500_000_000,
        "threads": threads,
        **settings,
    }
    (folder / "run.json").write_text(json.dumps(data), encoding="utf-8")
    return folder
