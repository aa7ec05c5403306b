"""Batch predictions on a model's page: sent as plain forms, watched, cancelled, deleted."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.dependencies import House, Person, ReadSession, TheHouse, WriteSession
from app.pages.forms import Fields, see_other
from app.receiving_archive import receive_archive
from app.templating import View, render
from core import batch_predictions
from core.batch_predictions import GOING, batches_of, find_batch
from core.datasets import SEEN, find_version
from core.models import find_model
from core.tables import BatchPrediction, BatchStatus, Dataset, DatasetVersion, TrainedModel

router = APIRouter(include_in_schema=False)
MOST_VERSIONS = 50
_WORDS = {
    BatchStatus.QUEUED: ("busy live", "waits"),
    BatchStatus.RUNNING: ("busy live", "going on"),
    BatchStatus.READY: ("done", "done"),
    BatchStatus.FAILED: ("failed", "failed"),
    BatchStatus.CANCELLED: ("", "cancelled"),
}


@dataclass(frozen=True)
class BatchRow:
    """One batch prediction as the page shows it."""

    batch: BatchPrediction

    @property
    def going(self) -> bool:
        """It has not ended."""
        return self.batch.status in GOING

    @property
    def badge(self) -> str:
        """Kinds of its badge."""
        return _WORDS[self.batch.status][0]

    @property
    def words(self) -> str:
        """Its status for people."""
        return _WORDS[self.batch.status][1]


@dataclass(frozen=True)
class BatchesView(View):
    """The batch predictions of a model alone, as they stand now."""

    template = "models/batches.html"
    model: TrainedModel
    batches: Sequence[BatchRow]


def batch_rows(session: Session, model: TrainedModel) -> list[BatchRow]:
    """The latest batch predictions of a model."""
    return [BatchRow(one) for one in batches_of(session, model.id)]


def versions_of(session: Session, owner_id: str) -> list[tuple[str, str]]:
    """(id, title) of a person's newest dataset versions, to choose from."""
    query = select(DatasetVersion.id, Dataset.name, DatasetVersion.number, DatasetVersion.image_count)
    query = query.join(Dataset, Dataset.id == DatasetVersion.dataset_id).where(
        DatasetVersion.owner_id == owner_id, SEEN
    )
    rows = session.execute(query.order_by(DatasetVersion.id.desc()).limit(MOST_VERSIONS))
    return [(row.id, f"{row.name}, version {row.number} ({row.image_count:,} pictures)") for row in rows]


@router.get("/models/{model_id}/batches")
def show_batches(request: Request, session: ReadSession, person: Person, model_id: str) -> Response:
    """The list alone, for a page that watches."""
    model = find_model(session, person.id, model_id)
    return render(request, BatchesView(model, batch_rows(session, model)))


@router.post("/models/{model_id}/batches")
async def predict_archive(request: Request, house: TheHouse, person: Person, model_id: str) -> Response:
    """A form with an archive becomes a batch prediction."""
    await run_in_threadpool(_must_be_there, house, person.id, model_id)
    received = await receive_archive(request, house, None)
    await run_in_threadpool(received.queue, house, person.id, model_id)
    return see_other(f"/models/{model_id}#batches")


def _must_be_there(house: House, owner_id: str, model_id: str) -> None:
    with house.database.read() as session:
        find_model(session, owner_id, model_id)


@router.post("/models/{model_id}/batches/version")
def predict_version(session: WriteSession, house: TheHouse, person: Person, model_id: str, form: Fields) -> Response:
    """Answer every picture of a dataset version."""
    model = find_model(session, person.id, model_id)
    version = find_version(session, person.id, form.get("dataset_version_id", ""))
    batch_predictions.predict_version(session, house.queue, model, version)
    return see_other(f"/models/{model.id}#batches")


@router.post("/batch-predictions/{batch_id}/cancel")
def cancel(session: WriteSession, house: TheHouse, person: Person, batch_id: str) -> Response:
    """Stop; what is answered already stays."""
    batch = find_batch(session, person.id, batch_id)
    batch_predictions.cancel_batch(session, house.storage, batch)
    return see_other(f"/models/{batch.model_id}#batches")


@router.post("/batch-predictions/{batch_id}/delete")
def delete(session: WriteSession, house: TheHouse, person: Person, batch_id: str) -> Response:
    """Delete the answers."""
    batch = find_batch(session, person.id, batch_id)
    model_id = batch.model_id
    batch_predictions.delete_batch(session, house.storage, batch)
    return see_other(f"/models/{model_id}#batches")
