"""Files of models as downloads: Range, ETag, a name that a person recognises. Shared by the API and the pages."""

import re
import shutil
import tempfile
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from core.errors import NotFound, NotServed
from core.storage import GONE, Storage
from core.tables import Export, TrainedModel

_OURS, _GENERATED = "golden/", "golden_generated/"


@dataclass(frozen=True)
class DownloadWish:
    """Which of a format's files is wanted."""

    phase: Annotated[str | None, Query(max_length=20, description="frozen or fine_tune; without: the chosen one")] = (
        None
    )
    golden: Annotated[
        Literal["test", "generated"],
        Query(
            description="whose golden pictures are in it: the person's test pictures, or patterns that show nobody's"
        ),
    ] = "test"


def download(request: Request, storage: Storage, model: TrainedModel, export: Export, wish: DownloadWish) -> Response:
    """The file of an export that is ready.

    Args:
        request: for `If-None-Match`; `Range` is read by the response itself.
        storage: where the file is.
        model: whose file it is.
        export: which file.
        wish: which of its files.

    Raises:
        NotServed: the phase that was not chosen, or patterns of a file that was built without them.
        NotFound: the file is gone.
    """
    chosen = model.summary.get("chosen_phase")
    phase, generated = wish.phase, wish.golden == "generated"
    if phase is not None and phase != chosen:
        raise NotServed(f'This version serves the chosen phase only. Received: "{phase[:40]}"; allowed: "{chosen}".')
    key = export.storage_key or ""
    if not key:
        raise NotFound(GONE)
    etag = f'"{export.sha256}"' if not generated else f'"{export.sha256}-generated"'
    if etag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers={"ETag": etag})
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    path = _with_patterns(storage, model, export) if generated else storage.local(key)
    return FileResponse(
        path, media_type="application/zip", filename=_name(model, export, generated=generated), headers=headers
    )


def _with_patterns(storage: Storage, model: TrainedModel, export: Export) -> Path:
    """The file with its generated pictures as golden/; made once, kept beside the model's files and deleted with them."""
    key = f"{model.storage_key}/generated/{export.sha256}.zip"
    if not storage.has(key):
        with tempfile.TemporaryDirectory(prefix="thaw-golden-") as folder:
            target = Path(folder) / "generated.zip"
            swap_golden(storage.local(export.storage_key or ""), target)
            storage.put(key, target)
    return storage.local(key)


def swap_golden(source: Path, target: Path) -> None:
    """Copy a download with golden_generated/ in place of golden/; the bytes depend on the source only, so `Range` goes on.

    Raises:
        NotServed: it has none.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        if not any(name.startswith(_GENERATED) for name in old.namelist()):
            raise NotServed(
                "This file was built before there were generated golden pictures. Build it again, or train the model again, to have them."
            )
        for entry in old.infolist():
            if entry.filename.startswith(_OURS):
                continue
            name = entry.filename
            moved = zipfile.ZipInfo(_OURS + name.removeprefix(_GENERATED) if name.startswith(_GENERATED) else name)
            moved.date_time, moved.compress_type = entry.date_time, entry.compress_type
            moved.external_attr, moved.create_system = entry.external_attr, entry.create_system
            with old.open(entry) as read, new.open(moved, "w", force_zip64=True) as write:
                shutil.copyfileobj(read, write, 1 << 20)


def _name(model: TrainedModel, export: Export, *, generated: bool) -> str:
    plain = unicodedata.normalize("NFKC", model.name).lower()
    words = re.sub(r"[^\w]+", "-", plain).strip("-")[:60] or "model"
    suffix = (export.storage_key or "").rsplit(".", 1)[-1]
    without = "-without-test-pictures" if generated else ""
    return f"{words}-{export.format}{without}.{suffix}"
