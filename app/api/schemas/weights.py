"""Uploaded weights."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel


class WeightsOut(BaseModel):
    """Uploaded weights. `matched_by`: "name", or "order" where names told nothing; `form`: "plain", or "folded" as Thaw exports."""

    id: str
    backbone: str
    filename: str
    size_bytes: int
    status: Literal["checking", "ready", "rejected"]
    matched: int
    missing: list[str]
    unexpected: list[str]
    matched_by: str | None
    form: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None
