"""`thaw upload`: a folder goes as one virtual tar archive, an archive as it is. What broke off goes on where it was.

The same folder is the same upload for a day: its files by name, size and time make the Idempotency-Key.
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cli.exits import EndedBadly, ServerAway
from cli.remote import Remote
from cli.resuming import Transfer, opened
from cli.screen import Screen
from cli.virtual_tar import OneFile, Sent, Source, VirtualTar
from core.errors import ThawError

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries
REFUSED_SHOWN = 10
ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz")
Answer = TypeVar("Answer")


def upload(remote: Remote, screen: Screen, path: Path, *, dataset: str | None, wait: bool) -> None:
    """Send a folder or an archive, wait until it is ingested, show the receipt.

    Args:
        remote: the server.
        screen: where to show it.
        path: folder of class folders, or an archive.
        dataset: id or name of the dataset it goes to; a name that nobody has makes a new one. None: the folder's name.
        wait: False: end once everything is sent.

    Raises:
        ThawError: nothing to send, or refused by the server.
        EndedBadly: the upload was rejected.
    """
    path = path.expanduser().resolve()
    files = [archive(path)] if path.is_file() else files_below(path)
    target = _dataset(remote, dataset or (path.name if path.is_dir() else path.name.split(".")[0]))
    source: Source = OneFile(path) if path.is_file() else VirtualTar(files)
    name = path.name if path.is_file() else "folder.tar"
    result = send(remote, screen, source, name, key_of(target["id"], files), target["id"])
    if wait:
        result = follow(remote, screen, result)
    show(remote, screen, target["name"], result)


def files_below(folder: Path) -> list[Sent]:
    """Every file below a folder, in a fixed order, by its path from the folder's own name. Links to folders are not followed.

    Raises:
        ThawError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ThawError(f"{folder} is neither a folder nor an archive.")
    found = []
    for below, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(below, name)
            relative = Path(folder.name, path.relative_to(folder)).as_posix()
            readable = os.fsencode(relative).decode("utf-8", "replace")
            if path.is_file():  # no socket, no pipe, no link that leads nowhere
                known = path.stat()
                found.append(Sent(path, readable, known.st_size, int(known.st_mtime)))
    if not found:
        raise ThawError(f"There are no files in {folder}.")
    return found


def _dataset(remote: Remote, wanted: str) -> dict[str, Any]:
    return remote.look_for("datasets", wanted) or remote.post("/datasets", json={"name": wanted})


def key_of(dataset_id: str, files: Sequence[Sent]) -> str:
    """An Idempotency-Key that is the same as long as the files are."""
    digest = hashlib.sha256(f"{dataset_id}\0{socket.gethostname()}".encode())
    for one in files:
        line = (str(one.path), one.name, one.size, one.path.stat().st_mtime_ns)
        digest.update(repr(line).encode("utf-8", "surrogateescape"))
    return f"thaw-{digest.hexdigest()}"


def archive(path: Path) -> Sent:
    """An archive to be sent.

    Raises:
        ThawError: not an archive's name.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise ThawError(f'"{path.name}" is no archive that Thaw reads. Allowed: a folder, {", ".join(ENDINGS)}.')
    return Sent(path, path.name, path.stat().st_size)


def send(remote: Remote, screen: Screen, source: Source, filename: str, key: str, dataset_id: str) -> dict[str, Any]:
    """Send one file, or what is missing of it on the server; the upload, complete."""
    where, now = trying(lambda: opened(remote, source, dataset_id=dataset_id, filename=filename, key=key))
    if now["status"] != "receiving":
        screen.note("These files were sent already: this is what became of them. A changed file makes a new upload.")
        return now
    with screen.bytes_bar() as bar:
        task = bar.add_task("sending", total=source.size)
        Transfer(remote, source, where, lambda offset: bar.update(task, completed=offset)).send()
    return trying(lambda: remote.get(f"/uploads/{now['id']}"))


def trying(what: Callable[[], Answer]) -> Answer:
    """Do something that may be done twice, again and again while the server is away for a moment."""
    for pause in PAUSES:
        try:
            return what()
        except ServerAway:
            time.sleep(pause)
    return what()


def follow(remote: Remote, screen: Screen, now: dict[str, Any]) -> dict[str, Any]:
    """Wait until an upload is ready or rejected."""
    where = f"/uploads/{now['id']}"
    with screen.count_bar() as bar:
        task = bar.add_task("checking", total=None, more="")
        while now["status"] not in {"ready", "rejected"}:
            time.sleep(0.5)
            now = trying(lambda: remote.get(where))
            bar.update(task, completed=now["progress"]["files_done"], total=now["progress"]["files_total"])
    return now


def show(remote: Remote, screen: Screen, name: str, now: dict[str, Any]) -> None:
    """Say what became of an upload.

    Raises:
        EndedBadly: it was rejected.
    """
    counts = now["receipt"]
    told = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in ("kept", "fixed", "refused", "skipped"))
    if now["status"] == "ready":
        version = remote.get(f"/dataset-versions/{now['dataset_version_id']}")
        made = f'"{name}", version {version["number"]}: {version["image_count"]:,} pictures, {len(version["classes"])} classes'
        screen.result(now, f"{made} ({told})\ndataset {now['dataset_id']}")
    else:
        screen.result(now, f"upload {now['id']} is {now['status']}")
    if counts["refused"]:
        _show_refused(remote, screen, now["id"], counts["refused"])
    if now["status"] == "rejected":
        raise EndedBadly(now["error"] or "The upload was rejected.")


def _show_refused(remote: Remote, screen: Screen, upload_id: str, count: int) -> None:
    for line in remote.items(f"/uploads/{upload_id}/receipt", REFUSED_SHOWN, outcome="refused"):
        screen.note(f"refused: {line['path']}: {line['reason']}")
    if count > REFUSED_SHOWN:
        screen.note(f"... and {count - REFUSED_SHOWN:,} more: GET /api/v1/uploads/{upload_id}/receipt?format=csv")
