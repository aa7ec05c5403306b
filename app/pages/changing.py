"""A dataset's issues with the pictures side by side, changes by selection that make a version, and what differs between two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.dependencies import Person, ReadSession, TheHouse
from app.pages.forms import see_other
from app.reasons import ISSUES
from app.templating import View, render
from core import catalog, datasets, issues
from core.errors import FieldProblem, InputInvalid, NotFound
from core.new_version import change_version
from core.paging import Page
from core.tables import Dataset, DatasetVersion, VersionImage, VersionIssue
from core.version_changes import VersionChanges
from core.version_diff import Change, VersionDiff

router = APIRouter(prefix="/datasets", include_in_schema=False)
SHOWN = 24


@dataclass(frozen=True)
class Chosen:
    """A submitted form of changes: its single fields, and the pictures that were ticked."""

    fields: Mapping[str, str]
    image_ids: list[str]


async def _chosen(request: Request) -> Chosen:
    form = await request.form()
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return Chosen(fields, [one for one in form.getlist("image_ids") if isinstance(one, str)])


@dataclass(frozen=True)
class IssuesView(View):
    """Issues of one kind, or of all kinds."""

    template = "datasets/issues.html"
    nav = "datasets"
    dataset: Dataset
    version: DatasetVersion
    kind: str
    kinds: Mapping[str, tuple[str, str]]  # those that this version has
    words: Mapping[str, tuple[str, str]]  # of every kind: a check may add an issue of another while the page is made
    issues: Page[VersionIssue]
    places: Mapping[str, VersionImage]
    next_address: str | None


@dataclass(frozen=True)
class Compared:
    """Which two versions: without `after` the newest, without `before` the one that it was made from."""

    before: int | None = None
    after: int | None = None
    cursor: str = ""


@dataclass(frozen=True)
class DiffView(View):
    """What became different from one version to another."""

    template = "datasets/diff.html"
    nav = "datasets"
    dataset: Dataset
    before: DatasetVersion
    after: DatasetVersion
    versions: Sequence[DatasetVersion]
    diff: VersionDiff
    changes: Page[Change]
    next_address: str | None


@router.get("/{dataset_id}/issues")
def show_issues(
    request: Request,
    session: ReadSession,
    person: Person,
    dataset_id: str,
    version: int | None = None,
    kind: str = "",
    cursor: str = "",
) -> Response:
    """What is wrong or odd, with the pictures side by side."""
    dataset = datasets.find_dataset(session, person.id, dataset_id)
    shown = _numbered(session, dataset, version)
    page = issues.list_issues(session, shown, kind=kind or None, limit=SHOWN, cursor=cursor or None)
    places = catalog.images_by_id(session, shown.id, issues.pictures_of(page.items))
    address = _next(f"/datasets/{dataset.id}/issues", page.next_cursor, version=shown.number, kind=kind)
    there = {one: words for one, words in ISSUES.items() if shown.issues.get(one)}
    return render(request, IssuesView(dataset, shown, kind, there, ISSUES, page, places, address))


@router.get("/{dataset_id}/diff")
def show_diff(
    request: Request,
    session: ReadSession,
    person: Person,
    house: TheHouse,
    dataset_id: str,
    asked: Annotated[Compared, Depends()],
) -> Response:
    """What became different from one version to another."""
    dataset = datasets.find_dataset(session, person.id, dataset_id)
    new = _numbered(session, dataset, asked.after)
    old = _numbered(session, dataset, asked.before) if asked.before is not None else _base(session, dataset, new)
    page = house.differences.page(session, old, new, limit=SHOWN, cursor=asked.cursor or None)
    address = _next(f"/datasets/{dataset.id}/diff", page.next_cursor, before=old.number, after=new.number)
    versions = catalog.list_versions(session, dataset.id, catalog.Wish(limit=50)).items
    counted = house.differences.counted(session, old, new)
    return render(request, DiffView(dataset, old, new, versions, counted, page, address))


def _next(path: str, cursor: str | None, **query: Any) -> str | None:
    kept = {key: value for key, value in query.items() if value}
    return None if cursor is None else f"{path}?{urlencode({**kept, 'cursor': cursor})}"


def _numbered(session: Session, dataset: Dataset, number: int | None) -> DatasetVersion:
    if number is None:
        found = datasets.latest_version(session, dataset.id)
    else:
        mine = (DatasetVersion.dataset_id == dataset.id, DatasetVersion.number == number, datasets.SEEN)
        found = session.scalar(select(DatasetVersion).where(*mine))
    if found is None:
        raise NotFound("This dataset has no such version.")
    return found


def _base(session: Session, dataset: Dataset, version: DatasetVersion) -> DatasetVersion:
    base = session.get(DatasetVersion, version.base_version_id) if version.base_version_id else None
    return base or _numbered(session, dataset, max(1, version.number - 1))


@router.post("/{dataset_id}/changes")
def change(house: TheHouse, person: Person, dataset_id: str, chosen: Annotated[Chosen, Depends(_chosen)]) -> Response:
    """Make the next version as the form says, and show what became different."""
    with house.database.read() as session:
        dataset = datasets.find_dataset(session, person.id, dataset_id)
        base = datasets.base_of(session, dataset, chosen.fields.get("base_version_id"))
    version = change_version(house.database, base, _wanted(base, chosen))
    return see_other(f"/datasets/{dataset.id}/diff?before={base.number}&after={version.number}")


def _wanted(base: DatasetVersion, chosen: Chosen) -> VersionChanges:
    action, fields, ids = chosen.fields.get("action", ""), chosen.fields, chosen.image_ids
    if action in {"move", "relabel", "remove"} and not ids:
        raise _wrong("image_ids", "Choose at least one picture.", [])
    wishes: dict[str, Any] = {
        "move": {"move": [{"image_ids": ids, "split": fields.get("split", "")}]},
        "relabel": {"relabel": [{"image_ids": ids, "class_name": fields.get("class_name", "")}]},
        "remove": {"remove": ids},
        "rename": _renamed(base, fields.get("old_name", ""), fields.get("class_name", "").strip()),
        "resplit": {"resplit": _shares(fields)} if action == "resplit" else {},
        "restore": {},
    }
    if action not in wishes:
        raise _wrong("action", f"action: one of {', '.join(wishes)}. Received: {action[:40]!r}.", action[:40])
    try:
        return VersionChanges.model_validate(wishes[action])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        raise _wrong(
            ".".join(str(part) for part in first["loc"]), f"{message[:1].upper()}{message[1:]}.", None
        ) from error


def _renamed(base: DatasetVersion, old: str, new: str) -> dict[str, Any]:
    """A new name; one that another class has already means that the two become one."""
    if new in base.class_names and new != old:
        return {"merge": [{"class_names": [old, new], "into": new}]}
    return {"rename": {old: new}}


def _shares(fields: Mapping[str, str]) -> dict[str, Any]:
    try:
        parts = {name: float(fields.get(name, "")) / 100 for name in ("train", "validation", "test")}
        seed = int(fields.get("seed", "0"))
    except ValueError as error:
        raise _wrong("resplit", "Shares and seed must be numbers.", None) from error
    return {"fractions": parts, "seed": seed}


def _wrong(field: str, message: str, received: object) -> InputInvalid:
    return InputInvalid(message, problems=(FieldProblem(field, message, received),))
