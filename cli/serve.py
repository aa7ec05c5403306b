"""`thaw serve`: everything on one machine, each part its own process."""

import json
import logging
import os
import socket
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable

from cli.broker import broker_plan
from cli.data_folder import take_folder
from cli.parts import House, Plan
from core.accounts import admin_exists, create_start_link, local_user
from core.config import Settings
from core.database import Database, open_database
from migrations import upgrade
from worker.devices import gpus

_log = logging.getLogger(__name__)
READY_SECONDS = 60.0
Say = Callable[[str], None]


class CannotStart(Exception):
    """`str(error)` is the sentence that says why."""


def serve(settings: Settings, say: Say) -> None:
    """Run until SIGTERM or Ctrl-C.

    Args:
        settings: with the flags of the command line.
        say: prints a line for the person.

    Raises:
        CannotStart, FolderUnusable, BrokerMissing: each with a sentence.
    """
    with take_folder(settings):
        database = open_database(settings)
        upgrade(database)
        check_host(settings, database)
        listening = bound_socket(settings.host, settings.port)
        port = listening.getsockname()[1]
        house = House(plans(settings, listening))
        house.listen()
        try:
            remember_address(settings, port)
            house.look_after(early_only=True)
            if _ready(house, settings.host, port):
                _welcome(settings, database, port, say)
            database.close()
            while not house.stopping:
                house.look_after()
                time.sleep(0.1)
            say("Stopping ...")
        finally:
            house.stop()
            listening.close()


def check_host(settings: Settings, database: Database) -> None:
    """Let nobody but this machine reach a server that has no password yet.

    Raises:
        CannotStart: the address is not loopback and no admin has a password.
    """
    with database.read() as session:
        allowed = settings.is_loopback or admin_exists(session)
    if not allowed:
        raise CannotStart(
            f"Thaw does not listen on {settings.host} before somebody can sign in with a password. "
            "Run `thaw user create NAME --admin` first, or use --host 127.0.0.1."
        )


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket. We keep it: the web process may be started again without losing a connection.

    Raises:
        CannotStart: the port is in use, or this machine has no such address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.socket(found[0][0], socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(found[0][4])
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise CannotStart(
            f"Thaw cannot listen on {host} port {port}: {error.strerror}. "
            "Choose another with --port, or --port 0 for any free one."
        ) from error
    return listening


def plans(settings: Settings, listening: socket.socket) -> list[Plan]:
    """Every part of the house on this machine."""
    found: list[Plan] = []
    environment = dict(os.environ)
    if settings.redis_url is None:
        broker, address = broker_plan(settings)
        found.append(broker)
        environment["THAW_REDIS_URL"] = address
    environment |= {
        "THAW_DATA_DIR": str(settings.folder),
        "THAW_HOST": settings.host,
        "THAW_PORT": str(listening.getsockname()[1]),
        "THAW_LOG_LEVEL": settings.log_level,
        "PYTHONUNBUFFERED": "1",
    }
    python = (sys.executable, "-m", "cli")
    number = listening.fileno()
    found.append(Plan("web", (*python, "web", "--socket", str(number)), environment, descriptors=(number,), early=True))
    served = [*train_workers(len(gpus())), ("ingest,export,batch",), ("predict",)]
    return found + [
        Plan(f"worker {' '.join(one)}", (*python, "worker", "--queues", *one), environment) for one in served
    ]


def train_workers(gpu_count: int) -> list[tuple[str, ...]]:
    """Queue and options of each `train` worker: one for each GPU where there are several, else one."""
    if gpu_count < 2:
        return [("train",)]
    return [("train", "--gpu", str(number)) for number in range(gpu_count)]


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{name}:{port}"


def _ready(house: House, host: str, port: int) -> bool:
    """Wait until the web server answers; False when we were stopped meanwhile or it takes too long."""
    address = f"{_address(host, port)}/api/v1/system"
    deadline = time.monotonic() + READY_SECONDS
    while not house.stopping and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2):  # noqa: S310 - our own address
                return True
        except urllib.error.HTTPError:
            return True  # an answer, if only "sign in first"
        except (OSError, ValueError):
            house.look_after(early_only=True)
            time.sleep(0.1)
    if not house.stopping:
        _log.error("the web server did not answer within %.0f s", READY_SECONDS)
    return False


def _welcome(settings: Settings, database: Database, port: int, say: Say) -> None:
    address = _address(settings.host, port)
    if not settings.is_loopback:
        say(f"Thaw is ready. Sign in at {address}/ (stop with Ctrl-C)")
        return
    link = new_start_link(database, address)
    say(f"Thaw is ready. Open this link once in your browser (stop with Ctrl-C):\n\n  {link}\n")
    if settings.open_browser:
        webbrowser.open(link)


def new_start_link(database: Database, address: str) -> str:
    """A one-time link that signs the local user in."""
    with database.write() as session:
        key = create_start_link(session, local_user(session))
    return f"{address}/start?key={key}"


def remember_address(settings: Settings, port: int) -> None:
    """Note where the server listens, for `thaw link`."""
    facts = {"address": _address(settings.host, port), "pid": os.getpid()}
    (settings.folder / "server.json").write_text(json.dumps(facts), encoding="utf-8")
