"""A real `thaw serve` for tests: a free port, a temporary data folder, real broker, workers and trainer.

Tests that use the shared `house` fixture (tests/end_to_end/conftest.py) mark their module
`pytestmark = pytest.mark.xdist_group("house")`, so that one server serves them all.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from core.accounts import create_token, local_user
from core.config import Settings
from core.database import Database, open_database

START_SECONDS = 90.0
STOP_SECONDS = 15.0


def wait_until(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """The first true answer of `what`, or a failed test after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"Not within {seconds:.0f} s: {why}")


def succeeded_run(house: "House", run_id: str) -> dict[str, Any]:
    """A run as REST tells it once it has ended, which it does well."""

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = house.client.get(f"/api/v1/runs/{run_id}").raise_for_status().json()
        return run if run["status"] not in {"queued", "running"} else None

    run: dict[str, Any] = wait_until(ended, 240, f"the run ends\n{house.log}")
    assert run["status"] == "succeeded", run
    return run


@dataclass
class House:
    """A running server.

    Attributes:
        folder: its data folder.
        process: the `thaw serve` process.
        address: e.g. `http://127.0.0.1:40123`.
        token: an API token of the local user, scope write.
        client: speaks to `address` with that token.
        settings: as its parts see them, without the broker's address.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    settings: Settings
    database: Database
    address: str = ""
    token: str = ""
    client: httpx.Client = field(default_factory=httpx.Client)

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment to mean this server's data folder and database."""
        database = self.settings.database_url
        return {"THAW_DATA_DIR": str(self.folder), **({"DATABASE_URL": database} if database else {})}

    @property
    def log(self) -> str:
        """What the server has printed."""
        return (self.folder / "serve.log").read_text(encoding="utf-8", errors="replace")

    def start_link(self) -> str:
        """The one-time link that it printed."""
        lines = [line.strip() for line in self.log.splitlines() if "/start?key=" in line]
        return lines[-1]

    def processes(self) -> dict[int, str]:
        """Command lines of `thaw serve` and everything below it, by process id."""
        return descendants(self.process.pid)

    def pid_of(self, part: str) -> int:
        """The process whose command line holds `part`, e.g. `--queues train` or `worker.training`."""
        found = [pid for pid, command in self.processes().items() if part in command]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} processes with {part!r}: {self.processes()}")
        return found[0]

    def stop(self) -> None:
        """SIGTERM; everything must be gone within 15 s."""
        below = self.processes()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(STOP_SECONDS)
        wait_until(lambda: not still_alive(below), 3, f"left running: {still_alive(below)}")


def descendants(root: int) -> dict[int, str]:
    """Command lines of a process and everything below it."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it has just ended
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state != "Z":
            parents[int(entry.name)], commands[int(entry.name)] = int(parent), command
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below and pid not in below}:
        below |= more
    return {pid: commands[pid] for pid in below if pid in commands}


def still_alive(processes: dict[int, str]) -> dict[int, str]:
    """Those that still run under the same command line."""
    return {pid: command for pid, command in processes.items() if descendants(pid).get(pid) == command}


@contextmanager
def running_house(folder: Path, **environment: str) -> Iterator[House]:
    """Start `thaw serve` in `folder`; `environment` adds settings, e.g. `THAW_LEASE_SECONDS="3"`."""
    # one TensorFlow less at work beside the tests; those about the spare switch it on
    wanted = {"THAW_SPARE_TRAINER": "false", "THAW_DATA_DIR": str(folder), **environment}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("THAW_")}
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cli", "serve", "--port", "0", "--no-browser"]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env={**inherited, **wanted}, stdout=log, stderr=subprocess.STDOUT)
    settings = Settings(data_dir=folder, database_url=environment.get("DATABASE_URL"))
    house = House(folder, process, settings, open_database(settings))
    try:
        _greet(house)
        yield house
        house.stop()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        house.client.close()
        house.database.close()


def _greet(house: House) -> None:
    """Wait until the server has said its link, then get a token."""

    def ready() -> bool:
        if house.process.poll() is not None:
            raise AssertionError(f"thaw serve ended:\n{house.log}")
        return "/start?key=" in house.log

    try:
        wait_until(ready, START_SECONDS, "thaw serve is ready")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{house.log}") from error
    house.address = json.loads((house.folder / "server.json").read_text())["address"]
    with house.database.write() as session:
        _, house.token = create_token(session, local_user(session), "tests")
    house.client = httpx.Client(base_url=house.address, headers={"Authorization": f"Bearer {house.token}"}, timeout=30)
