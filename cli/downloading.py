"""`thaw download`: a model's file, checked by its SHA-256. What broke off goes on where it was."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from cli.exits import EndedBadly, ServerAway
from cli.remote import Remote
from cli.screen import Screen
from cli.uploading import trying
from core.errors import NotFound, ThawError

PIECE = 1 << 20


def download(remote: Remote, screen: Screen, wanted: str, *, file_format: str, target: Path | None) -> None:
    """Fetch a file of a model.

    Args:
        remote: the server.
        screen: where to show it.
        wanted: id or name of a model, or id of the run that made it.
        file_format: e.g. `saved_model`.
        target: file to write, or None for the server's name in the current folder.

    Raises:
        ThawError: no such model or format, or a file of another content is in the way.
        EndedBadly: the checksum is wrong.
    """
    model = find_model(remote, wanted)
    row = next((one for one in model["formats"] if one["format"] == file_format), None)
    if row is None or row["status"] != "ready":
        ready = [one["format"] for one in model["formats"] if one["status"] == "ready"]
        raise ThawError(f'The model "{model["name"]}" has no {file_format} file. Ready: {", ".join(ready) or "none"}.')
    file = _target(model, file_format, target)
    if not (file.is_file() and sha256_of(file) == row["sha256"]):
        if file.exists() and target is None:
            raise ThawError(f"{file} is there already, with another content. Name a file with -o.")
        _fetch(remote, screen, f"/models/{quote(model['id'], safe='')}/download/{file_format}", row, file)
    facts = {"model_id": model["id"], "format": file_format, "file": str(file)}
    facts |= {"size_bytes": row["size_bytes"], "sha256": row["sha256"]}
    screen.result(facts, f"{file} ({row['size_bytes']:,} bytes, SHA-256 {row['sha256'][:16]}... is right)")


def find_model(remote: Remote, wanted: str) -> dict[str, Any]:
    """A model by its id, the id of its run, or its name.

    Raises:
        NotFound: none of them.
    """
    try:
        run = remote.get(f"/runs/{quote(wanted, safe='')}")
    except NotFound:
        return remote.find("models", wanted)
    if run["model_id"] is None:
        raise NotFound(f'The run "{run["name"]}" has no model: it is {run["status"]}.')
    return remote.get(f"/models/{run['model_id']}")


def _target(model: Mapping[str, Any], file_format: str, target: Path | None) -> Path:
    if target is not None and not target.is_dir():
        return target
    words = re.sub(r"[^\w]+", "-", model["name"].lower()).strip("-")[:60] or "model"
    return (target or Path()) / f"{words}-{file_format}.zip"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(remote: Remote, screen: Screen, address: str, row: Mapping[str, Any], file: Path) -> None:
    # the checksum in its name: a part of another model's file is never gone on with
    part = file.with_name(f".{file.name}.{row['sha256'][:12]}.part")
    with screen.bytes_bar() as bar:
        task = bar.add_task(file.name, total=row["size_bytes"])

        def get() -> None:
            _get_rest(remote, address, row, part, lambda done: bar.update(task, completed=done))

        trying(get)
    if sha256_of(part) != row["sha256"]:
        part.unlink()
        raise EndedBadly(f"{file.name} came with another SHA-256 than the server says: it was damaged. Try again.")
    part.replace(file)


def _get_rest(remote: Remote, address: str, row: Mapping[str, Any], part: Path, done: Any) -> None:
    """Append what is missing of a file to its part."""
    have = part.stat().st_size if part.exists() else 0
    if have >= row["size_bytes"]:
        return
    headers = {"Range": f"bytes={have}-", "If-Range": f'"{row["sha256"]}"', "Accept-Encoding": "identity"}
    with remote.reaching(), remote.client.stream("GET", address, headers=headers) as answer:
        if answer.status_code not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            answer.read()
            remote.checked(answer)
            raise ServerAway(f"The server answered {answer.status_code}.")
        whole = answer.status_code == httpx.codes.OK
        try:
            with part.open("wb" if whole else "ab") as out:
                for piece in answer.iter_bytes(PIECE):
                    out.write(piece)
                    done(out.tell())
        except OSError as error:
            raise ThawError(f"{part} cannot be written: {error.strerror}.") from error
