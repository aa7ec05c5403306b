"""`thaw upload`: a folder goes as batches of files, an archive as one body. What broke off goes on where it was.

The same folder is the same upload for a day: its files by name, size and time make the Idempotency-Key. The files go in a fixed
order, so the bytes that the server has received say which of them it has; sending one again would do no harm either.
"""

import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from cli.exits import EndedBadly, ServerAway
from cli.remote import Remote
from cli.screen import Screen
from core.errors import NotFound, ThawError

BATCH_BYTES = 8 << 20
BATCH_FILES = 100
PIECE = 1 << 18
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries
REFUSED_SHOWN = 10
KINDS = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".tgz": "application/gzip",
    ".tar.gz": "application/gzip",
}
Advance = Callable[[int], None]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Sent:
    """One file to be sent.

    Attributes:
        path: on this machine.
        name: relative path with forward slashes, as the class rules read it.
        size: bytes.
    """

    path: Path
    name: str
    size: int


class Counted(io.FileIO):
    """A file that says how much of it has been read."""

    def __init__(self, path: Path, advance: Advance) -> None:
        try:
            super().__init__(path)
        except OSError as error:
            raise ThawError(f"{path} cannot be read: {error.strerror}.") from error
        self._advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on."""
        data: bytes = super().read(-1 if size is None else size) or b""
        self._advance(len(data))
        return data


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
    files = [] if path.is_file() else files_below(path)
    target = _dataset(remote, dataset or (path.name if path.is_dir() else path.name.split(".")[0]))
    result = (
        send_folder(remote, screen, target["id"], files) if files else send_archive(remote, screen, target["id"], path)
    )
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
                found.append(Sent(path, readable, path.stat().st_size))
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


def _opened(remote: Remote, dataset_id: str, key: str) -> dict[str, Any]:
    """The upload of this key, as it is now; a new one where the earlier one was rejected or deleted."""
    where = f"/datasets/{dataset_id}/uploads"
    for again in ("", f"-{time.time_ns()}"):
        made = remote.post(where, params={"complete": "false"}, headers={"Idempotency-Key": key + again})
        try:
            now = remote.get(f"/uploads/{made['id']}")
        except NotFound:
            continue
        if now["status"] != "rejected":
            return now
    return made


def send_folder(remote: Remote, screen: Screen, dataset_id: str, files: Sequence[Sent]) -> dict[str, Any]:
    """Send files as batches; the upload, complete."""
    now = _opened(remote, dataset_id, key_of(dataset_id, files))
    if now["status"] != "receiving":
        screen.note("These files were sent already: this is what became of them. A changed file makes a new upload.")
        return now
    skipped = already_there(files, now["received_bytes"])
    total = sum(one.size for one in files)
    with screen.bytes_bar() as bar:
        task = bar.add_task("sending", total=total, completed=sum(one.size for one in files[:skipped]))
        for batch in batches(files[skipped:]):
            sent = bar.tasks[task].completed

            def put(batch: Sequence[Sent] = batch, sent: float = sent) -> None:
                bar.update(task, completed=sent)
                _send_batch(remote, now["id"], batch, lambda size: bar.advance(task, size))

            trying(put)
        return trying(lambda: remote.post(f"/uploads/{now['id']}/complete"))


def already_there(files: Sequence[Sent], received: int) -> int:
    """How many of the first files the server has whole; 0 where its bytes are not a sum of theirs."""
    together = 0
    for number, one in enumerate(files):
        if together == received:
            return number
        together += one.size
    return 0


def batches(files: Sequence[Sent]) -> Iterator[list[Sent]]:
    """Files in groups of at most 100 files and about 8 MB."""
    batch: list[Sent] = []
    for one in files:
        if batch and (len(batch) >= BATCH_FILES or sum(each.size for each in batch) + one.size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _send_batch(remote: Remote, upload_id: str, batch: Sequence[Sent], advance: Advance) -> None:
    with ExitStack() as opened:
        form = [("files", (one.name, opened.enter_context(Counted(one.path, advance)))) for one in batch]
        remote.post(f"/uploads/{upload_id}/files", files=form)


def send_archive(remote: Remote, screen: Screen, dataset_id: str, path: Path) -> dict[str, Any]:
    """Send an archive as one body; the upload, complete.

    Raises:
        ThawError: not an archive's name.
    """
    suffix = next((one for one in KINDS if path.name.lower().endswith(one)), None)
    if suffix is None:
        raise ThawError(f'"{path.name}" is no archive that Thaw reads. Allowed: a folder, {", ".join(KINDS)}.')
    size = path.stat().st_size
    key = key_of(dataset_id, [Sent(path, path.name, size)])
    headers = {"Content-Type": KINDS[suffix], "Content-Length": str(size), "Idempotency-Key": key}
    where = f"/datasets/{dataset_id}/uploads?filename={quote(path.name)}"
    with screen.bytes_bar() as bar:
        task = bar.add_task("sending", total=size)

        def put() -> dict[str, Any]:
            bar.update(task, completed=0)
            with Counted(path, lambda length: bar.advance(task, length)) as file:
                return remote.post(where, content=iter(lambda: file.read(PIECE), b""), headers=headers)

        return trying(put)


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
