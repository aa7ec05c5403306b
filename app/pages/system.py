"""System: workers, devices, queue, storage, versions, limits."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.dependencies import Person, ReadSession, TheHouse
from app.templating import View, render
from core.catalog import WorkerFacts, queue_counts, stored_bytes, workers
from core.config import Settings, code_version
from core.storage import free_bytes

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class SystemView(View):
    """What this installation is made of, and how it is."""

    template = "system.html"
    nav = "system"
    workers: Sequence[WorkerFacts]
    queue: dict[str, int]
    broker_alive: bool
    picture_bytes: int
    free: int
    settings: Settings
    code_version: str
    python: str
    database: str


@router.get("/system")
def show(request: Request, session: ReadSession, person: Person, house: TheHouse) -> Response:  # noqa: ARG001 - signed in
    """The state of this installation."""
    view = SystemView(
        workers=workers(session),
        queue=queue_counts(session),
        broker_alive=house.queue.alive(),
        picture_bytes=stored_bytes(session),
        free=free_bytes(house.settings.folder),
        settings=house.settings,
        code_version=code_version(),
        python=platform.python_version(),
        database="SQLite" if house.database.is_sqlite else "PostgreSQL",
    )
    return render(request, view)
