"""Writes the run folder that a trainer gets (docs/decisions/0002-run-folder.md), and clears up what earlier attempts left."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.checkpoints import goes_on_from
from core.config import Settings, code_version
from core.errors import NotFound, PicturesUnreadable, WeightsUnavailable
from core.leases import Claim
from core.storage import blob_key, need_disk
from core.tables import DatasetVersion, Image, Run, VersionImage
from core.training_config import parse_config
from core.units import Units, version_units
from core.weights import start_for_run
from worker.workplace import Workplace

CHUNK = 2000
PICTURES = "pictures"  # where the pictures of a run are when the storage is not on this machine
CHECKPOINTS = "checkpoints"
BIG = ("model", PICTURES)


def attempts_folder(settings: Settings, run_id: str) -> Path:
    """Where the attempts of a run are, each in a folder of its number."""
    return settings.runs_folder / run_id / "attempts"


def prepare_folder(
    place: Workplace, held: Claim, keep: Callable[[], None], tell: Callable[[int, int], None] = lambda _done, _of: None
) -> Path:
    """Write `run.json` and `images.jsonl` of one attempt, with every picture on this machine.

    Args:
        place: database, storage and settings.
        held: the claimed run.
        keep: called twice a second, so that the lease stays ours over a million lines.
        tell: called as often, with how many pictures are there, and of how many.

    Returns:
        The run folder.

    Raises:
        PicturesUnreadable: the dataset version is gone or a picture is not in the storage any more.
        WeightsUnavailable: the weights of one's own that it starts from are.
        DiskFull: no room for a training.
    """
    settings = place.settings
    need_disk(settings.runs_folder, 0, settings.disk_reserve_bytes)
    folder = attempts_folder(settings, held.id) / str(held.attempt)
    shutil.rmtree(folder, ignore_errors=True)  # an attempt number is given once: what is here is garbage
    for earlier in folder.parent.glob(f"*/{PICTURES}"):
        shutil.rmtree(earlier, ignore_errors=True)
    folder.mkdir(parents=True)
    with place.database.read() as session:
        run = session.get_one(Run, held.id)
        version = session.get(DatasetVersion, run.dataset_version_id) if run.dataset_version_id else None
    if version is None:
        raise PicturesUnreadable("The dataset of this run was deleted before the training began.")
    listing = Listing(place, folder, version, keep, tell)
    listing.write()
    data = run_json(settings, held, version, run.config) | _of_attempt(place, run, held) | _start(place, run, folder)
    (folder / "run.json").write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder


def run_json(settings: Settings, held: Claim, version: DatasetVersion, config: dict[str, Any]) -> dict[str, Any]:
    """What every run folder's `run.json` says (docs/decisions/0002-run-folder.md)."""
    return {
        "format": 1,
        "run_id": held.id,
        "attempt": held.attempt,
        "code_version": code_version(),
        "config": config,
        "class_names": version.class_names,
        "images": "images.jsonl",
        "decoded_cache": str(settings.cache_folder / "decoded"),
        "feature_store": str(settings.cache_folder / "features"),
        "cache_limit_bytes": settings.cache_limit_bytes,
        "disk_reserve_bytes": settings.disk_reserve_bytes,
        "threads": settings.train_threads or settings.cores,
    }


def _of_attempt(place: Workplace, run: Run, held: Claim) -> dict[str, Any]:
    """Batch size, and the checkpoints on this machine of earlier attempts and of runs that this one goes on from, newest first."""
    settings = place.settings
    earlier = sorted(range(1, held.attempt), reverse=True)
    checkpoints = [attempts_folder(settings, held.id) / str(number) / CHECKPOINTS for number in earlier]
    with place.database.read() as session:
        repeated = goes_on_from(session, run)
    for run_id in repeated:  # `clear_up` has left one folder of each at most
        checkpoints += attempts_folder(settings, run_id).glob(f"*/{CHECKPOINTS}")
    return {"batch_size": run.batch_size, "checkpoints": [str(path) for path in checkpoints if path.is_dir()]}


def _start(place: Workplace, run: Run, folder: Path) -> dict[str, Any]:
    """The file that the backbone starts from, where the config names weights of one's own."""
    with place.database.read() as session:
        start = start_for_run(session, run, parse_config(run.config))
    if start is None:
        return {}
    try:
        file = place.storage.keep(start.key, folder / PICTURES)
    except NotFound as error:
        raise WeightsUnavailable(
            f'The weights of "{start.title}" that this run starts from are missing. {error.message}'
        ) from error
    return {"start": {"file": os.fspath(file), "cut_layer": start.cut_layer}}


class Listing:
    """Writes `images.jsonl`; fetches many pictures at once where the storage is elsewhere."""

    def __init__(
        self,
        place: Workplace,
        folder: Path,
        version: DatasetVersion,
        keep: Callable[[], None],
        tell: Callable[[int, int], None],
    ) -> None:
        self._place = place
        self._folder = folder
        self._version = version
        self._keep = keep
        self._tell = tell

    def write(self) -> None:
        """Every line, in the order of the version; as group the unit of pictures that must not part, near duplicates included."""
        units = version_units(self._place.database, self._version, self._keep)
        pool = ThreadPoolExecutor(self._place.storage.parallel, thread_name_prefix="fetch")
        done, last = 0, -1
        try:
            with (self._folder / "images.jsonl").open("w", encoding="utf-8") as out:
                while rows := self._rows(last):
                    for line in [pool.submit(self._line, row, units) for row in rows]:
                        self._wait_for(line, done)
                        out.write(line.result() + "\n")
                        done += 1
                    last = rows[-1].ordinal
                    self._keep()
        finally:
            pool.shutdown(cancel_futures=True)

    def _wait_for(self, line: Future[str], done: int) -> None:
        while not line.done():
            wait([line], timeout=0.5)
            self._keep()
            self._tell(done, self._version.image_count)

    def _rows(self, last: int) -> Sequence[Any]:
        """The next rows after an ordinal; no session is open while they are fetched."""
        wanted = (
            select(
                VersionImage.ordinal,
                VersionImage.image_id,
                Image.sha256,
                VersionImage.label,
                VersionImage.split,
                VersionImage.group,
                VersionImage.filename,
            )
            .join(Image, Image.id == VersionImage.image_id)
            .where(VersionImage.version_id == self._version.id, VersionImage.ordinal > last)
            .order_by(VersionImage.ordinal)
            .limit(CHUNK)
        )
        with self._place.database.read() as session:
            return session.execute(wanted).all()

    def _line(self, row: Any, units: Units) -> str:
        try:
            path = self._place.storage.keep(blob_key(row.sha256), self._folder / PICTURES)
        except NotFound as error:
            raise PicturesUnreadable(
                f'The picture "{row.filename}" of the dataset is missing. {error.message} '
                "Upload it again, or train on another dataset version."
            ) from error
        line = {
            "image_id": row.image_id,
            "sha256": row.sha256,
            "path": os.fspath(path),
            "label": row.label,
            "split": row.split.value,
            "group": units.of(row.image_id, row.group),
            "filename": row.filename,
        }
        return json.dumps(line, ensure_ascii=False)


def clear_up(settings: Settings, run_id: str, *, keep_checkpoints: bool = False) -> None:
    """After a run's end: only small files of its last attempt stay (settings, lists, results), enough to repeat it by hand.

    Args:
        keep_checkpoints: the furthest ones stay too, in the folder of the last attempt (`core.checkpoints`).
    """
    folder = attempts_folder(settings, run_id)
    numbers = sorted((int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True)
    attempts = [folder / str(number) for number in numbers]
    kept = keep_checkpoints and _keep_checkpoints(attempts)
    for attempt in attempts[1:]:
        shutil.rmtree(attempt, ignore_errors=True)
    for attempt in attempts[:1]:
        for name in BIG if kept else (*BIG, CHECKPOINTS):
            shutil.rmtree(attempt / name, ignore_errors=True)


def _keep_checkpoints(attempts: Sequence[Path]) -> bool:
    """Bring the furthest checkpoints to the last attempt (the first of these); False when no epoch was finished.

    They are those of the newest attempt that has any: it went on from what the ones before it had left whole.
    """
    folders = (attempt / CHECKPOINTS for attempt in attempts)
    furthest = next((folder for folder in folders if any(folder.glob("[!.]*"))), None)
    if furthest is None:
        return False
    for half in furthest.glob(".*"):  # what the full disk refused
        shutil.rmtree(half, ignore_errors=True)
    target = attempts[0] / CHECKPOINTS
    if furthest != target:
        shutil.rmtree(target, ignore_errors=True)
        furthest.rename(target)
    return True
