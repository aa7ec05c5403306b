"""The label desk: suggestions and decisions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.schemas.base import Given, Text


class LabelProgress(BaseModel):
    """What a search for label errors is doing."""

    message: str = ""
    done: int = 0
    total: int = 0


class LabelDecisionIn(Given):
    """What a person says of a picture's label. `relabel` needs the class it goes to; `forget` takes back what was said."""

    image_id: Annotated[Text, Field(max_length=36)]
    decision: Literal["relabel", "dismiss", "forget"]
    class_name: Annotated[Text, Field(max_length=200)] | None = None


class LabelDecisionsIn(Given):
    """What a person says of some labels."""

    decisions: list[LabelDecisionIn] = Field(default_factory=list, max_length=200)


class LabelsAppliedIn(Given):
    """Which changed labels make the next version: those of train and validation, or (a new test then) those of test."""

    test: bool = False


class LabelSuggestionOut(BaseModel):
    """A label that is doubtful. Probabilities are those of heads that have not seen the picture."""

    rank: int
    image_id: str
    filename: str
    split: str
    given_class: str
    suggested_class: str
    given_probability: float
    suggested_probability: float
    likely: bool
    decision: str | None
    decided_class: str | None
    thumbnail_url: str


class LabelCounts(BaseModel):
    """How far a person is: `pending` pictures of train and validation, and `pending_test` ones of test, wait to go to another class."""

    likely: int
    open: int
    pending: int
    pending_test: int


class LabelSuggestionsOut(BaseModel):
    """The search for label errors of a version, and one page of what it has found, the least believable label first."""

    status: Literal["none", "queued", "checking", "ready", "failed", "cancelled"]
    progress: LabelProgress
    summary: dict[str, Any]
    error: str | None
    counts: LabelCounts
    items: list[LabelSuggestionOut]
    next_cursor: str | None
