"""What a succeeded trainer leaves becomes a model: files into the storage first, the database row last."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.errors import Fenced
from core.leases import cancel_requested
from core.runs import Success, finish_succeeded
from core.storage import sha256_of
from core.tables import TrainedModel
from worker.hold import Hold
from worker.workplace import Workplace

DOCUMENTS = ("layers", "evaluation")
LATER_DOCUMENTS = ("neighbours", "card")  # a trainer of an earlier version leaves none


class CancelledLate(Exception):
    """The trainer had succeeded already when somebody asked for cancelling; nothing of it is kept."""


def model_key(run_id: str, attempt: int) -> str:
    """Storage folder of the model that this attempt of a run may become."""
    return f"models/{run_id}-{attempt}"


def harvest(place: Workplace, hold: Hold, folder: Path, result_name: str) -> None:
    """Store the files, then finish the run.

    Raises:
        Fenced: the run is not ours any more; what we stored is removed again.
        CancelledLate: a cancel came before the model was written down; what we stored is removed again.
        DiskFull: no room for the model.
        OSError, ValueError: the trainer said that it succeeded but left no whole result.
    """
    key = model_key(hold.claim.id, hold.claim.attempt)
    result = _read(folder / result_name)

    def keep() -> None:
        hold.keep()
        if hold.cancelled:
            raise CancelledLate

    try:
        _store(place, key, folder / "model", keep)
        keep()
        exports = [_export(folder / "model", key, told) for told in result["exports"]]
        documents = {kind: _read(folder / f"{kind}.json") for kind in DOCUMENTS}
        later = [kind for kind in LATER_DOCUMENTS if (folder / f"{kind}.json").is_file()]
        documents |= {kind: _read(folder / f"{kind}.json") for kind in later} | {"result": result}

        def finish(session: Any) -> None:
            if cancel_requested(session, hold.life, hold.claim.id):
                raise CancelledLate
            success = Success(result["summary"], documents, _lines(folder / "predictions.jsonl"), exports, key)
            finish_succeeded(session, hold.claim, success)

        hold.write(finish)
    except CancelledLate:
        place.storage.delete(key)
        raise
    except Fenced:
        # an answer that was lost on its way looks like a fence: files that a row names are never removed
        if not _is_named(place, key):
            place.storage.delete(key)
        raise


def _store(place: Workplace, key: str, folder: Path, keep: Callable[[], None]) -> None:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        place.storage.put(f"{key}/{file.relative_to(folder).as_posix()}", file)
        keep()


def _export(folder: Path, key: str, told: dict[str, Any]) -> dict[str, Any]:
    """A row of `result.json`'s exports as a row of ours; the file must be the one that was proved."""
    name = f"{told['format']}.zip"
    if sha256_of(folder / name) != told["sha256"]:
        raise ValueError(f"The file {name} is not the one that the trainer has checked.")
    return {
        "format": told["format"],
        "storage_key": f"{key}/{name}",
        "size_bytes": told["size_bytes"],
        "sha256": told["sha256"],
        "agreement": told["agreement"],
    }


def _is_named(place: Workplace, key: str) -> bool:
    with place.database.read() as session:
        return session.scalar(select(TrainedModel.id).where(TrainedModel.storage_key == key)) is not None


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)
