"""Where a model looked: for a test picture of a run, and for pictures dropped on a model. `async`, because a worker is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.judging import find_model, find_model_and_picture
from app.api.schemas.judging import HeatmapOut
from app.dependencies import House, Person, TheHouse
from app.explaining import heatmap
from app.pages.judged import Lookalike, lookalikes
from app.predicting import read_pictures
from app.templating import View, render
from core.catalog import images_by_id, run_document
from core.errors import WorkersAway
from core.runs import find_run
from core.tables import Run, TrainedModel

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class LookView(View):
    """A test picture, where the model looked, and the training pictures most like it."""

    template = "runs/heatmap.html"
    nav = "runs"
    run: Run
    image_id: str
    filename: str | None
    found: HeatmapOut | None
    sentence: str
    alike: Sequence[Lookalike]


@dataclass(frozen=True)
class Looked:
    """One of the pictures that were sent."""

    filename: str
    found: HeatmapOut | None
    sentence: str


@dataclass(frozen=True)
class LooksView(View):
    """Where a model looked on pictures that were sent."""

    template = "models/heatmaps.html"
    nav = "models"
    model: TrainedModel
    looked: Sequence[Looked]


@router.get("/runs/{run_id}/heatmaps/{image_id}")
async def show(
    request: Request, house: TheHouse, person: Person, run_id: str, image_id: str, class_name: str | None = None
) -> Response:
    """One test picture; the page's script shows its figure inside the run's page."""
    model, sha256 = await run_in_threadpool(find_model_and_picture, house, person.id, run_id, image_id)
    found, sentence = None, ""
    try:
        found = await heatmap(house, model, sha256=sha256, class_name=class_name)
    except WorkersAway as error:
        sentence = error.message
    view = await run_in_threadpool(_look_view, house, person.id, run_id, image_id, found, sentence)
    return render(request, view)


def _look_view(
    house: House, owner_id: str, run_id: str, image_id: str, found: HeatmapOut | None, sentence: str
) -> LookView:
    with house.database.read() as session:
        run = find_run(session, owner_id, run_id)
        place = images_by_id(session, run.dataset_version_id, [image_id]).get(image_id)
        alike = lookalikes(session, run, run_document(session, run.id, "neighbours"), [image_id]).get(image_id, [])
        return LookView(run, image_id, place.filename if place else None, found, sentence, alike)


@router.post("/models/{model_id}/heatmap")
async def look(request: Request, house: TheHouse, person: Person, model_id: str) -> Response:
    """Where a model looked on pictures that are sent; nothing is kept."""
    model = await run_in_threadpool(find_model, house, person.id, model_id)
    looked = []
    for name, picture in await read_pictures(request, house.settings):
        try:
            looked.append(Looked(name, await heatmap(house, model, picture=picture), ""))
        except WorkersAway as error:
            looked.append(Looked(name, None, error.message))
    return render(request, LooksView(model, looked))
