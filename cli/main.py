"""The `thaw` command: thin. Errors are one sentence on standard error and exit code 2, never a traceback."""

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from cli import scripting
from cli.broker import BrokerMissing
from cli.data_folder import FolderUnusable
from cli.exits import exit_code_of
from cli.scripting import Json
from cli.serve import CannotStart, bound_socket, check_host, new_start_link, serve
from core import accounts
from core.config import VERSION, Settings, SettingsInvalid, read_settings
from core.database import Database, open_database
from core.errors import ThawError
from core.logs import log_to_stderr
from core.tables import Scope, User
from migrations import newest_schema, upgrade
from worker.lifeline import PARENT_VARIABLE, die_with_parent

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
token_app = typer.Typer(no_args_is_help=True, help="API tokens.")
user_app = typer.Typer(no_args_is_help=True, help="People who can sign in.")
app.add_typer(token_app, name="token")
app.add_typer(user_app, name="user")

Host = Annotated[str | None, typer.Option(help="Address to listen on (THAW_HOST).")]
Port = Annotated[int | None, typer.Option(help="Port; 0 takes a free one (THAW_PORT).")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of everything Thaw keeps (THAW_DATA_DIR).")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thaw {VERSION}")
        raise typer.Exit


@app.callback()
def thaw(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Thaw: a folder of labelled images in, an honestly judged image classifier out."""


@app.command("serve")
def serve_command(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the start link.")] = False,
) -> None:
    """Run everything on this machine: broker, web server, workers."""
    settings = read_settings(host=host, port=port, data_dir=data_dir, open_browser=False if no_browser else None)
    log_to_stderr(settings)
    serve(settings, lambda line: print(line, flush=True))  # noqa: T201 - for the person at the terminal


@app.command()
def web(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    descriptor: Annotated[int | None, typer.Option("--socket", hidden=True)] = None,
) -> None:
    """Run the web server alone (REDIS_URL must be set)."""
    from cli.web import run_web  # noqa: PLC0415 - only this command needs FastAPI

    settings = read_settings(host=host, port=port, data_dir=data_dir)
    log_to_stderr(settings)
    if descriptor is None:
        database = _database(settings)
        check_host(settings, database)
        database.close()
    run_web(settings, descriptor, bound_socket)


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="train | predict | any of ingest,export,batch")],
    gpu: Annotated[int | None, typer.Option(help="of a train worker: the one GPU its trainers use (0, 1, ...)")] = None,
    data_dir: DataDir = None,
) -> None:
    """Run one worker process (REDIS_URL must be set)."""
    from worker.celery_app import checked_queues  # noqa: PLC0415 - Celery takes as long to load as everything else together
    from worker.devices import GpuUnknown, choose_gpu  # noqa: PLC0415
    from worker.process import run_worker  # noqa: PLC0415

    settings = read_settings(data_dir=data_dir)
    log_to_stderr(settings)
    names = checked_queues(queues)
    if gpu is not None:
        if names != ("train",):
            raise GpuUnknown(f"--gpu belongs to --queues train. Received: --queues {queues}.")
        choose_gpu(gpu)
    if names == ("predict",):
        # TensorFlow lives in that process alone: it has an entry of its own, and nothing here can reach its imports
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **os.environ,
            "THAW_DATA_DIR": str(settings.folder),
            PARENT_VARIABLE: str(os.getppid()),
        }
        os.execve(sys.executable, [sys.executable, "-m", "worker.prediction"], environment)  # noqa: S606
    raise typer.Exit(run_worker(settings, names))


@app.command()
def migrate(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Bring the database to the newest schema (every start does it too)."""
    database = _database(read_settings(data_dir=data_dir))
    schema = newest_schema(database)
    database.close()
    typer.echo(json.dumps({"schema": schema}) if as_json else f"The database is up to date (schema {schema}).")


@app.command()
def link(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print a new one-time start link for a server on this machine."""
    settings = read_settings(data_dir=data_dir)
    try:
        facts = json.loads((settings.folder / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {"address": f"http://127.0.0.1:{settings.port}"}
    made = new_start_link(_database(settings), facts["address"])
    typer.echo(json.dumps({"link": made}) if as_json else made)


@token_app.command("create")
def token_create(
    name: str,
    read_only: Annotated[bool, typer.Option("--read-only", help="May look, not change.")] = False,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days until it expires; without: never.")] = None,
    user: Annotated[str, typer.Option(help="Whose token.")] = accounts.LOCAL_USER,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make an API token. It is shown once, alone on the last line."""
    database = _database(read_settings(data_dir=data_dir))
    with database.write() as session:
        owner = accounts.local_user(session) if user == accounts.LOCAL_USER else _user(database, user)
        scope = Scope.READ if read_only else Scope.WRITE
        token, secret = accounts.create_token(session, owner, name, scope=scope, days=days)
    if as_json:
        typer.echo(json.dumps({"id": token.id, "name": token.name, "scope": token.scope.value, "token": secret}))
        return
    typer.echo("Send it as `Authorization: Bearer TOKEN`. It is not shown again:")
    typer.echo(secret)


def _user(database: Database, name: str) -> User:
    with database.read() as session:
        found = session.scalar(select(User).where(User.name == name))
    if found is None:
        raise CannotStart(f'There is no user "{name}". Make one with `thaw user create {name}`.')
    return found


@user_app.command("create")
def user_create(
    name: str,
    admin: Annotated[bool, typer.Option("--admin", help="May see the whole house and manage people.")] = False,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from a pipe.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add a person who signs in with a password."""
    database = _database(read_settings(data_dir=data_dir))
    password = _password(password_stdin)
    with database.write() as session:
        made = accounts.create_user(session, name, password, is_admin=admin)
    facts = {"id": made.id, "name": made.name, "is_admin": made.is_admin}
    typer.echo(json.dumps(facts) if as_json else f'User "{made.name}" was made.')


def _password(from_pipe: bool) -> str:
    if from_pipe:
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if first != getpass.getpass("Again: "):
        raise CannotStart("The two passwords differ. Nothing was made.")
    return first


scripting.register(app)


def _database(settings: Settings) -> Database:
    database = open_database(settings)
    upgrade(database)
    return database


def _sentence(error: Exception) -> str:
    if isinstance(error, SQLAlchemyError):
        return f"The database cannot be used: {str(error).splitlines()[0]}"
    return str(error)


def main() -> None:
    """Entry point of `thaw`: the boundary where errors become sentences."""
    die_with_parent()
    try:
        app()
    except (ThawError, SettingsInvalid, CannotStart, FolderUnusable, BrokerMissing) as error:
        print(_sentence(error), file=sys.stderr)  # noqa: T201 - the boundary of the command line
        raise SystemExit(exit_code_of(error)) from None
    except BrokenPipeError:  # `thaw runs | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        print(_sentence(error), file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
