"""The verbs of models: the trained products in the catalogue."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.database import after_commit, database_now
from core.errors import Conflict, NotFound, NotServed
from core.leases import EXPORT_LIFE, Claim, write
from core.queue import Queue
from core.storage import Storage
from core.tables import Export, ExportStatus, Run, TrainedModel, utc_now

FORMATS = ("saved_model", "keras", "tflite", "tflite_float16", "tflite_int8", "onnx")


def find_model(session: Session, owner_id: str, model_id: str) -> TrainedModel:
    """A model of this person.

    Raises:
        NotFound: no such model, or another person's.
    """
    found = select(TrainedModel).where(TrainedModel.id == model_id, TrainedModel.owner_id == owner_id)
    model = session.scalar(found.where(TrainedModel.deleted_at.is_(None)))
    if model is None:
        raise NotFound(f'There is no model "{model_id}".')
    return model


def exports_of(session: Session, model_id: str) -> dict[str, Export]:
    """The model's files by format; a format nobody asked for is absent."""
    return {one.format: one for one in session.scalars(select(Export).where(Export.model_id == model_id))}


def ready_export(session: Session, model: TrainedModel, file_format: str) -> Export:
    """A file of a model that is ready to be downloaded.

    Raises:
        NotServed: no such format.
        Conflict: not built yet.
    """
    if file_format not in FORMATS:
        raise NotServed(f'There is no format "{file_format}". Allowed: {", ".join(FORMATS)}.')
    export = exports_of(session, model.id).get(file_format)
    if export is None or export.status != ExportStatus.READY:
        state = "none" if export is None else export.status.value
        raise Conflict(f'The format "{file_format}" of this model is not ready (its status is "{state}").')
    return export


def request_export(session: Session, queue: Queue, model: TrainedModel, file_format: str) -> Export:
    """Have another format built; one that is there or on its way stays, one that failed is tried again.

    Args:
        session: a writing session; the caller commits.
        queue: rung after the commit.
        model: whose file it will be.
        file_format: one of FORMATS.

    Raises:
        NotServed: no such format.
    """
    if file_format not in FORMATS:
        raise NotServed(f'There is no format "{file_format}". Allowed: {", ".join(FORMATS)}.')
    # one wish at a time on PostgreSQL too, where two transactions would each make the first row
    session.execute(select(TrainedModel.id).where(TrainedModel.id == model.id).with_for_update(key_share=True))
    export = exports_of(session, model.id).get(file_format)
    if export is not None and export.status != ExportStatus.FAILED:
        return export
    if export is None:
        export = Export(owner_id=model.owner_id, model_id=model.id, format=file_format)
        session.add(export)
    export.status, export.error, export.failures, export.cancel_requested_at = ExportStatus.QUEUED, None, 0, None
    export.rung_at = session.scalar(select(database_now()))
    session.flush()
    queue.ring_after_commit(session, EXPORT_LIFE.queue)
    return export


def finish_export(session: Session, held: Claim, **columns: Any) -> None:
    """The file is proved and stored: offer it.

    Args:
        session: a writing session; the caller commits.
        held: the worker's claim.
        columns: `storage_key`, `size_bytes`, `sha256`, `agreement`.
    """
    write(session, EXPORT_LIFE, held, status=ExportStatus.READY, lease_owner=None, lease_expires_at=None, **columns)


def fail_export(session: Session, held: Claim, sentence: str) -> None:
    """There is no such file; `sentence` says why. Asking again tries again."""
    values = {"lease_owner": None, "lease_expires_at": None}
    write(session, EXPORT_LIFE, held, status=ExportStatus.FAILED, error=sentence, **values)


def delete_model(session: Session, storage: Storage, model: TrainedModel) -> None:
    """Delete a model and its files; its run stays. Rows first: a row without a file must be impossible."""
    session.execute(delete(TrainedModel).where(TrainedModel.id == model.id))
    session.flush()
    key = model.storage_key
    after_commit(session, lambda: storage.delete(key))


def put_away_model(session: Session, model: TrainedModel) -> None:
    """Delete a model so that it can be brought back for a day; the sweeper then deletes it and its files for good."""
    model.deleted_at = utc_now()
    session.flush()


def bring_back_model(session: Session, owner_id: str, model_id: str) -> TrainedModel:
    """Undo `put_away_model`; twice changes nothing.

    Raises:
        NotFound: there is no such model any more.
    """
    found = select(TrainedModel).where(TrainedModel.id == model_id, TrainedModel.owner_id == owner_id)
    model = session.scalar(found)
    if model is None:
        raise NotFound(f'There is no model "{model_id}" to bring back.')
    model.deleted_at = None
    return model


def empty_bin(session: Session, storage: Storage, before: datetime) -> None:
    """Delete for good what was put away before this moment: runs, and models with their files."""
    session.execute(delete(Run).where(Run.deleted_at < before))
    for model in session.scalars(select(TrainedModel).where(TrainedModel.deleted_at < before)).all():
        delete_model(session, storage, model)
