"""A dataset version of tiny pictures whose bytes are in the storage, made without an upload, and runs on it."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sqlalchemy.orm import Session

from core import datasets
from core.accounts import local_user
from core.config import Settings
from core.database import Database
from core.queue import Queue
from core.runs import NewRun, create_runs
from core.storage import blob_key, open_storage
from core.tables import DatasetVersion, Split
from core.training_config import parse_config
from tests.core.rows import RememberingQueue, add_version
from tests.worker.training.run_folders import tiny_picture

COUNTS = {Split.TRAIN: 8, Split.VALIDATION: 3, Split.TEST: 4}
TINY: dict[str, Any] = {
    "backbone": "tiny_cnn",
    "weights": "none",
    "image_size": [32, 32],
    "batch_size": 8,
    "precision": "float32",
    "phases": [
        {"kind": "frozen", "epochs": 2, "features": "live"},
        {"kind": "fine_tune", "epochs": 2, "features": "live"},
    ],
}


def picture_bytes(label: int, seed: int) -> bytes:
    """A tiny PNG of the class's shape."""
    file = io.BytesIO()
    tiny_picture(label, seed, side=36).save(file, "PNG")
    return file.getvalue()


def add_tiny_dataset(session: Session, settings: Settings, *, classes: int = 2) -> DatasetVersion:
    """A dataset version of the local user, 15 pictures a class."""
    storage = open_storage(settings)
    owner = local_user(session)
    dataset = datasets.create_dataset(session, owner.id, "Shapes")
    placed = []
    for label in range(classes):
        for number, split in enumerate(split for split, count in COUNTS.items() for _ in range(count)):
            data = picture_bytes(label, number)
            sha256 = hashlib.sha256(data).hexdigest()
            storage.put(blob_key(sha256), data)
            facts = {"width": 40, "height": 36, "format": "PNG", "size_bytes": len(data)}
            image_id = datasets.remember_image(session, owner.id, sha256, facts)
            placed.append(datasets.Placed(image_id, sha256, f"c{label}/{number}.png", f"class {label}", split))
    return add_version(session, dataset, datasets.VersionDraft(placed))


def queue_run(database: Database, settings: Settings, config: Mapping[str, Any] | None = None) -> str:
    """Queue a run on a new tiny dataset; returns its id. Nothing is rung: the sweeper does it."""
    with database.write() as session:
        version = add_tiny_dataset(session, settings)
        wish = NewRun(config=parse_config({**TINY, **(config or {})}))
        return create_runs(session, cast("Queue", RememberingQueue()), version, wish)[0].id


def blob_paths(settings: Settings) -> list[Path]:
    """Every stored picture."""
    return [path for path in (settings.storage_folder / "blobs").rglob("*") if path.is_file()]
