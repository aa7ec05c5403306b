"""Builds one wished file format of a model: fetches what it is made of, lets another process make and prove it, offers it."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import DiskFull, Fenced, NotFound, full_disk_told
from core.leases import EXPORT_LIFE, Claim, claim, release
from core.logs import about
from core.models import fail_export, finish_export
from core.storage import blob_key, need_disk
from core.tables import Export, Image, Run, Split, TrainedModel, VersionImage
from worker.hold import Hold
from worker.lifeline import child_environment, child_setup
from worker.trainer_process import NICE
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
KERAS_FILE = "classifier.keras"
MOST_COMPARED, CALIBRATING = 10_000, 128  # as worker.training.convert has them: that module loads TensorFlow
_LOOK_SECONDS = 0.2
_FAULT = "The file could not be made by a fault of ours; see the worker's log."


class Stopped(Exception):
    """This worker was asked to stop."""


@dataclass(frozen=True)
class _Wish:
    """What the rows say: plain values, no session is open while the file is made."""

    format: str
    key: str
    image_size: tuple[int, ...]
    resize: str
    version_id: str | None


def export_next(place: Workplace) -> bool:
    """Claim the next wished export and build it; False when none waits."""
    with place.database.write() as session:
        held = claim(session, EXPORT_LIFE, place.name, place.settings.lease_seconds)
    if held is None:
        return False
    with about(export_id=held.id):
        _Building(place, held).run()
    return True


class _Building:
    """One attempt at one export."""

    def __init__(self, place: Workplace, held: Claim) -> None:
        self._place = place
        self._hold = Hold(place, held, EXPORT_LIFE)
        self._folder = place.settings.folder / "exports" / f"{held.id}-{held.attempt}"

    def run(self) -> None:
        """Build, and write down how it ended."""
        held = self._hold.claim
        for old in self._folder.parent.glob(f"{held.id}-*"):
            shutil.rmtree(old, ignore_errors=True)
        try:
            with full_disk_told("The disk became full while this format was made. Free some space and try again."):
                self._build()
        except Fenced as fenced:
            _log.warning("%s It is left alone.", fenced)
        except Stopped:
            self._end(lambda session: release(session, EXPORT_LIFE, held))
        except (NotFound, DiskFull) as error:
            sentence = error.message
            self._end(lambda session: fail_export(session, held, sentence))
        except Exception:  # noqa: BLE001 - the task boundary: recorded, logged, and the next wish is looked at
            _log.exception("export %s: attempt %s failed by a fault of ours", held.id, held.attempt)
            self._end(lambda session: fail_export(session, held, _FAULT))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, call: Any) -> None:
        try:
            self._hold.write(call)
        except Fenced:
            _log.info("export %s: fenced at its end", self._hold.claim.id)

    def _build(self) -> None:
        held, storage = self._hold.claim, self._place.storage
        need_disk(self._place.settings.folder, 0, self._place.settings.disk_reserve_bytes)
        self._folder.mkdir(parents=True)
        with self._place.database.read() as session:
            wish = _read_wish(session, held.id)
        self._write_order(wish)
        result = self._convert()
        if "error" in result:
            self._end(lambda session: fail_export(session, held, str(result["error"])))
            return
        key = f"{wish.key}/exports/{wish.format}-{held.attempt}.zip"
        storage.put(key, self._folder / f"{wish.format}.zip")
        told = {name: result[name] for name in ("size_bytes", "sha256", "agreement")}
        try:
            self._hold.write(lambda session: finish_export(session, held, storage_key=key, error=None, **told))
        except Fenced:
            # an answer that was lost on its way looks like a fence: a file that a row names is never removed
            if not _is_named(self._place, key):
                storage.delete(key)
            raise
        _log.info("export %s: %s is ready, %s", held.id, wish.format, result["agreement"])

    def _write_order(self, wish: _Wish) -> None:
        """Everything the other process needs, on this machine; it knows no storage and no database."""
        storage, papers = self._place.storage, self._folder / "papers"
        with zipfile.ZipFile(storage.local(f"{wish.key}/saved_model.zip")) as packed:  # our own file
            for name in packed.namelist():
                if not name.startswith("saved_model/") and name != "verify.py":
                    packed.extract(name, papers)
        try:
            keras = storage.keep(f"{wish.key}/{KERAS_FILE}", self._folder / "fetched")
        except NotFound as error:
            message = "This model was made before there were further formats: train it again to have them."
            raise NotFound(message) from error
        saved = storage.local_tree(f"{wish.key}/saved_model")
        order = {
            "format": wish.format,
            "keras": str(keras),
            "saved_model": str(saved),
            "papers": str(papers),
            "image_size": list(wish.image_size),
            "resize": wish.resize,
            "test": self._pictures(wish, Split.TEST, MOST_COMPARED),
            "train": self._pictures(wish, Split.TRAIN, CALIBRATING) if wish.format == "tflite_int8" else [],
        }
        (self._folder / "order.json").write_text(json.dumps(order), encoding="utf-8")

    def _pictures(self, wish: _Wish, split: Split, most: int) -> list[str]:
        """Files of a split, at most so many, evenly over the list; none when the dataset was deleted."""
        query = select(Image.sha256).join(VersionImage, VersionImage.image_id == Image.id)
        query = query.where(VersionImage.version_id == wish.version_id, VersionImage.split == split)
        with self._place.database.read() as session:
            found = list(session.scalars(query.order_by(VersionImage.ordinal)))
        step = max(1.0, len(found) / most)
        chosen = [found[int(place * step)] for place in range(min(most, len(found)))]
        paths = []
        for digest in chosen:
            self._keep()
            paths.append(str(self._place.storage.keep(blob_key(digest), self._folder / "fetched")))
        return paths

    def _keep(self) -> None:
        self._hold.keep()
        if self._hold.stopping:
            raise Stopped

    def _convert(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "worker.training.convert", str(self._folder)]
        environment = child_environment(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
        with (self._folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                process_group=0,
                preexec_fn=child_setup(nice=NICE, expendable=True),  # noqa: PLW1509 - system calls and nothing else
            )
            try:
                while process.poll() is None:
                    self._keep()
                    time.sleep(_LOOK_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        file = self._folder / "result.json"
        if not file.is_file():
            words = (self._folder / "said.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"The process that makes the file ended with {process.returncode}: {words}")
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result


def _is_named(place: Workplace, key: str) -> bool:
    with place.database.read() as session:
        return session.scalar(select(Export.id).where(Export.storage_key == key)) is not None


def _read_wish(session: Session, export_id: str) -> _Wish:
    export = session.get_one(Export, export_id)
    model = session.get_one(TrainedModel, export.model_id)
    run = session.get(Run, model.run_id) if model.run_id else None
    version_id = run.dataset_version_id if run is not None else None
    return _Wish(export.format, model.storage_key, tuple(model.image_size), model.resize, version_id)
