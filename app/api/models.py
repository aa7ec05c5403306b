"""Models: the trained products. Predict, download."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from app.api.routing import Sorted, api_router
from app.api.schemas.base import Listed
from app.api.schemas.models import FormatOut, ModelOut, ModelPatch, PredictionsOut
from app.dependencies import House, Person, ReadSession, TheHouse, WriteSession
from app.downloading import DownloadWish, download
from app.predicting import predict_pictures, read_pictures
from app.presenting import model_out
from core import catalog, models
from core.datasets import checked_name, checked_tags
from core.runs import model_looks
from core.tables import Export, TrainedModel

router = api_router("models")
_PICTURES: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["images"],
            "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
}


def _outs(session: Session, found: Sequence[TrainedModel]) -> list[ModelOut]:
    """Models with their files, by one query."""
    exports: dict[str, dict[str, Export]] = {model.id: {} for model in found}
    for one in session.scalars(select(Export).where(Export.model_id.in_(exports))):
        exports[one.model_id][one.format] = one
    seen = model_looks(session, found)
    return [model_out(model, exports[model.id], seen.get(model.id)) for model in found]


@router.get("/models")
def list_models(session: ReadSession, person: Person, asked: Sorted) -> Listed[ModelOut]:
    """One's models; sorts: created_at, name, test_accuracy."""
    page = catalog.list_models(session, person.id, asked.wish())
    return Listed(items=_outs(session, page.items), next_cursor=page.next_cursor)


@router.get("/models/{model_id}")
def read_model(model_id: str, session: ReadSession, person: Person) -> ModelOut:
    """A model."""
    return _outs(session, [models.find_model(session, person.id, model_id)])[0]


@router.patch("/models/{model_id}")
def change_model(model_id: str, given: ModelPatch, session: WriteSession, person: Person) -> ModelOut:
    """Change a model's name, notes or tags."""
    model = models.find_model(session, person.id, model_id)
    if given.name is not None:
        model.name = checked_name(given.name)
    if given.notes is not None:
        model.notes = given.notes
    if given.tags is not None:
        model.tags = checked_tags(given.tags)
    return _outs(session, [model])[0]


@router.delete("/models/{model_id}", status_code=204)
def delete_model(model_id: str, session: WriteSession, house: TheHouse, person: Person) -> None:
    """Delete a model and its files; its run stays."""
    models.delete_model(session, house.storage, models.find_model(session, person.id, model_id))


@router.post("/models/{model_id}/predict", openapi_extra={"requestBody": {"content": _PICTURES, "required": True}})
async def predict(model_id: str, request: Request, house: TheHouse, person: Person) -> PredictionsOut:
    """What the model says of 1 to 32 pictures (form field `images`). A bad picture gets its own `error`."""
    model = await run_in_threadpool(_find, house, person.id, model_id)
    pictures = await read_pictures(request, house.settings)
    return await predict_pictures(house, model, pictures)


def _find(house: House, owner_id: str, model_id: str) -> TrainedModel:
    with house.database.read() as session:
        return models.find_model(session, owner_id, model_id)


@router.post("/models/{model_id}/exports/{file_format}", status_code=202)
def build_export(model_id: str, file_format: str, session: WriteSession, house: TheHouse, person: Person) -> FormatOut:
    """Have another file format built by a worker, which offers it once it is proved to answer as the model does."""
    model = models.find_model(session, person.id, model_id)
    models.request_export(session, house.queue, model, file_format)
    out = _outs(session, [model])[0]
    return next(one for one in out.formats if one.format == file_format)


@router.get(
    "/models/{model_id}/download/{file_format}",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The part that `Range` asked for."},
        304: {"description": "The client has this file already (`If-None-Match`)."},
        416: {"description": "There is no such part."},
    },
)
@router.head("/models/{model_id}/download/{file_format}", include_in_schema=False)
def download_model(
    model_id: str,
    file_format: str,
    request: Request,
    session: ReadSession,
    house: TheHouse,
    person: Person,
    wish: Annotated[DownloadWish, Depends()],
) -> Response:
    """Download a file of a model. Range and ETag are honoured."""
    model = models.find_model(session, person.id, model_id)
    export = models.ready_export(session, model, file_format)
    return download(request, house.storage, model, export, wish)
