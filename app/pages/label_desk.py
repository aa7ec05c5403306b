"""The label desk: one doubtful label at a time, decided by a key or a button; the next version; what it brought on the test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from app.dependencies import Person, ReadSession, TheHouse, WriteSession
from app.pages.forms import Fields, see_other
from app.templating import View, render
from core import catalog, label_desk
from core.comparison import Paired, paired
from core.datasets import SEEN, find_dataset, latest_version
from core.errors import NotFound
from core.label_desk import Doubt, Progress, newest_quick_run
from core.tables import (
    Dataset,
    DatasetVersion,
    Decision,
    LabelCheck,
    LabelCheckStatus,
    Run,
    RunStatus,
    Split,
    VersionImage,
)

router = APIRouter(prefix="/datasets/{dataset_id}/label-desk", include_in_schema=False)
DECIDED = 12


@dataclass(frozen=True)
class Place:
    """Which version (None: the newest), and the rank or ordinal that is shown (None: the first that nobody has decided)."""

    version: int | None = None
    at: int | None = None


@dataclass(frozen=True)
class Gain:
    """What the changed labels brought: the quick preset on the version before and on this one, on the same test.

    Attributes:
        before, after: runs; None where there is none yet.
        same_test: False when test labels were changed in between.
        paired: picture by picture, once both have ended well.
    """

    base: DatasetVersion
    before: Run | None
    after: Run | None
    same_test: bool
    paired: Paired | None

    @property
    def going(self) -> bool:
        """True while one of them has not ended."""
        return any(run and run.status in {RunStatus.QUEUED, RunStatus.RUNNING} for run in (self.before, self.after))


@dataclass(frozen=True)
class DeskView(View):
    """The desk at one version."""

    template = "label_desk/desk.html"
    nav = "datasets"
    dataset: Dataset
    version: DatasetVersion
    check: LabelCheck | None
    searching: bool
    progress: Progress
    doubt: Doubt | None
    sharp: bool  # somebody makes large pictures
    next_at: int | None
    decided: Sequence[Doubt]
    gain: Gain | None


@dataclass(frozen=True)
class TestView(View):
    """One test picture with its label, and no opinion of any model."""

    template = "label_desk/test.html"
    nav = "datasets"
    dataset: Dataset
    version: DatasetVersion
    place: VersionImage | None
    sharp: bool  # somebody makes large pictures
    count: int
    looked_at: int
    pending: int


def _version(session: Session, dataset: Dataset, number: int | None) -> DatasetVersion:
    version = latest_version(session, dataset.id)
    if number is not None:
        mine = (DatasetVersion.dataset_id == dataset.id, DatasetVersion.number == number, SEEN)
        version = session.scalar(select(DatasetVersion).where(*mine))
    if version is None:
        raise NotFound(f'There is no version {number or 1} of "{dataset.name}".')
    return version


@router.get("")
def show(
    request: Request, session: ReadSession, person: Person, dataset_id: str, place: Annotated[Place, Depends()]
) -> Response:
    """The desk."""
    dataset = find_dataset(session, person.id, dataset_id)
    version = _version(session, dataset, place.version)
    check = label_desk.find_check(session, version)
    doubt, next_at, decided = None, None, []
    if check is not None and check.status == LabelCheckStatus.READY:
        doubt, next_at = _shown(session, version, check, place.at)
        decided = label_desk.last_decided(session, version, check, limit=DECIDED)
    return render(
        request,
        DeskView(
            dataset=dataset,
            version=version,
            check=check,
            searching=check is not None and check.status in {LabelCheckStatus.QUEUED, LabelCheckStatus.CHECKING},
            progress=label_desk.progress(session, version, check),
            doubt=doubt,
            sharp=catalog.predictor_lives(session),
            next_at=next_at,
            decided=decided,
            gain=gain_of(session, version),
        ),
    )


def _shown(
    session: Session, version: DatasetVersion, check: LabelCheck, at: int | None
) -> tuple[Doubt | None, int | None]:
    """The doubt to show (from rank `at` on the first that nobody has decided), and the rank to skip to."""
    found = label_desk.doubts_from(session, version, check, rank=at or 0, limit=2)
    if not found and at:  # skipped to the end: begin again
        found = label_desk.doubts_from(session, version, check, rank=0, limit=2)
    if not found:
        return None, None
    return found[0], found[1].suggestion.rank if len(found) > 1 else None


def gain_of(session: Session, version: DatasetVersion) -> Gain | None:
    """What this version brought against the one it was made from; None where it was not made from one."""
    base = session.get(DatasetVersion, version.base_version_id) if version.base_version_id else None
    if base is None:
        return None
    before, after = newest_quick_run(session, base.id), newest_quick_run(session, version.id)
    same = base.test_fingerprint == version.test_fingerprint and base.class_names == version.class_names
    found = paired(session, before, after) if before and after and same else None
    return Gain(base, before, after, same, found)


@router.post("/check")
def look_for_errors(session: WriteSession, person: Person, house: TheHouse, dataset_id: str, form: Fields) -> Response:
    """Look for label errors."""
    version = _version_of(session, person.id, dataset_id, form)
    label_desk.request_check(session, house.queue, version)
    return _back(version)


@router.post("/stop")
def stop_looking(session: WriteSession, person: Person, dataset_id: str, form: Fields) -> Response:
    """Stop looking."""
    version = _version_of(session, person.id, dataset_id, form)
    check = label_desk.find_check(session, version)
    if check is not None:
        label_desk.cancel_check(session, check)
    return _back(version)


@router.post("/decide")
def decide(session: WriteSession, person: Person, dataset_id: str, form: Fields) -> Response:
    """Write down a decision, or take one back, and go on from there: what was skipped stays skipped."""
    version = _version_of(session, person.id, dataset_id, form)
    image_id, said = form.get("image_id", ""), form.get("decision", "")
    if said == "forget":
        label_desk.take_back(session, version, image_id)
    else:
        decision = Decision.DISMISS if said == Decision.DISMISS else Decision.RELABEL
        wanted = None if decision == Decision.DISMISS else form.get("class_name")
        label_desk.decide(session, version, image_id, decision, wanted)
    return _back(version, "/test" if form.get("test") else "", at=_number(form, "at"))


@router.post("/apply")
def apply(house: TheHouse, person: Person, dataset_id: str, form: Fields) -> Response:
    """Make the next version."""
    with house.database.read() as session:
        version = _version_of(session, person.id, dataset_id, form)
    return _back(label_desk.apply_decisions(house.database, version, test=bool(form.get("test"))))


@router.post("/train")
def train_again(session: WriteSession, person: Person, house: TheHouse, dataset_id: str, form: Fields) -> Response:
    """Train the quick preset on this version, and on the one before where that was not done."""
    version = _version_of(session, person.id, dataset_id, form)
    label_desk.train_again(session, house.queue, version)
    return _back(version)


@router.get("/test")
def review_test(
    request: Request, session: ReadSession, person: Person, dataset_id: str, place: Annotated[Place, Depends()]
) -> Response:
    """The next test picture that nobody has looked at."""
    dataset = find_dataset(session, person.id, dataset_id)
    version = _version(session, dataset, place.version)
    shown = label_desk.next_test_place(session, version, -1 if place.at is None else place.at)
    if shown is None and place.at is not None:  # skipped to the end: begin again
        shown = label_desk.next_test_place(session, version)
    return render(
        request,
        TestView(
            dataset=dataset,
            version=version,
            place=shown,
            sharp=catalog.predictor_lives(session),
            count=sum(counts[Split.TEST.value] for counts in version.counts.values()),
            looked_at=label_desk.test_looked_at(session, version),
            pending=label_desk.progress(session, version, None).pending_test,
        ),
    )


def _version_of(session: Session, owner_id: str, dataset_id: str, form: dict[str, str]) -> DatasetVersion:
    dataset = find_dataset(session, owner_id, dataset_id)
    return _version(session, dataset, _number(form, "version"))


def _number(form: dict[str, str], name: str) -> int | None:
    value = form.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 9 else None


def _back(version: DatasetVersion, page: str = "", *, at: int | None = None) -> RedirectResponse:
    place = "" if at is None else f"&at={at}"
    return see_other(f"/datasets/{version.dataset_id}/label-desk{page}?version={version.number}{place}")
