"""The web application: `create_app()` is what uvicorn starts. Never loads TensorFlow."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI
from starlette.staticfiles import StaticFiles

from app import api, contract, errors, idempotency, pages
from app.dependencies import House
from app.envelope import Envelope, HideSecrets
from app.security import authenticate
from app.sweeper import Sweeper
from app.watching import Hub
from core.config import VERSION, Settings, read_settings
from core.database import open_database
from core.live import Listener
from core.queue import Queue
from core.storage import open_storage
from core.transfers import unlock_all

STATIC = Path(__file__).with_name("static")
# Seconds that a busy thread keeps the interpreter while others want it. SQLite's driver lets go of it for every row, and with Python's
# own 5 ms a row may wait that long: beside one busy thread, on two loaded cores, 100,000 rows took 9 to 88 s, with this 3 to 5 s.
# Only here: workers, and what they start to train or to check pictures, have no pages to answer meanwhile.
SWITCH_SECONDS = 0.0005


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application with its routes; background threads start with its lifespan. The database must be migrated."""
    settings = settings or read_settings()
    app = FastAPI(
        title="Thaw", version=VERSION, openapi_url=None, lifespan=_lifespan, dependencies=[Depends(authenticate)]
    )
    app.state.house = House(settings, open_database(settings), open_storage(settings), Queue(settings), Hub())
    app.add_middleware(Envelope, settings=settings)
    for router in (*api.routers, *pages.routers):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    errors.register(app)
    contract.describe(app)
    logging.getLogger("uvicorn.access").addFilter(HideSecrets())
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    house: House = app.state.house
    house.hub.open()
    if house.database.is_sqlite:  # then this is the only web process
        sys.setswitchinterval(SWITCH_SECONDS)
        idempotency.forget_unfinished(house.database)
        with house.database.write() as session:
            unlock_all(session)
    listener = Listener(house.settings, house.hub.wake)
    sweeper = Sweeper(house.database, house.settings, house.queue)
    listener.start()
    sweeper.start()
    try:
        yield
    finally:
        house.hub.close()
        sweeper.stop()
        listener.stop()
        house.queue.close()
        house.database.close()
