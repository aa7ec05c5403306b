"""The web process."""

import socket
from collections.abc import Callable

import uvicorn

from app.main import create_app
from core.config import Settings


def run_web(settings: Settings, descriptor: int | None, bind: Callable[[str, int], socket.socket]) -> None:
    """Serve `app.main:create_app` until SIGTERM.

    Args:
        settings: of the whole application: those that came as flags are not in the environment.
        descriptor: a listening socket that we inherited, or None to bind one.
        bind: makes a listening socket.
    """
    app = create_app(settings)  # before there is an event loop: what is missing is a sentence, not a crash in it
    listening = bind(settings.host, settings.port) if descriptor is None else socket.socket(fileno=descriptor)
    config = uvicorn.Config(
        app,
        timeout_graceful_shutdown=3,  # uvicorn waits for ever while an event stream is open
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        # who started and stopped is said by `thaw serve`; what goes wrong is said by all
        log_level="debug" if settings.log_level == "DEBUG" else "warning",
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
