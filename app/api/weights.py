"""Weights of one's own: arrays for a backbone of the catalogue. Bodies stream to disk (`app.receiving_weights`)."""

from typing import Any

from fastapi import Request, Response

from app.api.routing import Pages, StreamingCreatingRoute, api_router
from app.api.schemas.base import Listed
from app.api.schemas.weights import WeightsOut
from app.dependencies import Person, ReadSession, TheHouse, WriteSession
from app.presenting import API, weights_out
from app.receiving_weights import receive_weights
from core import catalog, weights

router = api_router("weights", StreamingCreatingRoute)
_FORM: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file", "backbone"],
            "properties": {"file": {"type": "string", "format": "binary"}, "backbone": {"type": "string"}},
        }
    }
}


@router.post("/weights", status_code=202, openapi_extra={"requestBody": {"content": _FORM, "required": True}})
async def upload_weights(request: Request, house: TheHouse, person: Person, response: Response) -> WeightsOut:
    """Send `.weights.h5`, `.h5`, `.keras` or `.safetensors` for a backbone. It is read as arrays only, by a worker."""
    found = await receive_weights(request, house, person.id)
    response.headers["Location"] = f"{API}/weights/{found.id}"
    return weights_out(found)


@router.get("/weights")
def list_weights(session: ReadSession, person: Person, paging: Pages) -> Listed[WeightsOut]:
    """One's own uploaded weights, newest first."""
    page = catalog.list_weights(session, person.id, catalog.Wish(limit=paging.limit, cursor=paging.cursor))
    return Listed(items=[weights_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.get("/weights/{weights_id}")
def read_weights(weights_id: str, session: ReadSession, person: Person) -> WeightsOut:
    """What became of a file of weights."""
    return weights_out(weights.find_weights(session, person.id, weights_id))


@router.delete("/weights/{weights_id}", status_code=204)
def delete_weights(weights_id: str, session: WriteSession, house: TheHouse, person: Person) -> None:
    """Delete weights; models trained from them stay. 409 while a run that starts from them has not ended."""
    weights.delete_weights(session, house.storage, weights.find_weights(session, person.id, weights_id))
