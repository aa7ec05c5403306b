"""A closer look at a judged run: where its model looked, its curves for TensorBoard, its model card."""

from typing import Annotated

from fastapi import Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.routing import api_router
from app.api.schemas.judging import HeatmapOut, ReproductionOut
from app.dependencies import House, Person, ReadSession, TheHouse
from app.event_files import event_files
from app.explaining import heatmap
from app.predicting import read_pictures
from app.wording import plural
from core import models, runs
from core.catalog import find_image, model_of_run, run_document, run_metrics
from core.errors import Conflict, FieldProblem, InputInvalid, NotFound
from core.reproduction import TOLERANCE, reproduction
from core.tables import TrainedModel

router = api_router("runs")
model_router = api_router("models")
ClassName = Annotated[str | None, Query(max_length=1024, description="The class asked about; without: the answer.")]


@router.get("/runs/{run_id}/heatmaps/{image_id}")
async def read_heatmap(
    run_id: str, image_id: str, house: TheHouse, person: Person, class_name: ClassName = None
) -> HeatmapOut:
    """Where the run's model looked on one of one's pictures: a hint, not a proof."""
    model, sha256 = await run_in_threadpool(find_model_and_picture, house, person.id, run_id, image_id)
    return await heatmap(house, model, sha256=sha256, class_name=class_name)


def find_model_and_picture(house: House, owner_id: str, run_id: str, image_id: str) -> tuple[TrainedModel, str]:
    """The model of a run, and the SHA-256 of a picture; both of this person.

    Raises:
        NotFound: no such run or picture.
        Conflict: the run has no model (any more).
    """
    with house.database.read() as session:
        run = runs.find_run(session, owner_id, run_id)
        image = find_image(session, owner_id, image_id)
        model = model_of_run(session, run.id)
        if model is None:
            raise Conflict("This run has no model (any more), so nothing can be asked where it looked.")
        return model, image.sha256


@router.get(
    "/runs/{run_id}/tensorboard",
    response_class=Response,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def download_event_files(run_id: str, session: ReadSession, person: Person) -> Response:
    """The run's curves as TensorBoard event files (zip): unpack them and start `tensorboard --logdir` on the folder."""
    run = runs.find_run(session, person.id, run_id)
    archive = event_files(run, run_metrics(session, run.id), run_document(session, run.id, "evaluation"))
    headers = {"Content-Disposition": f'attachment; filename="tensorboard-{run.id}.zip"'}
    return Response(archive, media_type="application/zip", headers=headers)


@router.get("/runs/{run_id}/reproduction")
def read_reproduction(run_id: str, session: ReadSession, person: Person) -> ReproductionOut:
    """Whether a run that was made by `POST /runs/{id}/retry` came out as the one it repeats: weights bit by bit, answers on test."""
    run = runs.find_run(session, person.id, run_id)
    found = reproduction(session, run)
    if found is None:
        raise NotFound(
            "This run repeats no other with the same settings on the same dataset version, or one of the two has not succeeded."
        )
    return ReproductionOut(
        first_id=found.first_id,
        equal_weights=dict(found.equal_weights),
        pictures=found.pictures,
        same_answer=found.same_answer,
        largest_difference=found.largest_difference,
        same_machine=found.same_machine,
        tolerance=TOLERANCE,
        within_tolerance=found.within_tolerance,
    )


@model_router.get(
    "/models/{model_id}/card",
    response_class=Response,
    responses={200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}},
)
def read_card(model_id: str, session: ReadSession, person: Person) -> Response:
    """The model card in Markdown: data, scores with intervals, known weaknesses, lineage."""
    model = models.find_model(session, person.id, model_id)
    return Response(card_of(session, model), media_type="text/markdown; charset=utf-8")


def card_of(session: Session, model: TrainedModel) -> str:
    """The card that the trainer wrote.

    Raises:
        Conflict: its run is gone, or was trained by an earlier version.
    """
    found = run_document(session, model.run_id, "card") if model.run_id else None
    if found is None:
        raise Conflict("This model has no card: its run was deleted, or was trained before there were cards.")
    seen = runs.model_looks(session, [model])[model.id]
    scored = plural(seen, "run has", "runs have")
    looks = f"{scored} been scored on its test pictures so far; the best of many looks a little too good."
    return "\n\n".join([f"# {model.name}", *found["lines"], looks]) + "\n"


_PICTURE = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["images"],
            "properties": {"images": {"type": "string", "format": "binary"}},
        }
    }
}


@model_router.post("/models/{model_id}/heatmap", openapi_extra={"requestBody": {"content": _PICTURE, "required": True}})
async def explain_picture(
    model_id: str, request: Request, house: TheHouse, person: Person, class_name: ClassName = None
) -> HeatmapOut:
    """Where a model looks on one picture that is sent (form field `images`) and not kept."""
    model = await run_in_threadpool(find_model, house, person.id, model_id)
    pictures = await read_pictures(request, house.settings)
    if len(pictures) != 1:
        message = f"images: send one picture for a heat map. Received: {len(pictures)}."
        raise InputInvalid(message, problems=(FieldProblem("images", message, len(pictures)),))
    return await heatmap(house, model, picture=pictures[0][1], class_name=class_name)


def find_model(house: House, owner_id: str, model_id: str) -> TrainedModel:
    """A model of this person, read in a session of its own."""
    with house.database.read() as session:
        return models.find_model(session, owner_id, model_id)
