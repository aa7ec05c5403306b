"""Files of models as downloads: Range, ETag, a name that a person recognises. Shared by the API and the pages."""

import re
import unicodedata

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from core.errors import NotFound, NotServed
from core.storage import GONE, Storage
from core.tables import Export, TrainedModel


def download(request: Request, storage: Storage, model: TrainedModel, export: Export, phase: str | None) -> Response:
    """The file of an export that is ready.

    Args:
        request: for `If-None-Match`; `Range` is read by the response itself.
        storage: where the file is.
        model: whose file it is.
        export: which file.
        phase: `frozen` or `fine_tune`, or None for the chosen one.

    Raises:
        NotServed: the phase that was not chosen.
        NotFound: the file is gone.
    """
    chosen = model.summary.get("chosen_phase")
    if phase is not None and phase != chosen:
        raise NotServed(f'This version serves the chosen phase only. Received: "{phase[:40]}"; allowed: "{chosen}".')
    key = export.storage_key or ""
    if not key:
        raise NotFound(GONE)
    etag = f'"{export.sha256}"'
    if etag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers={"ETag": etag})
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    path = storage.local(key)
    return FileResponse(path, media_type="application/zip", filename=_name(model, export), headers=headers)


def _name(model: TrainedModel, export: Export) -> str:
    plain = unicodedata.normalize("NFKC", model.name).lower()
    words = re.sub(r"[^\w]+", "-", plain).strip("-")[:60] or "model"
    suffix = (export.storage_key or "").rsplit(".", 1)[-1]
    return f"{words}-{export.format}.{suffix}"
