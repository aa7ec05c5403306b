"""A file of weights on its way in: streamed to disk, then into the storage; a worker opens it, never this process."""

import shutil
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.dependencies import House
from app.receiving import Count, clean_path, read_form
from app.threads import to_its_end
from core.errors import FieldProblem, InputInvalid, TooLarge
from core.ids import new_id
from core.storage import need_disk
from core.tables import Weights
from core.weights import add_weights, checked_backbone, received_key


class OneFile:
    """Writes the one file of a form; every call is made on a thread, one at a time."""

    def __init__(self, house: House, folder: Path) -> None:
        self._settings = house.settings
        self._folder = folder
        self._out: BinaryIO | None = None
        self.path = folder / "weights"
        self.name = ""
        self.size = 0
        self.count = Count()

    def begin(self, path: str) -> None:
        """The file begins.

        Raises:
            InputInvalid: a second file.
            DiskFull: the disk reserve would be touched.
        """
        if self.name:
            raise InputInvalid("Send one file of weights at a time. Received: more than one.")
        need_disk(self._folder, 0, self._settings.disk_reserve_bytes)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.name = clean_path(path).rsplit("/", maxsplit=1)[-1][-255:]
        self._out = self.path.open("wb")

    def write(self, data: memoryview) -> None:
        """Some bytes of it.

        Raises:
            TooLarge: more bytes than the settings allow.
        """
        self.size += len(data)
        if self.size > self._settings.max_weights_bytes:
            raise TooLarge(
                f"A file of weights has at most {self._settings.max_weights_bytes:,} bytes. Received: more than that."
            )
        if self._out is not None:
            self._out.write(data)

    def end(self) -> None:
        """The file is whole."""
        self.close()

    def forget(self) -> None:
        """Remove the file."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._out is not None:
            self._out.close()
            self._out = None


async def receive_weights(request: Request, house: House, owner_id: str) -> Weights:
    """Read a form with `file` and `backbone`, store the file, and have it checked.

    Raises:
        InputInvalid: no file, or no such backbone.
        TooLarge, DiskFull: with a sentence.
        ClientDisconnect: the client went away.
    """
    weights_id = new_id()
    folder = house.settings.weights_folder / f"{weights_id}-0"
    sink = OneFile(house, folder)
    try:
        await read_form(request, sink, "file", frozenset({"backbone"}))
        return await run_in_threadpool(_keep, house, owner_id, weights_id, sink)
    finally:
        await to_its_end(sink.forget)


def _keep(house: House, owner_id: str, weights_id: str, sink: OneFile) -> Weights:
    backbone = checked_backbone(sink.count.texts.get("backbone", ""))
    if not sink.name or not sink.size:
        message = "Choose a file of weights: .weights.h5, .h5, .keras or .safetensors. Received: none, or an empty one."
        raise InputInvalid(message, problems=(FieldProblem("file", message),))
    house.storage.put(received_key(weights_id), sink.path)
    facts = {"backbone": backbone, "filename": sink.name, "size_bytes": sink.size}
    with house.database.write() as session:
        return add_weights(session, house.queue, owner_id, weights_id, **facts)
