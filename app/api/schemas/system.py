"""The house: health, workers, queue, storage; backbones and presets."""

from typing import Literal

from pydantic import BaseModel

from core.training_config import TrainingConfig


class Health(BaseModel):
    """`ok` is false when one of the parts is."""

    ok: bool
    parts: dict[str, bool] = {}


class Device(BaseModel):
    """A processor or accelerator of a worker."""

    worker: str
    name: str
    kind: str
    memory_bytes: int | None = None


class WorkerState(BaseModel):
    """A worker process with a heartbeat."""

    id: str
    queues: list[str]
    alive: bool
    busy: bool


class QueueState(BaseModel):
    """Runs of all people."""

    queued: int
    running: int


class StorageState(BaseModel):
    """Bytes of the disk that holds Thaw's folder; `used_bytes` are those of pictures."""

    used_bytes: int
    free_bytes: int


class System(BaseModel):
    """This installation."""

    version: str
    devices: list[Device]
    workers: list[WorkerState]
    queue: QueueState
    storage: StorageState
    limits: dict[str, int]


class WeightsChoice(BaseModel):
    """What a backbone may start from; `reason` says why it is not available."""

    id: Literal["imagenet", "none"]
    available: bool
    reason: str | None = None


class BackboneOut(BaseModel):
    """A pretrained network without its top; `form`: "folded", "partly folded" or "plain", what BatchNorm becomes on cached features."""

    id: str
    title: str
    parameters: int
    default_image_size: tuple[int, int]
    minimum_image_size: tuple[int, int]
    cut_layers: list[str]
    default_cut_layer: str
    weights: list[WeightsChoice]
    form: str
    licence: str


class PresetOut(BaseModel):
    """A named TrainingConfig."""

    id: str
    title: str
    description: str
    config: TrainingConfig
    recipe: bool
    needs_model: bool
