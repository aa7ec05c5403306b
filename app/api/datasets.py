"""Datasets, their versions and pictures."""

import shutil
from typing import Annotated
from urllib.parse import quote

from fastapi import Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, StreamingResponse

from app.api.routing import CreatingRoute, Pages, Sorted, api_router
from app.api.schemas.base import Listed
from app.api.schemas.datasets import (
    DatasetIn,
    DatasetOut,
    DatasetPatch,
    DiffOut,
    ImageOut,
    IssueOut,
    VersionIn,
    VersionOut,
)
from app.api.schemas.uploads import UploadOut
from app.dependencies import Person, ReadSession, SettingsOf, TheHouse, WriteSession
from app.displaying import display, sha256_of
from app.presenting import API, dataset_out, diff_out, image_out, issue_out, upload_out, version_out
from app.version_zip import VersionZip
from core import catalog, datasets, issues
from core.database import after_commit
from core.new_version import change_version
from core.storage import blob_key, thumbnail_key, thumbnail_type
from core.tables import Dataset, Upload, utc_now
from core.uploads import incoming_folder

router = api_router("datasets", CreatingRoute)
KEEP_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def _with_latest(session: Session, dataset: Dataset) -> DatasetOut:
    return dataset_out(dataset, datasets.latest_version(session, dataset.id))


@router.get("/datasets")
def list_datasets(session: ReadSession, person: Person, asked: Sorted) -> Listed[DatasetOut]:
    """One's datasets; sorts: created_at, name."""
    page = catalog.list_datasets(session, person.id, asked.wish())
    latest = catalog.latest_versions(session, [one.id for one in page.items])
    items = [dataset_out(one, latest.get(one.id)) for one in page.items]
    return Listed(items=items, next_cursor=page.next_cursor)


@router.post("/datasets", status_code=201)
def make_dataset(given: DatasetIn, session: WriteSession, person: Person, response: Response) -> DatasetOut:
    """Make an empty dataset."""
    dataset = datasets.create_dataset(session, person.id, given.name, given.description)
    response.headers["Location"] = f"{API}/datasets/{dataset.id}"
    return dataset_out(dataset, None)


@router.get("/datasets/{dataset_id}")
def read_dataset(dataset_id: str, session: ReadSession, person: Person) -> DatasetOut:
    """A dataset with its newest version."""
    return _with_latest(session, datasets.find_dataset(session, person.id, dataset_id))


@router.patch("/datasets/{dataset_id}")
def change_dataset(dataset_id: str, given: DatasetPatch, session: WriteSession, person: Person) -> DatasetOut:
    """Change a dataset's name, description or tags."""
    dataset = datasets.find_dataset(session, person.id, dataset_id)
    if given.name is not None:
        dataset.name = datasets.checked_name(given.name)
    if given.description is not None:
        dataset.description = given.description
    if given.tags is not None:
        dataset.tags = datasets.checked_tags(given.tags)
    dataset.updated_at = utc_now()
    return _with_latest(session, dataset)


@router.delete("/datasets/{dataset_id}", status_code=204)
def delete_dataset(
    dataset_id: str,
    session: WriteSession,
    person: Person,
    settings: SettingsOf,
    force: Annotated[bool, Query(description="Delete it although runs use it.")] = False,
) -> None:
    """Delete a dataset; its runs and models stay."""
    dataset = datasets.find_dataset(session, person.id, dataset_id)
    received = session.scalars(select(Upload.id).where(Upload.dataset_id == dataset.id)).all()
    datasets.delete_dataset(session, dataset, force=force)
    for upload_id in received:
        folder = incoming_folder(settings, upload_id)
        after_commit(session, lambda folder=folder: shutil.rmtree(folder, ignore_errors=True))  # type: ignore[misc]


@router.get("/datasets/{dataset_id}/uploads")
def list_uploads(
    dataset_id: str, session: ReadSession, person: Person, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Listed[UploadOut]:
    """The newest uploads of a dataset."""
    dataset = datasets.find_dataset(session, person.id, dataset_id)
    return Listed(items=[upload_out(one) for one in catalog.list_uploads(session, dataset.id, limit)])


@router.get("/datasets/{dataset_id}/versions")
def list_versions(dataset_id: str, session: ReadSession, person: Person, paging: Pages) -> Listed[VersionOut]:
    """The versions of a dataset, newest first."""
    dataset = datasets.find_dataset(session, person.id, dataset_id)
    wish = catalog.Wish(limit=paging.limit, cursor=paging.cursor)
    page = catalog.list_versions(session, dataset.id, wish)
    return Listed(items=[version_out(one) for one in page.items], next_cursor=page.next_cursor)


@router.post("/datasets/{dataset_id}/versions", status_code=201)
def make_version(dataset_id: str, given: VersionIn, house: TheHouse, person: Person, response: Response) -> VersionOut:
    """Move, relabel or remove pictures, rename or merge classes, split again: the next version; the base stays as it is."""
    with house.database.read() as session:
        dataset = datasets.find_dataset(session, person.id, dataset_id)
        base = datasets.base_of(session, dataset, given.base_version_id)
    version = change_version(house.database, base, given.changes)
    response.headers["Location"] = f"{API}/dataset-versions/{version.id}"
    return version_out(version)


@router.get("/dataset-versions/{version_id}/diff")
def read_diff(
    version_id: str,
    session: ReadSession,
    person: Person,
    house: TheHouse,
    paging: Pages,
    to: Annotated[
        str | None, Query(max_length=36, description="The other version; without it the newest of the dataset.")
    ] = None,
) -> DiffOut:
    """What became different from this version to the other one: counts, and the pictures in pages."""
    before = datasets.find_version(session, person.id, version_id)
    newest = datasets.latest_version(session, before.dataset_id)
    after = datasets.find_version(session, person.id, to) if to is not None else newest or before
    page = house.differences.page(session, before, after, limit=paging.limit, cursor=paging.cursor)
    return diff_out(before, after, house.differences.counted(session, before, after), page)


@router.get("/dataset-versions/{version_id}")
def read_version(version_id: str, session: ReadSession, person: Person) -> VersionOut:
    """A frozen list of pictures: its classes, counts and fingerprints."""
    return version_out(datasets.find_version(session, person.id, version_id))


@router.get(
    "/dataset-versions/{version_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def export_version(version_id: str, person: Person, house: TheHouse) -> StreamingResponse:
    """The version as a ZIP archive: every picture as it was uploaded, and `manifest.csv`. Uploaded again it makes the same fingerprint."""
    with house.database.read() as session:  # closed before the archive is laid out, which takes long for many pictures
        version = datasets.find_version(session, person.id, version_id)
        dataset = datasets.find_dataset(session, person.id, version.dataset_id)
    archive = VersionZip(house.database, house.storage, dataset, version)
    named = quote(f"{dataset.name} {version.number}.zip", safe="")
    headers = {
        "Content-Length": str(archive.size),
        "Content-Disposition": f"attachment; filename=\"dataset-version-{version.number}.zip\"; filename*=UTF-8''{named}",
    }
    return StreamingResponse(archive.stream(), media_type="application/zip", headers=headers)


@router.get("/dataset-versions/{version_id}/issues")
def read_issues(
    version_id: str,
    session: ReadSession,
    person: Person,
    paging: Pages,
    kind: Annotated[str | None, Query(max_length=20, description="Only this kind, e.g. leaks.")] = None,
) -> Listed[IssueOut]:
    """Duplicates, leaks, label conflicts and odd pictures of a version, with their pictures."""
    version = datasets.find_version(session, person.id, version_id)
    page = issues.list_issues(session, version, kind=kind, limit=paging.limit, cursor=paging.cursor)
    places = catalog.images_by_id(session, version.id, issues.pictures_of(page.items))
    items = [issue_out(one, places, version.class_names) for one in page.items]
    return Listed(items=items, next_cursor=page.next_cursor)


@router.get("/dataset-versions/{version_id}/images")
def list_images(
    version_id: str,
    session: ReadSession,
    person: Person,
    paging: Pages,
    class_name: Annotated[str | None, Query(max_length=1024)] = None,
    split: Annotated[str | None, Query(max_length=20, description="train, validation or test")] = None,
    issue: Annotated[str | None, Query(max_length=20, description="A kind of issue: pictures that are in one.")] = None,
) -> Listed[ImageOut]:
    """The pictures of a version, in its order."""
    version = datasets.find_version(session, person.id, version_id)
    page = catalog.version_images(
        session, version, class_name=class_name, split=split, issue=issue, limit=paging.limit, cursor=paging.cursor
    )
    items = [image_out(one, version.class_names) for one in page.items]
    return Listed(items=items, next_cursor=page.next_cursor)


@router.get(
    "/images/{image_id}/thumbnail",
    response_class=FileResponse,
    responses={
        200: {
            "content": {"image/jpeg": {}, "image/webp": {}},
            "description": "At most 400 pixels, encoded by Thaw; WebP where an older version did.",
        }
    },
)
def thumbnail(image_id: str, session: ReadSession, person: Person, house: TheHouse) -> FileResponse:
    """The small picture; never a byte of the original."""
    image = catalog.find_image(session, person.id, image_id)
    path = house.storage.local(thumbnail_key(image.sha256))
    return FileResponse(path, media_type=thumbnail_type(path), headers=KEEP_FOR_EVER)


@router.get(
    "/images/{image_id}/display",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "At most 1,600 pixels, encoded by Thaw."},
        304: {"description": "The client has this picture already (`If-None-Match`)."},
    },
)
async def large_picture(image_id: str, request: Request, person: Person, house: TheHouse) -> Response:
    """The large picture for looking at, made when it is asked for; never a byte of the original."""
    sha256 = await run_in_threadpool(sha256_of, house, person.id, image_id)
    headers = {**KEEP_FOR_EVER, "ETag": f'"{sha256}-display"'}
    if headers["ETag"] in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(await display(house, sha256), media_type="image/jpeg", headers=headers)


@router.get(
    "/images/{image_id}/original",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes that were uploaded."}},
)
def original(image_id: str, session: ReadSession, person: Person, house: TheHouse) -> FileResponse:
    """The original, as a download only."""
    image = catalog.find_image(session, person.id, image_id)
    path = house.storage.local(blob_key(image.sha256))
    name = f"{image.sha256[:16]}.{image.format.lower()}"
    return FileResponse(path, media_type="application/octet-stream", filename=name, headers=KEEP_FOR_EVER)
