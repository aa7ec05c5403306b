"""The large picture, by the prediction worker: the web process never decodes one, and never shows a byte of the original.

The picture's bytes do not travel to the worker: it reads them from the storage by their SHA-256.
"""

import base64
import functools

import anyio

from app.dependencies import House
from core.catalog import find_image
from core.errors import WorkersAway
from core.storage import blob_key


def sha256_of(house: House, owner_id: str, image_id: str) -> str:
    """The SHA-256 of one of a person's pictures, read in a session of its own: none stays open while a worker is waited for.

    Raises:
        NotFound: no such picture, or another person's.
    """
    with house.database.read() as session:
        return find_image(session, owner_id, image_id).sha256


async def display(house: House, sha256: str) -> bytes:
    """A JPEG of at most 1,600 pixels on the longer side, without anything of the file but its pixels.

    Raises:
        WorkersAway: no worker answered in time, or it could not read the picture.
    """
    question = {"kind": "display", "blob_key": blob_key(sha256)}
    answer = await anyio.to_thread.run_sync(functools.partial(house.queue.ask, question), limiter=house.asking)
    if "error" in answer:
        raise WorkersAway(str(answer["error"]))
    return base64.b64decode(answer["picture"])
