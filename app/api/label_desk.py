"""The label desk over REST: look for label errors, decide, make the next version."""

from typing import Annotated

from fastapi import Query, Response
from sqlalchemy.orm import Session

from app.api.routing import CreatingRoute, Pages, api_router
from app.api.schemas.datasets import VersionOut
from app.api.schemas.label_desk import (
    LabelCounts,
    LabelDecisionsIn,
    LabelProgress,
    LabelsAppliedIn,
    LabelSuggestionOut,
    LabelSuggestionsOut,
)
from app.dependencies import Person, ReadSession, TheHouse, WriteSession
from app.presenting import API, thumbnail_url, version_out
from core import datasets, label_desk
from core.label_desk import Doubt
from core.paging import Page
from core.tables import DatasetVersion, Decision

router = api_router("label desk", CreatingRoute)


def _counts(session: Session, version: DatasetVersion) -> LabelCounts:
    found = label_desk.progress(session, version, label_desk.find_check(session, version))
    return LabelCounts(likely=found.likely, open=found.open, pending=found.pending, pending_test=found.pending_test)


def _out(session: Session, version: DatasetVersion, page: Page[Doubt]) -> LabelSuggestionsOut:
    check = label_desk.find_check(session, version)
    return LabelSuggestionsOut(
        status="none" if check is None else check.status.value,
        progress=LabelProgress.model_validate(check.progress if check else {}),
        summary=check.summary if check else {},
        error=check.error if check else None,
        counts=_counts(session, version),
        items=[_doubt_out(one) for one in page.items],
        next_cursor=page.next_cursor,
    )


def _doubt_out(one: Doubt) -> LabelSuggestionOut:
    said = one.suggestion
    return LabelSuggestionOut(
        rank=said.rank,
        image_id=said.image_id,
        filename=one.place.filename,
        split=one.place.split.value,
        given_class=said.given_class,
        suggested_class=said.suggested_class,
        given_probability=said.given_probability,
        suggested_probability=said.suggested_probability,
        likely=said.likely,
        decision=one.decision.decision.value if one.decision else None,
        decided_class=one.decision.class_name if one.decision else None,
        thumbnail_url=thumbnail_url(said.image_id),
    )


@router.get("/dataset-versions/{version_id}/label-suggestions")
def read_suggestions(
    version_id: str,
    session: ReadSession,
    person: Person,
    paging: Pages,
    decided: Annotated[
        bool | None, Query(description="Only those that a person has (has not) said something of.")
    ] = None,
    likely: Annotated[bool | None, Query(description="Only likely errors; false: only the next in the list.")] = None,
) -> LabelSuggestionsOut:
    """Doubtful labels of train and validation, the least believable first. Test pictures are never in it."""
    version = datasets.find_version(session, person.id, version_id)
    check = label_desk.find_check(session, version)
    page: Page[Doubt] = Page([], None)
    if check is not None:
        page = label_desk.doubts(
            session, version, check, decided=decided, likely=likely, limit=paging.limit, cursor=paging.cursor
        )
    return _out(session, version, page)


@router.post("/dataset-versions/{version_id}/label-suggestions", status_code=202)
def look_for_errors(version_id: str, session: WriteSession, person: Person, house: TheHouse) -> LabelSuggestionsOut:
    """Look for label errors, unless that is done or going on; a search that failed is begun again."""
    version = datasets.find_version(session, person.id, version_id)
    label_desk.request_check(session, house.queue, version)
    return _out(session, version, Page([], None))


@router.delete("/dataset-versions/{version_id}/label-suggestions", status_code=204)
def stop_looking(version_id: str, session: WriteSession, person: Person) -> None:
    """Stop a search that waits or is going on."""
    check = label_desk.find_check(session, datasets.find_version(session, person.id, version_id))
    if check is not None:
        label_desk.cancel_check(session, check)


@router.post("/dataset-versions/{version_id}/label-decisions")
def decide(version_id: str, given: LabelDecisionsIn, session: WriteSession, person: Person) -> LabelCounts:
    """Write down what a person says of labels. Kept for all versions of the dataset; nothing changes before it is applied."""
    version = datasets.find_version(session, person.id, version_id)
    for one in given.decisions:
        if one.decision == "forget":
            label_desk.take_back(session, version, one.image_id)
        else:
            label_desk.decide(session, version, one.image_id, Decision(one.decision), one.class_name)
    return _counts(session, version)


@router.post("/dataset-versions/{version_id}/label-decisions/apply", status_code=201)
def apply(version_id: str, given: LabelsAppliedIn, house: TheHouse, person: Person, response: Response) -> VersionOut:
    """Make the next version with the changed labels of train and validation, or with those of test (then the test is another one)."""
    with house.database.read() as session:
        base = datasets.find_version(session, person.id, version_id)
    version = label_desk.apply_decisions(house.database, base, test=given.test)
    response.headers["Location"] = f"{API}/dataset-versions/{version.id}"
    return version_out(version)
