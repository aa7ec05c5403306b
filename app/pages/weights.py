"""Weights of one's own and the backbones they are for: send, see what was found in a file, delete."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.dependencies import House, Person, ReadSession, TheHouse, WriteSession
from app.pages.forms import see_other
from app.receiving_weights import receive_weights
from app.templating import View, render
from core import weights
from core.backbones import BACKBONES, Backbone, imagenet_state
from core.catalog import Wish, list_weights
from core.errors import InputInvalid, TooLarge
from core.paging import MOST
from core.tables import Weights, WeightsStatus

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class BackboneRow:
    """A backbone and whether its ImageNet weights can be had here, with the reason when not (or not at once)."""

    backbone: Backbone
    available: bool
    reason: str


@dataclass(frozen=True)
class WeightsView(View):
    """What was sent, what it was found to be, and every backbone."""

    template = "weights/list.html"
    nav = "runs"
    rows: Sequence[Weights]
    backbones: Sequence[BackboneRow]
    titles: dict[str, str]
    waiting: bool
    most_bytes: int
    problem: str = ""


def _view(session: Session, house: House, owner_id: str, problem: str = "") -> WeightsView:
    rows = list_weights(session, owner_id, Wish(limit=MOST)).items
    states = [BackboneRow(one, *imagenet_state(one, house.settings.download_weights)) for one in BACKBONES.values()]
    return WeightsView(
        rows=rows,
        backbones=states,
        titles={one.id: one.title for one in BACKBONES.values()},
        waiting=any(one.status in {WeightsStatus.RECEIVED, WeightsStatus.CHECKING} for one in rows),
        most_bytes=house.settings.max_weights_bytes,
        problem=problem,
    )


@router.get("/weights")
def show(request: Request, session: ReadSession, person: Person, house: TheHouse) -> Response:
    """The page."""
    return render(request, _view(session, house, person.id))


@router.post("/weights")
async def send(request: Request, person: Person, house: TheHouse) -> Response:
    """Take a file in; what is wrong with the form is said above it."""
    try:
        await receive_weights(request, house, person.id)
    except (InputInvalid, TooLarge) as error:
        return await run_in_threadpool(_again, request, house, person.id, error.message)
    return see_other("/weights")


def _again(request: Request, house: House, owner_id: str, problem: str) -> Response:
    with house.database.read() as session:
        return render(request, _view(session, house, owner_id, problem), 422)


@router.post("/weights/{weights_id}/delete")
def delete(session: WriteSession, person: Person, house: TheHouse, weights_id: str) -> Response:
    """Delete weights; models trained from them stay."""
    weights.delete_weights(session, house.storage, weights.find_weights(session, person.id, weights_id))
    return see_other("/weights")
