"""Text of requests, lists, problems: what every part of the contract uses."""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Item = TypeVar("Item")


def _storable(text: str) -> str:
    # lone surrogates cannot be written as UTF-8, and PostgreSQL stores no NUL
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds a character that is none (NUL or half of a surrogate pair)")
    return text


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Notes = Annotated[Text, Field(max_length=20_000)]
Tag = Annotated[Text, Field(min_length=1, max_length=80)]

Tags = Annotated[list[Tag], Field(max_length=50)]


class Given(BaseModel):
    """Base of everything that comes in."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Listed(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` goes into `?cursor=` of the next request, null at the end."""

    items: list[Item]
    next_cursor: str | None = None


class WrongField(BaseModel):
    """One thing that is wrong with the input."""

    field: str
    message: str
    received: Any = None


class ProblemBody(BaseModel):
    """RFC 9457. `request_id` is set for unexpected errors."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[WrongField] | None = None
    request_id: str | None = None
