"""Batch predictions: what a model says of every picture of an archive or a dataset version."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.api.routing import StreamingCreatingRoute, api_router
from app.api.schemas.models import BatchPredictionOut, BatchPredictionsOut, BatchProgress
from app.dependencies import House, Person, ReadSession, TheHouse, WriteSession
from app.receiving_archive import receive_archive
from core import batch_predictions, models
from core.datasets import find_version
from core.errors import InputInvalid
from core.tables import BatchPrediction, BatchRow

router = api_router("models")
creating = api_router("models", StreamingCreatingRoute)
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_BODIES: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["dataset_version_id"],
            "properties": {"dataset_version_id": {"type": "string"}},
            "additionalProperties": False,
        }
    },
    "application/zip": _BINARY,
    "application/x-tar": _BINARY,
    "application/gzip": _BINARY,
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["archive"],
            "properties": {"archive": {"type": "string", "format": "binary"}},
        }
    },
}
_MEDIA = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}


def batch_out(batch: BatchPrediction) -> BatchPredictionOut:
    """A batch prediction as the API shows it."""
    return BatchPredictionOut(
        id=batch.id,
        model_id=batch.model_id,
        dataset_version_id=batch.dataset_version_id,
        filename=batch.filename,
        status=batch.status.value,
        progress=BatchProgress(pictures_done=batch.pictures_done, pictures_total=batch.pictures_total),
        refused=batch.refused,
        error=batch.error,
        created_at=batch.created_at,
        finished_at=batch.finished_at,
    )


@creating.post(
    "/models/{model_id}/batch-predictions",
    status_code=202,
    openapi_extra={"requestBody": {"content": _BODIES, "required": True}},
)
async def predict_many(
    model_id: str,
    request: Request,
    house: TheHouse,
    person: Person,
    filename: Annotated[str | None, Query(max_length=255, description="of an archive that is the whole body")] = None,
) -> BatchPredictionOut:
    """Have every picture of an archive, or of a dataset version (JSON `dataset_version_id`), answered by a worker."""
    await run_in_threadpool(_must_be_there, house, person.id, model_id)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        version_id = await _version_id(request)
        return await run_in_threadpool(predict_version, house, person.id, model_id, version_id)
    received = await receive_archive(request, house, filename)
    return batch_out(await run_in_threadpool(received.queue, house, person.id, model_id))


async def _version_id(request: Request) -> str:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise InputInvalid(f"The body is not JSON: {error}.") from error
    if (
        not isinstance(body, dict)
        or set(body) != {"dataset_version_id"}
        or not isinstance(body["dataset_version_id"], str)
    ):
        raise InputInvalid('The body must be {"dataset_version_id": "..."} or an archive (.zip, .tar, .tar.gz).')
    return str(body["dataset_version_id"])


def _must_be_there(house: House, owner_id: str, model_id: str) -> None:
    with house.database.read() as session:
        models.find_model(session, owner_id, model_id)


def predict_version(house: House, owner_id: str, model_id: str, version_id: str) -> BatchPredictionOut:
    """Queue a batch prediction of a dataset version."""
    with house.database.write() as session:
        model = models.find_model(session, owner_id, model_id)
        version = find_version(session, owner_id, version_id)
        return batch_out(batch_predictions.predict_version(session, house.queue, model, version))


@router.get("/models/{model_id}/batch-predictions")
def list_batches(model_id: str, session: ReadSession, person: Person) -> BatchPredictionsOut:
    """The latest batch predictions of a model, newest first, at most 20."""
    model = models.find_model(session, person.id, model_id)
    return BatchPredictionsOut(items=[batch_out(one) for one in batch_predictions.batches_of(session, model.id)])


@router.get("/batch-predictions/{batch_id}")
def read_batch(batch_id: str, session: ReadSession, person: Person) -> BatchPredictionOut:
    """A batch prediction and how far it is."""
    return batch_out(batch_predictions.find_batch(session, person.id, batch_id))


@router.post("/batch-predictions/{batch_id}/cancel", status_code=202)
def cancel_batch(batch_id: str, session: WriteSession, house: TheHouse, person: Person) -> BatchPredictionOut:
    """Ask for cancelling; what is answered already stays."""
    batch = batch_predictions.find_batch(session, person.id, batch_id)
    batch_predictions.cancel_batch(session, house.storage, batch)
    return batch_out(batch)


@router.delete("/batch-predictions/{batch_id}", status_code=204)
def delete_batch(batch_id: str, session: WriteSession, house: TheHouse, person: Person) -> None:
    """Delete a batch prediction and its result."""
    batch = batch_predictions.find_batch(session, person.id, batch_id)
    batch_predictions.delete_batch(session, house.storage, batch)


@router.get(
    "/batch-predictions/{batch_id}/result",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/csv": {"schema": {"type": "string"}}, "application/jsonl": {"schema": {"type": "string"}}}
        }
    },
)
def read_result(
    batch_id: str,
    session: ReadSession,
    house: TheHouse,
    person: Person,
    format: Literal["csv", "jsonl"] = "csv",  # noqa: A002 - the contract's name
) -> StreamingResponse:
    """One line for every file, in order: class, probability, verdict, or why there is no answer."""
    batch = batch_predictions.find_batch(session, person.id, batch_id)
    batch_predictions.must_be_ready(batch)
    class_names = models.find_model(session, person.id, batch.model_id).class_names
    lines = result_lines(house, batch_id, class_names, format)
    headers = {"Content-Disposition": f'attachment; filename="predictions-{batch_id}.{format}"'}
    return StreamingResponse(lines, media_type=_MEDIA[format], headers=headers)


def result_lines(house: House, batch_id: str, class_names: list[str], wanted: str) -> Iterator[str]:
    """The result as text, in pieces; memory does not grow with the number of pictures."""
    if wanted == "csv":
        yield _csv([["filename", "class_name", "probability", "known_score", "verdict", "error", *class_names]])
    for rows in batch_predictions.in_chunks(house.database.read, batch_id):
        if wanted == "csv":
            yield _csv([_cells(row, class_names) for row in rows])
        else:
            yield "".join(json.dumps(_record(row, class_names), ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: list[list[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([[_harmless(cell) for cell in row] for row in rows])
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    """A cell that a spreadsheet would take for a formula gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _record(row: BatchRow, class_names: list[str]) -> dict[str, Any]:
    if row.label is None or row.probabilities is None:
        return {"filename": row.path, "error": row.error}
    return {
        "filename": row.path,
        "class_name": class_names[row.label],
        "probability": row.probabilities[row.label],
        "probabilities": dict(zip(class_names, row.probabilities, strict=True)),
        "known_score": row.known_score,
        "verdict": row.verdict,
    }


def _cells(row: BatchRow, class_names: list[str]) -> list[Any]:
    record = _record(row, class_names)
    first = [
        record.get(name, "") for name in ("filename", "class_name", "probability", "known_score", "verdict", "error")
    ]
    return [*first, *(row.probabilities or [""] * len(class_names))]
