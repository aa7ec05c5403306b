"""Nine augmented variants of a picture, by the prediction worker. Shared by the API and the new-run page.

The picture's bytes do not travel: the worker reads them from the storage by their SHA-256.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from app.dependencies import House
from core.errors import WorkersAway
from core.storage import blob_key
from core.training_config import Augmentation

SIDE = 192  # pixels of a variant: enough to see, small enough to send nine


@dataclass(frozen=True)
class PreviewWish:
    """What to show.

    Attributes:
        sha256: of the picture.
        augmentation: random changes.
        seed: decides them.
        resize: as in TrainingConfig.
        shape: (height, width) whose aspect the variants have; they are made SIDE pixels at most.
    """

    sha256: str
    augmentation: Augmentation
    seed: int
    resize: str = "crop"
    shape: tuple[int, int] = (SIDE, SIDE)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the variants."""
        scale = min(1.0, SIDE / max(self.shape))
        return max(1, round(self.shape[0] * scale)), max(1, round(self.shape[1] * scale))


async def preview(house: House, wish: PreviewWish) -> Sequence[str]:
    """Nine PNG pictures as data URLs.

    Raises:
        WorkersAway: no worker answered in time, or it could not read the picture.
    """
    question = {
        "kind": "augment",
        "blob_key": blob_key(wish.sha256),
        "image_size": wish.image_size,
        "resize": wish.resize,
        "augmentation": wish.augmentation.model_dump(mode="json"),
        "seed": wish.seed,
    }
    answer = await anyio.to_thread.run_sync(functools.partial(house.queue.ask, question), limiter=house.asking)
    if "error" in answer:
        raise WorkersAway(str(answer["error"]))
    return [f"data:image/png;base64,{one}" for one in answer["pictures"]]
