"""Forms that carry files and work without a script: pictures into a dataset, pictures to a model."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import PurePosixPath

from fastapi import APIRouter, Request
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.dependencies import House, Person, TheHouse
from app.pages.forms import see_other
from app.pages.models import AnswersView, model_view
from app.predicting import Pictures, predict_pictures, read_pictures
from app.receiving import is_archive, receive_files
from app.templating import render
from app.threads import to_its_end
from core import uploads
from core.datasets import create_dataset, find_dataset
from core.errors import WorkersAway
from core.models import find_model
from core.tables import Dataset, TrainedModel, Upload, UploadFile

router = APIRouter(include_in_schema=False)
NAMELESS = "Pictures"
PARTIAL_HEADER = "thaw-partial"


@router.post("/datasets")
async def create_dataset_of_files(request: Request, house: TheHouse, person: Person) -> Response:
    """A form with files becomes a dataset, named after its folder or archive."""
    upload = await run_in_threadpool(_open, house, person.id, None)
    return await _receive(request, house, upload, new=True)


@router.post("/datasets/{dataset_id}/uploads")
async def add_files(request: Request, house: TheHouse, person: Person, dataset_id: str) -> Response:
    """A form with files becomes the next version of a dataset."""
    upload = await run_in_threadpool(_open, house, person.id, dataset_id)
    return await _receive(request, house, upload, new=False)


async def _receive(request: Request, house: House, upload: Upload, *, new: bool) -> Response:
    async with _undone_when_broken(house, upload, new=new):
        await receive_files(request, house, upload)
        await run_in_threadpool(_complete, house, upload, new=new)
    return see_other(f"/datasets/{upload.dataset_id}")


def _open(house: House, owner_id: str, dataset_id: str | None) -> Upload:
    with house.database.write() as session:
        found = find_dataset(session, owner_id, dataset_id) if dataset_id else None
        dataset = found or create_dataset(session, owner_id, NAMELESS)
        return uploads.open_upload(session, dataset)


def _complete(house: House, upload: Upload, *, new: bool) -> None:
    with house.database.write() as session:
        found = uploads.find_upload(session, upload.owner_id, upload.id)
        uploads.complete_upload(session, house.queue, found)
        if new:
            paths = session.scalars(select(UploadFile.path).where(UploadFile.upload_id == found.id).limit(2)).all()
            session.get_one(Dataset, found.dataset_id).name = name_of(paths)


def name_of(paths: Sequence[str]) -> str:
    """What to call a dataset made of these files: its folder, or its archive without the ending."""
    if not paths:
        return NAMELESS
    first = paths[0]
    if "/" in first:
        return first.split("/", 1)[0][:200]
    if len(paths) == 1 and is_archive(first):
        return (PurePosixPath(first).name.split(".", 1)[0] or NAMELESS)[:200]
    return NAMELESS


@asynccontextmanager
async def _undone_when_broken(house: House, upload: Upload, *, new: bool) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:  # also when the browser went away: nothing half may stay
        await to_its_end(partial(_undo, house, upload, new=new))
        raise


def _undo(house: House, upload: Upload, *, new: bool) -> None:
    with house.database.write() as session:
        uploads.delete_upload(session, house.settings, upload)
        if new:
            session.delete(session.get_one(Dataset, upload.dataset_id))


@router.post("/models/{model_id}/predict")
async def predict(request: Request, house: TheHouse, person: Person, model_id: str) -> Response:
    """What the model says of some pictures: the answers alone for a script, else the whole page."""
    model = await run_in_threadpool(_model, house, person.id, model_id)
    answers = await _answers(house, model, await read_pictures(request, house.settings))
    return await run_in_threadpool(_show, request, house, model, answers)


def _model(house: House, owner_id: str, model_id: str) -> TrainedModel:
    with house.database.read() as session:
        return find_model(session, owner_id, model_id)


async def _answers(house: House, model: TrainedModel, pictures: Pictures) -> list[dict[str, object]]:
    try:
        found = await predict_pictures(house, model, pictures)
    except WorkersAway as error:  # each picture says so where its answer would stand
        return [{"filename": name, "error": error.message} for name, _ in pictures]
    return [one.model_dump() for one in found.predictions]


def _show(request: Request, house: House, model: TrainedModel, answers: list[dict[str, object]]) -> Response:
    if PARTIAL_HEADER in request.headers:
        return render(request, AnswersView(answers))
    with house.database.read() as session:
        return render(request, model_view(request, session, model, answers))
