"""Before a run: what augmentation does to a picture, and how long it will take."""

from fastapi import Response
from starlette.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.runs import EstimateIn, EstimateOut, PreviewIn, PreviewOut
from app.dependencies import Person, ReadSession, TheHouse
from app.displaying import sha256_of
from app.estimating import ask_for_estimate, find_estimate
from app.ordering import wished_config, wished_version
from app.presenting import API
from app.previewing import PreviewWish, preview

router = api_router("runs")


@router.post("/augmentation-preview")
async def preview_augmentation(given: PreviewIn, house: TheHouse, person: Person) -> PreviewOut:
    """Nine random variants of one picture, by the layer that trains. The same seed gives the same nine."""
    config = wished_config(None, {"augmentation": given.augmentation}, where="")
    sha256 = await run_in_threadpool(sha256_of, house, person.id, given.image_id)
    wish = PreviewWish(sha256, config.augmentation, given.seed, given.resize, given.image_size)
    return PreviewOut(pictures=list(await preview(house, wish)))


@router.post("/runs/estimate", status_code=202)
def ask_estimate(
    given: EstimateIn, session: ReadSession, house: TheHouse, person: Person, response: Response
) -> EstimateOut:
    """How long a run would take here. Speeds that nobody has measured yet are measured first, which takes seconds."""
    config = wished_config(given.preset, given.config)
    version = wished_version(
        session, person.id, dataset_id=given.dataset_id, dataset_version_id=given.dataset_version_id
    )
    asked = ask_for_estimate(session, house, version, config)
    response.headers["Location"] = f"{API}/runs/estimate/{asked}"
    return read_estimate(asked, session, house, person)


@router.get("/runs/estimate/{estimate_id}")
def read_estimate(estimate_id: str, session: ReadSession, house: TheHouse, person: Person) -> EstimateOut:
    """An estimate, for ten minutes after it was asked for."""
    return find_estimate(session, house, person.id, estimate_id)
