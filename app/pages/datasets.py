"""Datasets: the list, one dataset with its upload, receipt, classes and pictures, and its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from app.dependencies import Person, ReadSession, SettingsOf, TheHouse, WriteSession
from app.pages.cards import DatasetCard, RunRow, UploadRow, dataset_cards, run_rows, upload_row
from app.pages.forms import Fields, see_other
from app.pages.labels import Labels, labels_of, write_labels
from app.pages.paging import Place
from app.reasons import ISSUES, in_words
from app.templating import View, render
from core import uploads
from core.catalog import Wish, latest_versions, list_datasets, list_runs, list_uploads, list_versions
from core.catalog import receipt_rows as receipt_page
from core.catalog import version_images as version_pictures
from core.config import Settings
from core.datasets import delete_dataset, find_dataset
from core.freeing import bytes_to_free
from core.paging import Page
from core.tables import (
    Dataset,
    DatasetVersion,
    Outcome,
    ReceiptRow,
    Run,
    Split,
    Upload,
    UploadStatus,
    VersionImage,
)

router = APIRouter(prefix="/datasets", include_in_schema=False)
PICTURES = 36
SAMPLE_PRESET = "standard"
FILES = 100
ON_THE_WAY = frozenset({UploadStatus.RECEIVING, UploadStatus.RECEIVED, UploadStatus.INGESTING})


@dataclass(frozen=True)
class ListView(View):
    """The datasets of a person."""

    template = "datasets/list.html"
    nav = "datasets"
    settings: Settings
    cards: Sequence[DatasetCard]
    search: str
    sort: str
    next_address: str | None
    previous_address: str | None


@dataclass(frozen=True)
class ListFilters:
    """Which datasets are shown, and in what order."""

    search: str = ""
    sort: str = "-created_at"
    cursor: str = ""
    back: str = ""


@dataclass(frozen=True)
class ClassRow:
    """A class with its pictures per split and the ends of its bar in per cent of the largest class."""

    name: str
    counts: dict[str, int]
    total: int
    ends: tuple[float, float, float]


@dataclass(frozen=True)
class Filters:
    """Which version (None: the newest) and which of its pictures are shown."""

    version: int | None = None
    class_name: str = ""
    split: str = ""
    issue: str = ""
    cursor: str = ""


@dataclass(frozen=True)
class DetailView(View):
    """One dataset at one version."""

    template = "datasets/detail.html"
    nav = "datasets"
    settings: Settings
    dataset: Dataset
    labels: Labels
    version: DatasetVersion | None
    versions: Sequence[DatasetVersion]
    classes: Sequence[ClassRow]
    totals: dict[str, int]
    upload: Upload | None
    upload_row: UploadRow | None
    reasons: Sequence[tuple[str, int]]
    issues: Sequence[tuple[str, str, int]]
    is_newest: bool
    pictures: Page[VersionImage] | None
    filters: Filters
    next_address: str | None
    runs: Sequence[RunRow]


@dataclass(frozen=True)
class UploadView(View):
    """The progress of one upload; without a poll in it once it has ended. `run`: begun on it by itself, where to go on."""

    template = "datasets/_upload.html"
    upload: Upload
    upload_row: UploadRow
    run: Run | None


@dataclass(frozen=True)
class ReceiptView(View):
    """Every file of an upload and what became of it."""

    template = "datasets/receipt.html"
    nav = "datasets"
    dataset: Dataset
    upload: Upload
    rows: Sequence[ReceiptRow]
    outcomes: Sequence[Outcome]
    outcome: str
    next_address: str | None


@dataclass(frozen=True)
class DeleteView(View):
    """What deleting a dataset takes away, before it happens."""

    template = "datasets/delete.html"
    nav = "datasets"
    dataset: Dataset
    runs: int
    freed: tuple[int, int] | None  # pictures and their bytes; None: too many to count


@router.get("")
def show_list(
    request: Request,
    session: ReadSession,
    person: Person,
    settings: SettingsOf,
    asked: Annotated[ListFilters, Depends()],
) -> Response:
    """The list of datasets."""
    page = list_datasets(
        session, person.id, Wish(limit=24, cursor=asked.cursor or None, sort=asked.sort, search=asked.search)
    )
    cards = dataset_cards(session, page.items)
    addresses = Place(asked.cursor, asked.back).addresses(
        page.next_cursor, lambda **place: _address("/datasets", search=asked.search, sort=asked.sort, **place)
    )
    return render(request, ListView(settings=settings, cards=cards, search=asked.search, sort=asked.sort, **addresses))


def _next(path: str, cursor: str | None, **query: str) -> str | None:
    return None if cursor is None else _address(path, **query, cursor=cursor)


def _address(path: str, **query: str) -> str:
    return f"{path}?{urlencode({key: value for key, value in query.items() if value})}"


@router.post("/samples")
def make_sample(session: WriteSession, person: Person, house: TheHouse) -> Response:
    """A set that Thaw draws itself, with a run on it as soon as it is ready: the whole story without own pictures."""
    upload = uploads.make_sample(session, house.queue, person.id, seed=None, train_preset=SAMPLE_PRESET)
    return see_other(f"/datasets/{upload.dataset_id}")


@router.get("/{dataset_id}")
def show(
    request: Request,
    session: ReadSession,
    person: Person,
    settings: SettingsOf,
    dataset_id: str,
    filters: Annotated[Filters, Depends()],
) -> Response:
    """One dataset."""
    dataset = find_dataset(session, person.id, dataset_id)
    return render(request, detail_view(session, dataset, settings, filters))


def detail_view(session: Session, dataset: Dataset, settings: Settings, filters: Filters) -> DetailView:
    """Read what the page of a dataset shows."""
    versions = list_versions(session, dataset.id, Wish(limit=20)).items
    version = _chosen(session, dataset, versions, filters.version)
    newest = list_uploads(session, dataset.id, limit=1)
    upload = newest[0] if newest else None
    classes = class_rows(version) if version else []
    pictures = _pictures(session, version, filters) if version else None
    query = {
        "class_name": filters.class_name,
        "split": filters.split,
        "issue": filters.issue,
        "version": str(filters.version or ""),
    }
    return DetailView(
        settings=settings,
        dataset=dataset,
        labels=labels_of(dataset),
        version=version,
        versions=versions,
        classes=classes,
        totals={split.value: sum(row.counts[split.value] for row in classes) for split in Split},
        upload=upload,
        upload_row=upload_row(upload, dataset.name) if upload and upload.status in ON_THE_WAY else None,
        reasons=reasons(upload) if upload else [],
        issues=issue_counts(version) if version else [],
        is_newest=version is None or all(one.number <= version.number for one in versions),
        pictures=pictures,
        filters=filters,
        next_address=_next(f"/datasets/{dataset.id}", pictures.next_cursor, **query) if pictures else None,
        runs=run_rows(session, list_runs(session, dataset.owner_id, Wish(limit=5), dataset_id=dataset.id).items),
    )


def _chosen(
    session: Session, dataset: Dataset, versions: Sequence[DatasetVersion], number: int | None
) -> DatasetVersion | None:
    if number is None:
        return latest_versions(session, [dataset.id]).get(dataset.id)
    return next((one for one in versions if one.number == number), None) or next(iter(versions), None)


def _pictures(session: Session, version: DatasetVersion, filters: Filters) -> Page[VersionImage]:
    return version_pictures(
        session,
        version,
        class_name=filters.class_name or None,
        split=filters.split or None,
        issue=filters.issue or None,
        limit=PICTURES,
        cursor=filters.cursor or None,
    )


def issue_counts(version: DatasetVersion) -> list[tuple[str, str, int]]:
    """(kind, its title, how many) of what is wrong or odd in a version, worst first."""
    return [(kind, title, version.issues[kind]) for kind, (title, _) in ISSUES.items() if version.issues.get(kind)]


def class_rows(version: DatasetVersion) -> list[ClassRow]:
    """The classes of a version with the ends of their bars."""
    totals = {name: sum(version.counts[name].values()) for name in version.class_names}
    largest = max(totals.values(), default=1) or 1
    rows = []
    for name in version.class_names:
        counts: dict[str, int] = version.counts[name]
        train = counts["train"] / largest * 100
        validation = train + counts["validation"] / largest * 100
        rows.append(ClassRow(name, counts, totals[name], (train, validation, totals[name] / largest * 100)))
    return rows


def reasons(upload: Upload) -> list[tuple[str, int]]:
    """(reason, files) of a receipt, most frequent first."""
    found: dict[str, Any] = upload.by_reason
    return sorted(((in_words(code), int(count)) for code, count in found.items()), key=lambda pair: -pair[1])


@router.get("/{dataset_id}/uploads/{upload_id}")
def show_upload(request: Request, session: ReadSession, person: Person, dataset_id: str, upload_id: str) -> Response:
    """The progress of an upload, which the dataset's page asks for every second."""
    upload = uploads.find_upload(session, person.id, upload_id)
    dataset = find_dataset(session, person.id, dataset_id)
    run = None
    if upload.train_preset and upload.status == UploadStatus.READY:
        run = next(iter(list_runs(session, person.id, Wish(limit=1), dataset_id=dataset.id).items), None)
    return render(request, UploadView(upload, upload_row(upload, dataset.name), run))


@router.get("/{dataset_id}/uploads/{upload_id}/receipt")
def show_receipt(
    request: Request,
    session: ReadSession,
    person: Person,
    dataset_id: str,
    upload_id: str,
    outcome: str = "",
    cursor: str = "",
) -> Response:
    """Every file of an upload."""
    dataset = find_dataset(session, person.id, dataset_id)
    upload = uploads.find_upload(session, person.id, upload_id)
    page = receipt_page(session, upload.id, outcome=outcome or None, limit=FILES, cursor=cursor or None)
    address = _next(f"/datasets/{dataset.id}/uploads/{upload.id}/receipt", page.next_cursor, outcome=outcome)
    return render(request, ReceiptView(dataset, upload, page.items, list(Outcome), outcome, address))


@router.post("/{dataset_id}/labels")
def change_labels(session: WriteSession, person: Person, dataset_id: str, form: Fields) -> Response:
    """Change name, description, tags."""
    dataset = find_dataset(session, person.id, dataset_id)
    write_labels(dataset, form)
    return RedirectResponse(f"/datasets/{dataset.id}", 303)


@router.get("/{dataset_id}/delete")
def ask_delete(request: Request, session: ReadSession, person: Person, dataset_id: str) -> Response:
    """What would go, before it goes."""
    dataset = find_dataset(session, person.id, dataset_id)
    count = session.scalar(select(func.count()).select_from(Run).where(Run.dataset_id == dataset.id)) or 0
    return render(request, DeleteView(dataset, count, bytes_to_free(session, dataset)))


@router.post("/{dataset_id}/delete")
def delete(session: WriteSession, person: Person, dataset_id: str) -> Response:
    """Delete a dataset; its runs and models stay."""
    delete_dataset(session, find_dataset(session, person.id, dataset_id), force=True)
    return RedirectResponse("/datasets", 303)
