"""A real, throw-away PostgreSQL for tests: Debian's binaries on a unix socket, nothing synced, gone afterwards.

The server refuses to run as root, so root starts it as `postgres` (or `nobody`).
"""

import getpass
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from worker.lifeline import child_setup

PATIENCE_SECONDS = 90.0
# a crash of the test server may lose everything: speed is all that counts
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=64MB", "max_connections=60")


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path
    user: str

    def address(self, name: str) -> str:
        """`DATABASE_URL` of one database, in the form that people write."""
        return f"postgresql://{self.user}@/{name}?host={self.folder}"

    def create(self) -> str:
        """A new, empty database; returns its address."""
        name = f"test_{secrets.token_hex(8)}"
        with self._connection() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.address(name)

    def empty(self, address: str) -> None:
        """Remove every row that a test has left, whoever is still connected. Tables stay: that is faster than copying them."""
        self.disconnect(address)
        with psycopg.connect(address, autocommit=True) as connection:
            # all other rows belong to a user
            connection.execute("TRUNCATE users, workers, singletons, house_numbers, freed_files CASCADE")

    def disconnect(self, address: str) -> None:
        """Break every connection to a database, as a restart or a failover does."""
        with psycopg.connect(address, autocommit=True) as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(f"{others} AND pid <> pg_backend_pid()".encode())

    @contextmanager
    def closed(self, address: str) -> Iterator[None]:
        """Meanwhile nobody gets into a database, as if its server were gone."""
        name = conninfo_to_dict(address)["dbname"]
        with self._connection() as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())

    def _connection(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(self.address("postgres"), autocommit=True)


def binaries() -> Path | None:
    """The folder that holds `initdb` and `postgres` (Debian keeps them off the PATH), the newest version first."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: one.parent.name, reverse=True)
    return next((one for one in folders if (one / "postgres").exists() and (one / "initdb").exists()), None)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server of one's own; skips the test where PostgreSQL is not installed, but never in CI."""
    programs = binaries()
    if programs is None:
        reason = "PostgreSQL's server is not installed (Debian: apt install postgresql)."
        if os.environ.get("CI"):
            pytest.fail(f"{reason} CI must run these tests: .ci/run installs it.")
        pytest.skip(reason)
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="thaw-pg-"))  # a short path: sockets have at most 107 characters
    name = account.pw_name if account else getpass.getuser()
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
    user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    initdb = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-E", "UTF8", "--no-sync", "-U", name]
    subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
    command = [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *(part for one in FAST for part in ("-c", one))],
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=child_setup(),  # noqa: PLW1509 - it calls libc and nothing of Python's
            **user,
        )
    server = Postgres(folder, name)
    try:
        _wait_for(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # at once, whoever is connected
        try:
            process.wait(30)
        except (
            subprocess.TimeoutExpired
        ):  # a busy machine: it must not count against the test that happened to be the last
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> "pwd.struct_passwd | None":
    """Whose process the server becomes when we are root."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name: one for one in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _wait_for(server: Postgres, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            server._connection().close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (server.folder / "log").read_text(errors="replace")
                raise AssertionError(f"PostgreSQL did not start:\n{log}") from error
            time.sleep(0.05)
        else:
            return
