"""The web application: `create_app()` is what uvicorn starts. Never loads TensorFlow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from app import errors
from app.dependencies import House
from app.security import authenticate
from app.watching import Hub
from core.config import VERSION, Settings, read_settings
from core.database import open_database
from core.live import Listener
from core.queue import Queue
from core.storage import open_storage


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application with its routes; background threads start with its lifespan."""
    settings = settings or read_settings()
    app = FastAPI(
        title="Thaw",
        version=VERSION,
        openapi_url=None,
        lifespan=_lifespan,
        dependencies=[Depends(authenticate)],
    )
    app.state.house = House(settings, open_database(settings), open_storage(settings), Queue(settings), Hub())
    errors.register(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    house: House = app.state.house
    house.hub.open()
    listener = Listener(house.settings, house.hub.wake)
    listener.start()
    try:
        yield
    finally:
        house.hub.close()
        listener.stop()
        house.queue.close()
        house.database.close()
