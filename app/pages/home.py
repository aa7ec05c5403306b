"""The first page: a drop zone before anything else; later what goes on now, the latest models, the datasets."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.dependencies import Person, ReadSession, SettingsOf
from app.pages.cards import DatasetCard, ModelRow, RunRow, UploadRow, dataset_cards, model_rows, run_rows, upload_rows
from app.templating import View, render
from app.wording import scale_from
from core.catalog import Wish, list_datasets, list_models, unfinished
from core.config import Settings

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class HomeView(View):
    """Everything on one page; `first_run` when there is no dataset yet."""

    template = "home.html"
    nav = "home"
    first_run: bool
    settings: Settings
    runs: Sequence[RunRow]
    uploads: Sequence[UploadRow]
    models: Sequence[ModelRow]
    scale: float
    datasets: Sequence[DatasetCard]
    more_datasets: bool


def home_view(session: Session, owner_id: str, settings: Settings) -> HomeView:
    """Read what the first page shows."""
    datasets = list_datasets(session, owner_id, Wish(limit=6))
    models = model_rows(session, list_models(session, owner_id, Wish(limit=5)).items)
    runs, uploads = unfinished(session, owner_id)
    return HomeView(
        first_run=not datasets.items and not models and not runs,
        settings=settings,
        runs=run_rows(session, runs),
        uploads=upload_rows(session, uploads),
        models=models,
        scale=scale_from(row.interval for row in models if row.interval),
        datasets=dataset_cards(session, datasets.items),
        more_datasets=datasets.next_cursor is not None,
    )


@router.get("/")
def home(request: Request, session: ReadSession, person: Person, settings: SettingsOf) -> Response:
    """The first page."""
    return render(request, home_view(session, person.id, settings))
