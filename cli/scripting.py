"""The commands for people who script: thin shells around cli/{uploading,training,downloading,lists}.py, on the REST API; doctor and fsck.

What they need of httpx and rich is loaded when they run: `thaw serve` and its parts start without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.exits import ENDED_BADLY
from core.config import read_settings

if TYPE_CHECKING:
    from cli.remote import Remote
    from cli.screen import Screen

Server = Annotated[
    str | None, typer.Option(help="Address of Thaw (THAW_SERVER); without: the server of the data folder.")
]
Token = Annotated[str | None, typer.Option(help="API token (THAW_TOKEN); a server of this machine needs none.")]
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the server of this machine (THAW_DATA_DIR).")]
Json = Annotated[bool, typer.Option("--json", help="Standard output is one JSON object per line.")]
Most = Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest first.")]
Search = Annotated[str, typer.Option(help="Part of the name.")]


@contextmanager
def _connected(
    server: str | None, token: str | None, data_dir: Path | None, as_json: bool
) -> Iterator[tuple["Remote", "Screen"]]:
    from cli.remote import connect  # noqa: PLC0415 - see above
    from cli.screen import Screen  # noqa: PLC0415

    with connect(read_settings(data_dir=data_dir), server, token) as remote:
        yield remote, Screen(as_json=as_json)


def upload(
    path: Annotated[Path, typer.Argument(help="Folder with one subfolder per class, or an archive of one.")],
    dataset: Annotated[
        str | None, typer.Option(help="Id or name; a new name makes a dataset. Without: the folder's name.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every picture is checked.")] = True,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Send a folder or archive of labelled pictures; the same command goes on where it broke off."""
    from cli import uploading  # noqa: PLC0415

    with _connected(server, token, data_dir, as_json) as (remote, screen):
        uploading.upload(remote, screen, path, dataset=dataset, wait=wait)


def train(  # noqa: PLR0913, PLR0917 - each is an option
    dataset: Annotated[str, typer.Argument(help="Id or name; its newest version is taken.")],
    preset: Annotated[str, typer.Option(help="Where the settings begin; GET /api/v1/presets lists them.")] = "standard",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE, e.g. head.dropout=0.3 or phases.1.epochs=4.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with fields of a TrainingConfig.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Runs of one group, with rising seeds.")] = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Queue a training; with --watch, follow it."""
    from cli import training  # noqa: PLC0415

    wish = training.Wish(preset, change or (), training.read_config(config), name, repeats)
    with _connected(server, token, data_dir, as_json) as (remote, screen):
        runs = training.train(remote, dataset, wish)
        for run in runs:
            if watch:
                training.watch(remote, screen, run)
            else:
                screen.result(run, f"run {run['id']}  {remote.address}/runs/{run['id']}")


def watch(
    run: Annotated[str, typer.Argument(help="Id or name.")],
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Follow a run to its end: exit code 0 when it succeeds, 1 when it does not. Ctrl-C stops the watching only."""
    from cli import training  # noqa: PLC0415

    with _connected(server, token, data_dir, as_json) as (remote, screen):
        training.watch(remote, screen, remote.find("runs", run))


def download(
    model: Annotated[str, typer.Argument(help="Id or name of a model, or id of its run.")],
    file_format: Annotated[str, typer.Option("--format", help="saved_model.")] = "saved_model",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File or folder to write.")] = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Fetch a model's file and check its SHA-256; the same command goes on where it broke off."""
    from cli import downloading  # noqa: PLC0415

    with _connected(server, token, data_dir, as_json) as (remote, screen):
        downloading.download(remote, screen, model, file_format=file_format, target=output)


def datasets(
    most: Most = 20, search: Search = "", server: Server = None, token: Token = None, data_dir: DataDir = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List datasets."""
    from cli import lists  # noqa: PLC0415

    with _connected(server, token, data_dir, as_json) as (remote, screen):
        lists.show_list(remote, screen, "datasets", most=most, search=search)


def runs(  # noqa: PLR0913, PLR0917 - each is an option
    dataset: Annotated[str | None, typer.Option(help="Of this dataset (id or name).")] = None,
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    most: Most = 20,
    search: Search = "",
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List runs."""
    from cli import lists  # noqa: PLC0415

    with _connected(server, token, data_dir, as_json) as (remote, screen):
        dataset_id = None if dataset is None else remote.find("datasets", dataset)["id"]
        lists.show_list(remote, screen, "runs", most=most, search=search, dataset_id=dataset_id, status=status)


def models(
    most: Most = 20, search: Search = "", server: Server = None, token: Token = None, data_dir: DataDir = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List models."""
    from cli import lists  # noqa: PLC0415

    with _connected(server, token, data_dir, as_json) as (remote, screen):
        lists.show_list(remote, screen, "models", most=most, search=search)


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Do not start TensorFlow, which takes seconds.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Look at everything that Thaw needs here: exit code 1 where something is wrong. Changes nothing."""
    from cli.doctor import State, examine  # noqa: PLC0415
    from cli.screen import Screen  # noqa: PLC0415

    found = list(examine(read_settings(data_dir=data_dir), quick=quick))
    columns = {
        "": [one.state.value for one in found],
        "what": [one.name for one in found],
        "found": [one.detail for one in found],
        "what to do": [one.advice for one in found],
    }
    Screen(as_json=as_json).table([one.as_row() for one in found], columns)
    if any(one.state == State.PROBLEM for one in found):
        raise typer.Exit(ENDED_BADLY)


def fsck(
    quick: Annotated[bool, typer.Option("--quick", help="Presence and sizes only: no file is read.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Remove garbage: files that no row names.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check rows against files and hashes: exit code 1 where something is missing or damaged. Removes nothing without --repair."""
    from cli.checking import check_files  # noqa: PLC0415 - see above
    from cli.screen import Screen  # noqa: PLC0415

    whole = check_files(read_settings(data_dir=data_dir), Screen(as_json=as_json), hashes=not quick, repair=repair)
    if not whole:
        raise typer.Exit(ENDED_BADLY)


COMMANDS = (upload, train, watch, download, datasets, runs, models, doctor, fsck)


def register(app: typer.Typer) -> None:
    """Add the commands to `thaw`."""
    for command in COMMANDS:
        app.command(command.__name__)(command)
