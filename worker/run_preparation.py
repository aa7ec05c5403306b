"""Writes the run folder that a trainer gets (docs/decisions/0002-run-folder.md), and clears up what earlier attempts left."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.config import Settings, code_version
from core.errors import PicturesUnreadable
from core.leases import Claim
from core.storage import Storage, blob_key, need_disk
from core.tables import DatasetVersion, Image, Run, VersionImage
from worker.workplace import Workplace

CHUNK = 2000
BIG = ("checkpoints", "model")


def attempts_folder(settings: Settings, run_id: str) -> Path:
    """Where the attempts of a run are, each in a folder of its number."""
    return settings.runs_folder / run_id / "attempts"


def prepare_folder(place: Workplace, held: Claim, keep: Callable[[], None]) -> Path:
    """Write `run.json` and `images.jsonl` of one attempt.

    Args:
        place: database, storage and settings.
        held: the claimed run.
        keep: called between chunks, so that the lease stays ours over a million lines.

    Returns:
        The run folder.

    Raises:
        PicturesUnreadable: the dataset version is gone or a picture is not in the storage any more.
        DiskFull: no room for a training.
    """
    settings = place.settings
    need_disk(settings.runs_folder, 0, settings.disk_reserve_bytes)
    folder = attempts_folder(settings, held.id) / str(held.attempt)
    shutil.rmtree(folder, ignore_errors=True)  # an attempt number is given once: what is here is garbage
    folder.mkdir(parents=True)
    with place.database.read() as session:
        run = session.get_one(Run, held.id)
        version = session.get(DatasetVersion, run.dataset_version_id) if run.dataset_version_id else None
    if version is None:
        raise PicturesUnreadable("The dataset of this run was deleted before the training began.")
    _write_images(place, version.id, folder / "images.jsonl", keep)
    text = json.dumps(_run_json(settings, run, version, held), indent=1, ensure_ascii=False)
    (folder / "run.json").write_text(text, encoding="utf-8")
    return folder


def _run_json(settings: Settings, run: Run, version: DatasetVersion, held: Claim) -> dict[str, Any]:
    earlier = sorted(range(1, held.attempt), reverse=True)
    checkpoints = [attempts_folder(settings, held.id) / str(number) / "checkpoints" for number in earlier]
    return {
        "format": 1,
        "run_id": held.id,
        "attempt": held.attempt,
        "code_version": code_version(),
        "config": run.config,
        "class_names": version.class_names,
        "images": "images.jsonl",
        "decoded_cache": str(settings.cache_folder / "decoded"),
        "feature_store": str(settings.cache_folder / "features"),
        "cache_limit_bytes": settings.cache_limit_bytes,
        "disk_reserve_bytes": settings.disk_reserve_bytes,
        "threads": settings.train_threads or settings.cores,
        "batch_size": run.batch_size,
        "checkpoints": [str(path) for path in checkpoints if path.is_dir()],
    }


def _write_images(place: Workplace, version_id: str, target: Path, keep: Callable[[], None]) -> None:
    with place.database.read() as session, target.open("w", encoding="utf-8") as out:
        rows = _rows(session, version_id)
        while chunk := list(islice(rows, CHUNK)):
            lines = [json.dumps(_line(place.storage, row), ensure_ascii=False) for row in chunk]
            out.write("\n".join(lines) + "\n")
            keep()


def _rows(session: Session, version_id: str) -> Iterator[Any]:
    wanted = (
        select(
            VersionImage.image_id,
            Image.sha256,
            VersionImage.label,
            VersionImage.split,
            VersionImage.group,
            VersionImage.filename,
        )
        .join(Image, Image.id == VersionImage.image_id)
        .where(VersionImage.version_id == version_id)
        .order_by(VersionImage.ordinal)
        .execution_options(yield_per=CHUNK)
    )
    return iter(session.execute(wanted))


def _line(storage: Storage, row: Any) -> dict[str, Any]:
    path = storage.path(blob_key(row.sha256))
    if not path.is_file():
        raise PicturesUnreadable(
            f'The picture "{row.filename}" of the dataset is not in the storage any more. '
            "Upload it again, or train on another dataset version."
        )
    return {
        "image_id": row.image_id,
        "sha256": row.sha256,
        "path": os.fspath(path),
        "label": row.label,
        "split": row.split.value,
        "group": row.group,
        "filename": row.filename,
    }


def clear_up(settings: Settings, run_id: str) -> None:
    """After a run's end: only small files of its last attempt stay (settings, lists, results), enough to repeat it by hand."""
    folder = attempts_folder(settings, run_id)
    numbers = sorted((int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True)
    for number in numbers[1:]:
        shutil.rmtree(folder / str(number), ignore_errors=True)
    for name in BIG:
        for number in numbers[:1]:
            shutil.rmtree(folder / str(number) / name, ignore_errors=True)
