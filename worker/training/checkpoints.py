"""Checkpoints: all that is needed to go on after an epoch, whole or absent, two of them kept."""

import hashlib
import json
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
KEPT = 2

Arrays = dict[str, np.ndarray]


@dataclass
class State:
    """Where a run stands, besides its arrays.

    Attributes:
        run: fingerprint of config, class names and pictures; a checkpoint of something else is not gone on from.
        phase_index: phase that runs (or has just ended, see `phase_over`).
        phase_epoch: finished epochs of that phase.
        epoch: finished epochs of all phases.
        phase_over: the phase needs no further epoch.
        history: the `epoch` events said so far.
        best: metrics of the phase's best epoch so far, with `phase_epoch`; empty before the first.
        epochs_without_better: early-stopping counter.
        lowest_loss: lowest validation loss of the phase so far, None before the first epoch.
        results: one entry per finished phase: kind, index, metrics of the weights kept, seconds.
        seconds: spent in the present phase.
        batch_size: pictures per step when this was written.
        strength: L2 strength that cross-validation chose for the last logistic head; None: none was fitted.
    """

    run: str
    phase_index: int = 0
    phase_epoch: int = 0
    epoch: int = 0
    phase_over: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    epochs_without_better: int = 0
    lowest_loss: float | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    batch_size: int = 0
    strength: float | None = None

    @property
    def last_validation(self) -> dict[str, float]:
        """Validation metrics of the newest epoch."""
        metrics: dict[str, float] = self.history[-1]["metrics"]["validation"]
        return metrics


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint that was read.

    Attributes:
        folder: it lies in.
        name: its own folder's name.
        state: where the run stood.
        groups: `now` (trainable variables), `optimizer`, `average`, `best`, and `phase-<i>` for each finished phase.
    """

    folder: Path
    name: str
    state: State
    groups: dict[str, Arrays]


def save(folder: Path, state: State, groups: Mapping[str, Arrays], *, unchanged: Iterable[str] = ()) -> str:
    """Write a checkpoint aside, flush it to disk, rename it into place, remove all but the newest two.

    Args:
        folder: the attempt's `checkpoints` folder.
        unchanged: groups equal to those of the newest checkpoint here. Such a file is linked from the checkpoint that this one drives
            out, where it is as it was written: the two that are kept never share a file, so that no damage is in both.

    Returns:
        the checkpoint's name; later ones sort after earlier ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{state.phase_index:02d}-{state.epoch:06d}-{'over' if state.phase_over else 'epoch'}"
    aside = folder / f".{uuid.uuid4().hex}.part"
    aside.mkdir()
    linkable = _linkable(folder, name)
    files: dict[str, str] = {}
    for group, arrays in groups.items():
        path = aside / f"{group}.npz"
        source = linkable.get(path.name) if group in unchanged else None
        files[path.name] = _link(source, path) or _write_arrays(path, arrays)
    body = json.dumps({"format": FORMAT, "state": asdict(state), "files": files}, sort_keys=True)
    _write(aside / "state.json", json.dumps({"sha256": _sha256(body.encode()), "body": body}).encode())
    _sync_folder(aside)
    target = folder / name
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    _sync_folder(folder)
    for old in _names(folder)[KEPT:]:
        shutil.rmtree(folder / old, ignore_errors=True)
    return name


def newest(
    folders: Iterable[Path], run: str, tell_damaged: Callable[[str], None] = lambda _: None
) -> Checkpoint | None:
    """The furthest whole checkpoint of this run in any of the folders; broken and foreign ones are passed over.

    Args:
        tell_damaged: hears the name of each that is broken and would have been further.
    """
    found = [(name, folder) for folder in folders for name in _names(folder)]
    for name, folder in sorted(found, key=lambda one: one[0], reverse=True):
        checkpoint = _read(folder / name)
        if checkpoint is None:
            tell_damaged(name)
        elif checkpoint.state.run == run:
            return checkpoint
    return None


def forget_others(folder: Path, found: Checkpoint | None) -> None:
    """Remove every checkpoint in `folder` but the one that is gone on from: broken, foreign or behind it."""
    for name in _names(folder):
        if found is None or found.folder != folder or found.name != name:
            shutil.rmtree(folder / name, ignore_errors=True)
    for part in folder.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    """Names of finished checkpoints, newest first (a name begins with phase and epoch)."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), reverse=True)


def _read(path: Path) -> Checkpoint | None:
    """Read one checkpoint, or None when anything about it is not as it was written."""
    try:
        data = _read_state(path)
        if data["format"] != FORMAT:
            return None
        groups = {}
        for name, digest in data["files"].items():
            file = path / name
            if _file_sha256(file) != digest:
                return None
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                groups[file.stem] = {key: arrays[key] for key in arrays.files}
        return Checkpoint(path.parent, path.name, State(**data["state"]), groups)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _read_state(path: Path) -> dict[str, Any]:
    """`format`, `state` and `files` (SHA-256 by name) of a checkpoint. Raises OSError, ValueError, KeyError or TypeError when damaged."""
    outer = json.loads((path / "state.json").read_bytes())
    if outer["sha256"] != _sha256(outer["body"].encode()):
        raise ValueError(f"{path.name}: the state is not as it was written.")
    data: dict[str, Any] = json.loads(outer["body"])
    return data


def _linkable(folder: Path, name: str) -> dict[str, tuple[Path, str]]:
    """(path, SHA-256) by file name in the checkpoint that goes when `name` comes, of what the newest one has in equal form."""
    earlier = [one for one in _names(folder) if one != name][:KEPT]
    if len(earlier) < KEPT:
        return {}
    try:
        newest_files, files = (_read_state(folder / one)["files"] for one in (earlier[0], earlier[-1]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {
        file: (folder / earlier[-1] / file, digest)
        for file, digest in files.items()
        if newest_files.get(file) == digest
    }


def _link(source: tuple[Path, str] | None, path: Path) -> str | None:
    """Link a file that is as it was written and return its SHA-256; None where that is not possible."""
    if source is None:
        return None
    file, digest = source
    try:
        if _file_sha256(file) != digest:
            return None
        os.link(file, path)
    except OSError:
        return None
    return digest


def _write_arrays(path: Path, arrays: Arrays) -> str:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    return _file_sha256(path)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
