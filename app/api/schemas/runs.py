"""Runs: wishes, estimates, progress, metrics, judgement, comparison."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.api.schemas.base import Given, Name, Notes, Tags, Text
from core.tables import RunStatus
from core.training_config import Augmentation, TrainingConfig
from core.uploads import LARGEST_SEED


def _described_by(model: type[BaseModel]) -> BeforeValidator:
    """An object that the document describes by a model, although it is checked only when it is merged over a preset."""
    return BeforeValidator(lambda value: value, json_schema_input_type=model)


Changes = Annotated[dict[str, Any], _described_by(TrainingConfig)]
_MERGED = (
    "As many fields of a TrainingConfig as are to differ: merged over the preset, without one over the defaults. Objects are merged "
    "field by field, lists (`phases`) and `weights` are replaced whole."
)


class RunIn(Given):
    """A run to be queued: `config` is merged over the preset; give a dataset (its newest version) or a version."""

    dataset_version_id: Annotated[Text, Field(max_length=64)] | None = None
    dataset_id: Annotated[Text, Field(max_length=64)] | None = None
    name: Name | None = None
    preset: Annotated[Text, Field(max_length=60)] | None = None
    config: Changes | None = Field(None, description=_MERGED)
    repeats: int = Field(1, description="1 to 50 runs of one group, with rising seeds.")


class EstimateIn(Given):
    """A run that is not queued: how long would it take?"""

    dataset_version_id: Annotated[Text, Field(max_length=64)] | None = None
    dataset_id: Annotated[Text, Field(max_length=64)] | None = None
    preset: Annotated[Text, Field(max_length=60)] | None = None
    config: Changes | None = Field(None, description=_MERGED)


class EstimateOut(BaseModel):
    """Seconds of a run from its begin; `by_phase`: prepare, phase_0, ..., export, evaluate. Null while it is being measured."""

    id: str
    status: Literal["measuring", "ready", "failed"]
    seconds: float | None = None
    by_phase: dict[str, float] | None = None
    basis: str | None = None
    error: str | None = None


class PreviewIn(Given):
    """Random changes of one picture; `image_size` gives the aspect of what comes back (at most 192 pixels a side)."""

    image_id: Annotated[Text, Field(max_length=64)]
    augmentation: Annotated[dict[str, Any], _described_by(Augmentation)] = Field(
        {}, description="Fields of `augmentation` of a TrainingConfig."
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    resize: Literal["crop", "pad", "squash"] = "crop"
    image_size: tuple[Annotated[int, Field(ge=16, le=1024)], Annotated[int, Field(ge=16, le=1024)]] = (224, 224)


class PreviewOut(BaseModel):
    """Nine variants, each a PNG as a data URL."""

    pictures: list[str]


class RunPatch(Given):
    """Changes to a run."""

    name: Name | None = None
    notes: Notes | None = None
    tags: Tags | None = None


class Progress(BaseModel):
    """How far a run is; `epoch` counts from 1 through all phases."""

    phase: str | None = None
    epoch: int | None = None
    epochs_total: int | None = None
    step: int | None = None
    steps_total: int | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    message: str | None = None


class Failure(BaseModel):
    """Why a run has failed, and what to do."""

    kind: str
    message: str
    advice: str = ""


class RunOut(BaseModel):
    """One training, from queued to its end. `looks`: how many runs have been scored on its test pictures."""

    id: str
    name: str
    notes: str
    tags: list[str]
    status: RunStatus
    dataset_id: str | None
    dataset_version_id: str | None
    dataset_title: str
    group_id: str | None
    retry_of: str | None
    preset: str | None
    config: dict[str, Any] = Field(description="Its TrainingConfig with every field, as it was queued.")
    attempt: int
    progress: Progress
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    model_id: str | None
    failure: Failure | None
    summary: dict[str, Any]
    looks: int
    machine: dict[str, Any]
    code_version: str
    revision: int


class MetricOut(BaseModel):
    """One value of one epoch; `epoch` counts from 1 through all phases."""

    phase: str
    phase_index: int
    epoch: int
    split: str
    name: str
    value: float


class LogLineOut(BaseModel):
    """One line of a run's log."""

    number: int
    created_at: datetime
    message: str


class LayerOut(BaseModel):
    """One layer of the network in one phase."""

    model_config = ConfigDict(extra="allow")

    name: str
    kind: str
    shape: Any
    parameters: int
    trainable: bool


class PhaseLayers(BaseModel):
    """The network in one phase."""

    model_config = ConfigDict(extra="allow")

    phase: str
    phase_index: int
    trainable_parameters: int
    non_trainable_parameters: int
    layers: list[LayerOut]
