"""Models: the list, one model to try, download and use, and its end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.judging import card_of
from app.dependencies import Person, ReadSession, TheHouse, WriteSession
from app.pages.batches import BatchRow, batch_rows, versions_of
from app.pages.cards import ModelRow, Score, backbone_title, model_rows, score_of
from app.pages.forms import Fields, see_other
from app.pages.labels import Labels, labels_of, write_labels
from app.pages.paging import Place
from app.templating import View, render
from app.wording import scale_from
from core.catalog import Wish, list_models
from core.models import bring_back_model, exports_of, find_model, put_away_model, request_export
from core.runs import model_looks
from core.tables import Export, Run, TrainedModel

router = APIRouter(prefix="/models", include_in_schema=False)
PAGE = 25
MOST_PICTURES = 32
FORMATS = {
    "saved_model": ("SavedModel", "TensorFlow, TF Serving, Keras"),
    "keras": ("Keras", "Keras 3, to load or to train on"),
    "tflite": ("TFLite", "LiteRT on phones and small computers"),
    "tflite_float16": ("TFLite float16", "the same in half the size"),
    "tflite_int8": ("TFLite int8", "the same in a quarter of the size, fastest there"),
    "onnx": ("ONNX", "ONNX Runtime, OpenVINO, browsers"),
}
WEAK_UNDER = 0.99


@dataclass(frozen=True)
class Filters:
    """Which models are shown, and in what order."""

    search: str = ""
    sort: str = "-created_at"
    cursor: str = ""
    back: str = ""

    def address(self, **changes: str | None) -> str:
        """The list with some of this changed; empty values are left out."""
        query = {key: value for key, value in {**asdict(self), **changes}.items() if value}
        return f"/models?{urlencode(query)}"


@dataclass(frozen=True)
class ListView(View):
    """The models of a person."""

    template = "models/list.html"
    nav = "models"
    rows: Sequence[ModelRow]
    scale: float
    filters: Filters
    next_address: str | None
    previous_address: str | None
    deleted_id: str


@dataclass(frozen=True)
class Download:
    """A file of a model, there or not. `weak`: under 99 % of the test pictures get the same answer as from the original."""

    format: str
    export: Export | None
    state: str
    top1: float | None
    top1_count: int | None
    max_abs_diff: float | None

    @property
    def title(self) -> str:
        """The format's name."""
        return FORMATS[self.format][0]

    @property
    def use(self) -> str:
        """What it is for."""
        return FORMATS[self.format][1]

    @property
    def going(self) -> bool:
        """It is being built, or waits for that."""
        return self.state in {"queued", "building"}

    @property
    def weak(self) -> bool:
        """Its answers differ from the original's in more than one of a hundred test pictures."""
        return self.top1 is not None and self.top1 < WEAK_UNDER


@dataclass(frozen=True)
class ModelView(View):
    """One model; `answers` after pictures were sent without a script."""

    template = "models/detail.html"
    nav = "models"
    model: TrainedModel
    labels: Labels
    backbone: str
    score: Score | None
    run: Run | None
    downloads: Sequence[Download]
    batches: Sequence[BatchRow]
    versions: Sequence[tuple[str, str]]
    base_address: str
    most_pictures: int
    answers: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class DownloadsView(View):
    """The files of a model alone, as they stand now."""

    template = "models/downloads.html"
    model: TrainedModel
    downloads: Sequence[Download]


@dataclass(frozen=True)
class AnswersView(View):
    """What the model said of some pictures, one after the other."""

    template = "models/answers.html"
    answers: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class CardView(View):
    """The model card."""

    template = "models/card.html"
    nav = "models"
    model: TrainedModel
    blocks: Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class DeleteView(View):
    """What deleting a model takes away, before it happens."""

    template = "models/delete.html"
    nav = "models"
    model: TrainedModel


@router.get("")
def show_list(
    request: Request, session: ReadSession, person: Person, filters: Annotated[Filters, Depends()], deleted: str = ""
) -> Response:
    """The list of models."""
    wish = Wish(limit=PAGE, cursor=filters.cursor or None, sort=filters.sort, search=filters.search)
    page = list_models(session, person.id, wish)
    rows = model_rows(session, page.items, saved_model_sizes(session, [one.id for one in page.items]))
    scale = scale_from(row.interval for row in rows if row.interval)
    addresses = Place(filters.cursor, filters.back).addresses(page.next_cursor, filters.address)
    return render(request, ListView(rows=rows, scale=scale, filters=filters, deleted_id=deleted, **addresses))


def saved_model_sizes(session: Session, model_ids: Sequence[str]) -> dict[str, int]:
    """Bytes of the SavedModel of these models (of one page)."""
    query = select(Export.model_id, Export.size_bytes).where(
        Export.model_id.in_(model_ids), Export.format == "saved_model", Export.size_bytes.is_not(None)
    )
    return {row.model_id: row.size_bytes for row in session.execute(query)}


@router.get("/{model_id}")
def show(request: Request, session: ReadSession, person: Person, model_id: str) -> Response:
    """One model."""
    return render(request, model_view(request, session, find_model(session, person.id, model_id)))


def model_view(
    request: Request, session: Session, model: TrainedModel, answers: Sequence[dict[str, Any]] = ()
) -> ModelView:
    """Read what the page of a model shows."""
    return ModelView(
        model=model,
        labels=labels_of(model),
        backbone=backbone_title(model.backbone),
        score=score_of(model.summary, model_looks(session, [model]).get(model.id)),
        run=session.get(Run, model.run_id) if model.run_id else None,
        downloads=_downloads(session, model),
        batches=batch_rows(session, model),
        versions=versions_of(session, model.owner_id),
        base_address=str(request.base_url).rstrip("/"),
        most_pictures=MOST_PICTURES,
        answers=answers,
    )


def _downloads(session: Session, model: TrainedModel) -> list[Download]:
    exports = exports_of(session, model.id)
    return [_download(one, exports.get(one)) for one in FORMATS]


def _download(file_format: str, export: Export | None) -> Download:
    agreement = (export.agreement if export else None) or {}
    state = export.status.value if export else "none"
    figures = (agreement.get(name) for name in ("top1", "count", "max_abs_diff"))
    return Download(file_format, export, state, *figures)


@router.get("/{model_id}/downloads")
def show_downloads(request: Request, session: ReadSession, person: Person, model_id: str) -> Response:
    """The table of files alone, for a page that watches one being built."""
    model = find_model(session, person.id, model_id)
    return render(request, DownloadsView(model, _downloads(session, model)))


@router.post("/{model_id}/exports/{file_format}")
def build(session: WriteSession, house: TheHouse, person: Person, model_id: str, file_format: str) -> Response:
    """Have a file format built."""
    model = find_model(session, person.id, model_id)
    request_export(session, house.queue, model, file_format)
    return see_other(f"/models/{model.id}#downloads")


@router.get("/{model_id}/card")
def show_card(request: Request, session: ReadSession, person: Person, model_id: str) -> Response:
    """The model card as a page."""
    model = find_model(session, person.id, model_id)
    return render(request, CardView(model, blocks_of(card_of(session, model))))


def blocks_of(card: str) -> list[tuple[str, Any]]:
    """A card's Markdown as (kind, content): what our own cards are made of, headings, lists, tables and paragraphs."""
    blocks: list[tuple[str, Any]] = []
    for block in card.strip().split("\n\n"):
        lines = [line.replace("`", "") for line in block.split("\n")]
        if block.startswith("#"):
            blocks.append(("h2" if block.startswith("##") else "h1", lines[0].lstrip("# ")))
        elif block.startswith("- "):
            blocks.append(("list", [line.removeprefix("- ") for line in lines]))
        elif block.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            blocks.append(("table", [rows[0], *rows[2:]]))
        else:
            blocks.append(("p", " ".join(lines)))
    return blocks


@router.post("/{model_id}/labels")
def change_labels(session: WriteSession, person: Person, model_id: str, form: Fields) -> Response:
    """Change name, notes, tags."""
    model = find_model(session, person.id, model_id)
    write_labels(model, form)
    return see_other(f"/models/{model.id}")


@router.get("/{model_id}/delete")
def ask_delete(request: Request, session: ReadSession, person: Person, model_id: str) -> Response:
    """What would go, before it goes."""
    return render(request, DeleteView(find_model(session, person.id, model_id)))


@router.post("/{model_id}/delete")
def delete(session: WriteSession, person: Person, model_id: str) -> Response:
    """Put a model away; for a day it can be brought back."""
    model = find_model(session, person.id, model_id)
    put_away_model(session, model)
    return see_other(f"/models?deleted={model.id}")


@router.post("/{model_id}/restore")
def restore(session: WriteSession, person: Person, model_id: str) -> Response:
    """Undo the deletion."""
    return see_other(f"/models/{bring_back_model(session, person.id, model_id).id}")
