"""Uploaded weights."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel


class WeightsOut(BaseModel):
    """Uploaded weights, and how they compare with the backbone, rejected ones too.

    `matched` counts arrays, `missing` names every one that the file has not in its shape; `unexpected` names the first 200 of the
    `unexpected_count` arrays that the backbone has no place for (a top). `matched_by`: "name", or "order" where names told nothing;
    `form`: "plain", or "folded" as Thaw exports.
    """

    id: str
    backbone: str
    filename: str
    size_bytes: int
    status: Literal["checking", "ready", "rejected"]
    matched: int
    missing: list[str]
    unexpected: list[str]
    unexpected_count: int
    matched_by: str | None
    form: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None
