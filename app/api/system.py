"""System: health, this installation, backbones, presets, and the contract itself."""

from typing import Any

from fastapi import Request, Response

from app.api.routing import api_router
from app.api.schemas.base import Listed
from app.api.schemas.system import (
    BackboneOut,
    Device,
    Health,
    PresetOut,
    QueueState,
    StorageState,
    System,
    WeightsChoice,
    WorkerState,
)
from app.dependencies import House, Person, ReadSession, SettingsOf, TheHouse
from core import catalog
from core.backbones import BACKBONES, Backbone, imagenet_state
from core.config import VERSION, Settings
from core.presets import PRESETS
from core.storage import free_bytes

router = api_router("system")


@router.get("/health/live")
def live() -> Health:
    """The process answers. No token needed."""
    return Health(ok=True)


@router.get("/health/ready", responses={503: {"model": Health, "description": "A part is not ready."}})
def ready(house: TheHouse, response: Response) -> Health:
    """Database, broker and disk are there. No token needed."""
    parts = {"database": _database_alive(house), "broker": house.queue.alive(), "disk": _disk_has_room(house.settings)}
    ok = all(parts.values())
    response.status_code = 200 if ok else 503
    return Health(ok=ok, parts=parts)


def _database_alive(house: House) -> bool:
    try:
        return house.database.alive()
    except Exception:  # noqa: BLE001 - whatever it is: not ready
        return False


def _disk_has_room(settings: Settings) -> bool:
    return free_bytes(settings.folder) > settings.disk_reserve_bytes


@router.get("/system")
def system(session: ReadSession, settings: SettingsOf, _person: Person) -> System:
    """Workers, devices, queue, storage, limits."""
    workers = catalog.workers(session)
    devices = [Device.model_validate({**device, "worker": one.id}) for one in workers for device in one.devices]
    return System(
        version=VERSION,
        devices=devices,
        workers=[WorkerState(id=one.id, queues=one.queues, alive=one.alive, busy=one.busy) for one in workers],
        queue=QueueState(**catalog.queue_counts(session)),
        storage=StorageState(used_bytes=catalog.stored_bytes(session), free_bytes=free_bytes(settings.folder)),
        limits=limits_of(settings),
    )


def limits_of(settings: Settings) -> dict[str, int]:
    """Every setting that bounds what may be sent."""
    return {name: value for name, value in settings.model_dump().items() if name.startswith("max_")}


@router.get("/backbones")
def backbones(settings: SettingsOf, _person: Person) -> Listed[BackboneOut]:
    """The pretrained networks that a run may start from."""
    return Listed(items=[_backbone_out(one, settings) for one in BACKBONES.values()])


def _backbone_out(backbone: Backbone, settings: Settings) -> BackboneOut:
    return BackboneOut(
        id=backbone.id,
        title=backbone.title,
        parameters=backbone.parameters,
        default_image_size=backbone.default_image_size,
        minimum_image_size=backbone.minimum_image_size,
        cut_layers=list(backbone.cut_layers),
        default_cut_layer=backbone.default_cut_layer,
        weights=[_choice(backbone, name, settings) for name in backbone.weights],
        form=backbone.form,
        licence=backbone.licence,
    )


def _choice(backbone: Backbone, name: str, settings: Settings) -> WeightsChoice:
    if name == "none":
        return WeightsChoice(id="none", available=True, reason="Random: learns from nothing.")
    available, reason = imagenet_state(backbone, settings.download_weights)
    return WeightsChoice(id="imagenet", available=available, reason=reason or None)


@router.get("/presets")
def presets(_person: Person) -> Listed[PresetOut]:
    """Named starting points for a run."""
    items = [
        PresetOut(
            id=one.id,
            title=one.title,
            description=one.description,
            config=one.config,
            recipe=one.recipe,
            needs_model=one.needs_model,
        )
        for one in PRESETS.values()
    ]
    return Listed(items=items)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> dict[str, Any]:
    """The contract of this API. No token needed."""
    document: dict[str, Any] = request.app.openapi()
    return document
