"""The verbs of uploaded weights, and what a run may start from. `received -> checking -> ready | rejected`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.backbones import BACKBONES
from core.database import after_commit, database_now
from core.errors import Conflict, FieldProblem, InputInvalid, NotFound, WeightsUnavailable
from core.leases import WEIGHTS_LIFE, Claim, write
from core.queue import Queue
from core.storage import Storage
from core.tables import Run, RunStatus, TrainedModel, Weights, WeightsStatus, utc_now
from core.training_config import ModelWeights, TrainingConfig, UploadedWeights

MOST_LISTED = 200


@dataclass(frozen=True)
class Start:
    """Where the weights that a run starts from are stored.

    Attributes:
        key: of an `.npz` in the storage.
        title: for people, e.g. of the earlier model.
        cut_layer: the earlier model's, None for its backbone's last layer.
        backbone: id in the catalogue.
    """

    key: str
    title: str
    cut_layer: str | None
    backbone: str


def received_key(weights_id: str) -> str:
    """Where the file is as it came."""
    return f"weights/{weights_id}/received"


def arrays_key(weights_id: str) -> str:
    """Where the checked arrays are."""
    return f"weights/{weights_id}/arrays.npz"


def checked_backbone(name: str) -> str:
    """The name itself.

    Raises:
        InputInvalid: no such backbone.
    """
    if name not in BACKBONES:
        message = f"Weights are for one backbone. Received: {name[:60]!r}; allowed: {', '.join(BACKBONES)}."
        raise InputInvalid(message, problems=(FieldProblem("backbone", message, name[:60]),))
    return name


def add_weights(session: Session, queue: Queue, owner_id: str, weights_id: str, **facts: Any) -> Weights:
    """Have a file checked whose bytes are under `received_key` already; `facts`: backbone, filename, size_bytes."""
    found = Weights(id=weights_id, owner_id=owner_id, rung_at=session.scalar(select(database_now())), **facts)
    session.add(found)
    session.flush()
    queue.ring_after_commit(session, WEIGHTS_LIFE.queue)
    return found


def find_weights(session: Session, owner_id: str, weights_id: str) -> Weights:
    """Uploaded weights of this person.

    Raises:
        NotFound: there are none, or they are another person's.
    """
    found = session.scalar(select(Weights).where(Weights.id == weights_id, Weights.owner_id == owner_id))
    if found is None:
        raise NotFound(f'There are no weights "{weights_id}".')
    return found


def finish_ready(session: Session, held: Claim, report: Mapping[str, Any]) -> None:
    """The arrays are stored.

    Raises:
        Fenced: another attempt owns the row.
    """
    columns = {name: report[name] for name in ("form", "way")} | _counts(report)
    write(session, WEIGHTS_LIFE, held, status=WeightsStatus.READY, error=None, **columns, **_ended())


def finish_rejected(session: Session, held: Claim, report: Mapping[str, Any]) -> None:
    """The file is not what it should be; the report's `error` says why, and its counts what was found, where it was compared at all.

    Raises:
        Fenced: another attempt owns the row.
    """
    columns = _counts(report) if "matched" in report else {}
    write(session, WEIGHTS_LIFE, held, status=WeightsStatus.REJECTED, error=report["error"], **columns, **_ended())


def _counts(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("matched", "missing", "unexpected", "unexpected_count")}


def _ended() -> dict[str, Any]:
    return {"lease_owner": None, "lease_expires_at": None, "finished_at": utc_now()}


def delete_weights(session: Session, storage: Storage, weights: Weights) -> None:
    """Delete weights and their file; models trained from them stay. A worker on them is fenced.

    Raises:
        Conflict: a run that has not ended starts from them.
    """
    open_runs = select(Run).where(
        Run.owner_id == weights.owner_id, Run.status.in_([RunStatus.QUEUED, RunStatus.RUNNING])
    )
    for run in session.scalars(open_runs):
        if run.config["weights"] == {"weights_id": weights.id}:
            raise Conflict(f'The run "{run.name}" starts from these weights and has not ended. Cancel it first.')
    session.execute(delete(Weights).where(Weights.id == weights.id))
    session.flush()
    key = f"weights/{weights.id}"
    after_commit(session, lambda: storage.delete(key))


def start_of(session: Session, owner_id: str, config: TrainingConfig) -> Start | None:
    """Where a config's own weights are; None for ImageNet or random ones.

    Raises:
        InputInvalid: they are not there, not checked yet, or those of another backbone.
    """
    wanted = config.weights
    if isinstance(wanted, UploadedWeights):
        start = _uploaded(session, owner_id, wanted)
    elif isinstance(wanted, ModelWeights):
        start = _of_model(session, owner_id, wanted)
    else:
        return None
    if start.backbone != config.backbone:
        titles = [BACKBONES[one].title if one in BACKBONES else one for one in (start.backbone, config.backbone)]
        raise _refused(
            f'"{start.title}" has weights of {titles[0]}, the run is for {titles[1]}. Choose the same backbone.', wanted
        )
    _check_cut(start, config)
    return start


def _check_cut(start: Start, config: TrainingConfig) -> None:
    backbone = BACKBONES[config.backbone]
    here = config.cut_layer or backbone.default_cut_layer
    there = start.cut_layer or backbone.default_cut_layer
    if backbone.layers.index(here) > backbone.layers.index(there):
        message = (
            f'"{start.title}" was cut at "{there}": above that it has no weights. Received: "{here}"; '
            f'allowed for cut_layer: "{there}" or a layer below it.'
        )
        raise InputInvalid(message, problems=(FieldProblem("config.cut_layer", message, config.cut_layer),))


def _uploaded(session: Session, owner_id: str, wanted: UploadedWeights) -> Start:
    found = session.scalar(select(Weights).where(Weights.id == wanted.weights_id, Weights.owner_id == owner_id))
    if found is None:
        raise _refused(f'There are no weights "{wanted.weights_id[:60]}".', wanted)
    if found.status != WeightsStatus.READY:
        why = "were rejected" if found.status == WeightsStatus.REJECTED else "are not checked yet"
        raise _refused(f'The weights "{found.filename}" {why}.', wanted)
    return Start(arrays_key(found.id), found.filename, None, found.backbone)


def _of_model(session: Session, owner_id: str, wanted: ModelWeights) -> Start:
    mine = (TrainedModel.id == wanted.model_id, TrainedModel.owner_id == owner_id, TrainedModel.deleted_at.is_(None))
    model = session.scalar(select(TrainedModel).where(*mine))
    if model is None:
        raise _refused(f'There is no model "{wanted.model_id[:60]}".', wanted)
    run = session.get(Run, model.run_id) if model.run_id else None
    cut = run.config.get("cut_layer") if run else model.summary.get("cut_layer")
    kind = model.summary.get("chosen_phase")
    return Start(f"{model.storage_key}/backbone_and_head/{kind}.npz", model.name, cut, model.backbone)


def _refused(message: str, wanted: ModelWeights | UploadedWeights) -> InputInvalid:
    return InputInvalid(message, problems=(FieldProblem("config.weights", message, wanted.model_dump()),))


def start_for_run(session: Session, run: Run, config: TrainingConfig) -> Start | None:
    """`start_of` when a run begins: what was there when it was queued may be gone.

    Raises:
        WeightsUnavailable: it is.
    """
    try:
        return start_of(session, run.owner_id, config)
    except InputInvalid as error:
        raise WeightsUnavailable(f"What this run starts from is not there any more. {error.message}") from error
