"""Before a run: what augmentation does to a picture."""

from starlette.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas import PreviewIn, PreviewOut
from app.dependencies import House, Person, TheHouse
from app.ordering import wished_config
from app.previewing import PreviewWish, preview
from core.catalog import find_image

router = api_router("runs")


@router.post("/augmentation-preview")
async def preview_augmentation(given: PreviewIn, house: TheHouse, person: Person) -> PreviewOut:
    """Nine random variants of one picture, by the layer that trains. The same seed gives the same nine."""
    config = wished_config(None, {"augmentation": given.augmentation}, where="")
    sha256 = await run_in_threadpool(_sha256, house, person.id, given.image_id)
    wish = PreviewWish(sha256, config.augmentation, given.seed, given.resize, given.image_size)
    return PreviewOut(pictures=list(await preview(house, wish)))


def _sha256(house: House, owner_id: str, image_id: str) -> str:
    with house.database.read() as session:
        return find_image(session, owner_id, image_id).sha256
