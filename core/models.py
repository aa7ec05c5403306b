"""The verbs of models: the trained products in the catalogue."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.database import after_commit
from core.errors import Conflict, NotFound, NotServed
from core.storage import Storage
from core.tables import Export, ExportStatus, TrainedModel

FORMATS = ("saved_model", "keras", "tflite", "tflite_float16", "tflite_int8", "onnx")
SERVED_FORMATS = ("saved_model",)


def find_model(session: Session, owner_id: str, model_id: str) -> TrainedModel:
    """A model of this person.

    Raises:
        NotFound: no such model, or another person's.
    """
    found = select(TrainedModel).where(TrainedModel.id == model_id, TrainedModel.owner_id == owner_id)
    model = session.scalar(found)
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


def request_export(file_format: str) -> None:
    """Have another format built.

    Raises:
        NotServed: this version builds the SavedModel only, with every run.
    """
    if file_format not in SERVED_FORMATS:
        known = "is not served yet" if file_format in FORMATS else "does not exist"
        raise NotServed(f'The format "{file_format}" {known}. Allowed in this version: {", ".join(SERVED_FORMATS)}.')


def delete_model(session: Session, storage: Storage, model: TrainedModel) -> None:
    """Delete a model and its files; its run stays. Rows first: a row without a file must be impossible."""
    session.execute(delete(TrainedModel).where(TrainedModel.id == model.id))
    session.flush()
    after_commit(session, lambda: storage.delete(model.storage_key))
