"""Estimates of runs: asked for at once, ready when the prediction worker has timed what nobody has timed before."""

import time

from sqlalchemy.orm import Session

from app.api.schemas.runs import EstimateOut
from app.dependencies import House
from core.catalog import picture_by_turn
from core.datasets import find_version
from core.errors import NotFound
from core.estimates import counts_of, estimate, shape_key, speeds_name, timed_key
from core.ids import new_id
from core.storage import blob_key
from core.tables import DatasetVersion
from core.training_config import TrainingConfig, parse_config

LASTS = 600  # seconds: how long an estimate can be asked for
PATIENCE = 120.0  # seconds: a measurement takes 5 to 30
LOOKED_AT = 6  # pictures that are decoded to see how long it takes


def ask_for_estimate(session: Session, house: House, version: DatasetVersion, config: TrainingConfig) -> str:
    """Begin an estimate; returns its id.

    Raises:
        BrokerAway: nothing can be asked now.
    """
    counts = counts_of(version)
    places = [picture_by_turn(session, version, turn) for turn in range(LOOKED_AT)]
    key = timed_key(shape_key(config, counts.classes), [place.image.size_bytes for place in places])
    number = None
    if house.queue.kept(speeds_name(key)) is None:
        question = {
            "kind": "estimate",
            "key": key,
            "config": config.model_dump(mode="json"),
            "classes": counts.classes,
            "blob_keys": [blob_key(place.image.sha256) for place in places],
        }
        number = house.queue.ask_later(question, PATIENCE)
    found = new_id()
    note = {
        "owner_id": version.owner_id,
        "version_id": version.id,
        "config": config.model_dump(mode="json"),
        "key": key,
        "number": number,
        "asked_at": time.time(),
    }
    house.queue.keep(f"estimate:{found}", note, LASTS)
    return found


def find_estimate(session: Session, house: House, owner_id: str, estimate_id: str) -> EstimateOut:
    """An estimate as it stands.

    Raises:
        NotFound: no such estimate of this person, or it has expired.
        BrokerAway: nobody knows now.
    """
    note = house.queue.kept(f"estimate:{estimate_id[:64]}")
    if note is None or note["owner_id"] != owner_id:
        raise NotFound(f'There is no estimate "{estimate_id[:64]}"; they are kept for ten minutes.')
    speeds = house.queue.kept(speeds_name(note["key"]))
    if speeds is not None:
        version = find_version(session, owner_id, note["version_id"])
        threads = house.settings.train_threads or house.settings.cores
        found = estimate(session, version, parse_config(note["config"]), speeds, threads=threads)
        rounded = {name: round(value, 1) for name, value in found.by_phase.items()}
        return EstimateOut(
            id=estimate_id, status="ready", seconds=round(found.seconds, 1), by_phase=rounded, basis=found.basis
        )
    answer = house.queue.answer_of(note["number"]) if note["number"] else None
    if answer is not None and "error" in answer:
        return EstimateOut(id=estimate_id, status="failed", error=str(answer["error"]))
    if time.time() - note["asked_at"] > PATIENCE:
        return EstimateOut(id=estimate_id, status="failed", error="No worker has measured it in time.")
    return EstimateOut(id=estimate_id, status="measuring")
