"""The run folder as it is read: `run.json` and `images.jsonl` (docs/decisions/0002-run-folder.md)."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ConfigInvalid, PicturesUnreadable
from core.training_config import TrainingConfig, parse_config

SPLITS = ("train", "validation", "test")
_COUNTED_PIXELS = 224 * 224  # of a picture for whose size numbers of pictures are meant
_DEFAULT_LIMIT = 20_000_000_000
_DEFAULT_RESERVE = 1_000_000_000


class PictureList:
    """The pictures of a run, column by column: small in memory also for a million of them.

    Attributes:
        labels: int32 [n], index into the class names.
        splits: int8 [n], index into SPLITS.
        digests: uint8 [n, 32], SHA-256 of each file.
    """

    def __init__(self, rows: Iterator[dict[str, Any]], n_classes: int) -> None:
        ids: list[str] = []
        paths: list[str] = []
        groups: list[str | None] = []
        names: list[str] = []
        labels: list[int] = []
        splits: list[int] = []
        digests: list[bytes] = []
        for row in rows:
            ids.append(str(row["image_id"]))
            paths.append(str(row["path"]))
            groups.append(row.get("group"))
            names.append(str(row.get("filename") or row["path"]))
            labels.append(_label(row, n_classes))
            splits.append(_split(row))
            digests.append(bytes.fromhex(row["sha256"]))
        self.ids, self.paths, self.groups, self.filenames = ids, paths, groups, names
        self.labels = np.asarray(labels, np.int32)
        self.splits = np.asarray(splits, np.int8)
        self.digests = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)

    def __len__(self) -> int:
        return len(self.ids)

    def of_split(self, split: str) -> np.ndarray:
        """Positions of one split's pictures, int64 [n_split]."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over content, label and split of every picture, in order."""
        digest = hashlib.sha256(self.digests.tobytes())
        digest.update(self.labels.tobytes())
        digest.update(self.splits.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class RunFolder:
    """One run's settings and places.

    Attributes:
        path: the folder itself; everything a trainer writes but the two caches goes there.
        batch_size: pictures per step; half of the config's after an out-of-memory failure.
        decoded_cache, feature_store: shared between runs, bounded together by `cache_limit_bytes`.
        disk_reserve_bytes: free bytes that stay untouched.
        threads: processor threads to use.
        earlier_checkpoints: checkpoint folders of earlier attempts, newest first.
        start_file: arrays that the backbone starts from when the config names own weights, else None.
        start_cut_layer: where the earlier model was cut that they are of.
    """

    path: Path
    run_id: str
    attempt: int
    code_version: str
    config: TrainingConfig
    class_names: tuple[str, ...]
    pictures: PictureList
    decoded_cache: Path
    feature_store: Path
    cache_limit_bytes: int
    disk_reserve_bytes: int
    threads: int
    batch_size: int
    earlier_checkpoints: tuple[Path, ...]
    start_file: Path | None = None
    start_cut_layer: str | None = None

    @property
    def checkpoints(self) -> Path:
        """Where this attempt's checkpoints go."""
        return self.path / "checkpoints"

    def at_once(self, most: int) -> int:
        """How many pictures may go through the whole network in one call that trains nothing.

        Args:
            most: of pictures up to 224 x 224 pixels. Of larger ones as many as have that many pixels together: memory goes by pixels.
                After an out-of-memory failure not more than the halved batch.
        """
        height, width = self.config.image_size
        fewer = min(most, most * _COUNTED_PIXELS // (height * width))
        if self.batch_size < self.config.batch_size:
            fewer = min(fewer, self.batch_size)
        return max(1, fewer)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what must be equal for a checkpoint to be gone on from: config, class names, pictures."""
        text = json.dumps([self.config.fingerprint, self.class_names, self.pictures.fingerprint])
        return hashlib.sha256(text.encode()).hexdigest()


def read_run_folder(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        ConfigInvalid: `run.json` is missing, no JSON, or its config cannot be trained.
        PicturesUnreadable: `images.jsonl` is missing or wrong, or a split has no picture.
    """
    path = path.resolve()
    data = read_run_json(path)
    for field in ("config", "class_names", "images"):
        if field not in data:
            raise ConfigInvalid(f'run.json lacks "{field}". Required: config, class_names, images.')
    config = parse_config(data["config"])
    names = tuple(str(name) for name in data["class_names"])
    if len(names) < 2:
        raise ConfigInvalid(f"A classifier needs at least two class names. Received: {list(names)}.")
    if config.head.binary and len(names) != 2:
        raise ConfigInvalid(f"head.binary is one sigmoid unit for exactly two class names. Received: {len(names)}.")
    if not isinstance(config.weights, str) and not data.get("start"):
        raise ConfigInvalid('run.json lacks "start", the file of the weights that its config names.')
    return RunFolder(
        path=path,
        run_id=str(data.get("run_id", path.name)),
        attempt=int(data.get("attempt", 1)),
        code_version=str(data.get("code_version", "unknown")),
        config=config,
        class_names=names,
        pictures=_read_pictures(path / data["images"], len(names)),
        decoded_cache=path / data.get("decoded_cache", "cache/decoded"),
        feature_store=path / data.get("feature_store", "cache/features"),
        cache_limit_bytes=int(data.get("cache_limit_bytes", _DEFAULT_LIMIT)),
        disk_reserve_bytes=int(data.get("disk_reserve_bytes", _DEFAULT_RESERVE)),
        threads=max(1, int(data.get("threads") or os.cpu_count() or 1)),
        batch_size=max(1, int(data.get("batch_size") or config.batch_size)),
        earlier_checkpoints=tuple(path / folder for folder in data.get("checkpoints", ())),
        start_file=path / data["start"]["file"] if data.get("start") else None,
        start_cut_layer=(data.get("start") or {}).get("cut_layer"),
    )


def read_run_json(path: Path) -> dict[str, Any]:
    """The `run.json` of a folder, unchecked.

    Raises:
        ConfigInvalid: it is missing or no JSON object.
    """
    try:
        data = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigInvalid(f"There is no run.json in {path}.") from error
    except ValueError as error:
        raise ConfigInvalid(f"run.json is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigInvalid(f"run.json must be one JSON object. Received: {type(data).__name__}.")
    return data


def _read_pictures(path: Path, n_classes: int) -> PictureList:
    if not path.is_file():
        raise PicturesUnreadable(f"The list of pictures {path.name} is missing from the run folder.")
    try:
        with path.open(encoding="utf-8") as lines:
            pictures = PictureList((json.loads(line) for line in lines if line.strip()), n_classes)
    except (ValueError, KeyError, TypeError) as error:
        raise PicturesUnreadable(f"{path.name} has a line that is not a picture: {error!r}.") from error
    for split in SPLITS:
        if not len(pictures.of_split(split)):
            raise PicturesUnreadable(f"The {split} split has no picture. Every split needs at least one.")
    return pictures


def _label(row: dict[str, Any], n_classes: int) -> int:
    label = int(row["label"])
    if not 0 <= label < n_classes:
        raise PicturesUnreadable(f"Label {label} of {row.get('filename')} is not one of the {n_classes} class names.")
    return label


def _split(row: dict[str, Any]) -> int:
    if row["split"] not in SPLITS:
        raise PicturesUnreadable(f'"{row["split"]}" of {row.get("filename")} is not a split. Allowed: {SPLITS}.')
    return SPLITS.index(row["split"])
