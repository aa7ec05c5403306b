"""What goes in and out of the REST API. Unknown fields are refused on the way in; fields may be added, none is renamed."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core.issues import Kind
from core.tables import Outcome, RunStatus, Scope, Split, UploadStatus
from core.uploads import LARGEST_SEED
from core.version_changes import VersionChanges
from core.version_diff import Difference

Item = TypeVar("Item")


def _storable(text: str) -> str:
    # lone surrogates cannot be written as UTF-8, and PostgreSQL stores no NUL
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds a character that is none (NUL or half of a surrogate pair)")
    return text


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Notes = Annotated[Text, Field(max_length=20_000)]
Tag = Annotated[Text, Field(min_length=1, max_length=80)]

Tags = Annotated[list[Tag], Field(max_length=50)]


class Given(BaseModel):
    """Base of everything that comes in."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Listed(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` goes into `?cursor=` of the next request, null at the end."""

    items: list[Item]
    next_cursor: str | None = None


class WrongField(BaseModel):
    """One thing that is wrong with the input."""

    field: str
    message: str
    received: Any = None


class ProblemBody(BaseModel):
    """RFC 9457. `request_id` is set for unexpected errors."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[WrongField] | None = None
    request_id: str | None = None


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
    config: dict[str, Any]
    recipe: bool
    needs_model: bool


class TokenIn(Given):
    """A token to be made; without `days` it does not expire."""

    name: Annotated[Text, Field(min_length=1, max_length=80)]
    scope: Scope = Scope.WRITE
    days: Annotated[int, Field(ge=1, le=3650)] | None = None


class TokenOut(BaseModel):
    """An API token without its secret."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


class TokenMade(TokenOut):
    """A new token: the only time that `token` is shown."""

    token: str


class SessionOut(BaseModel):
    """A signed-in browser."""

    id: str
    user_agent: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    current: bool


class UserIn(Given):
    """A person to be added (admins only)."""

    name: Annotated[Text, Field(min_length=1, max_length=80)]
    password: Annotated[Text, Field(max_length=1024)]
    is_admin: bool = False


class UserPatch(Given):
    """Changes to a person (admins only; one's own password by everybody)."""

    password: Annotated[Text, Field(max_length=1024)] | None = None
    is_admin: bool | None = None
    disabled: bool | None = None


class UserOut(BaseModel):
    """A person."""

    id: str
    name: str
    is_admin: bool
    disabled: bool
    created_at: datetime


class DatasetIn(Given):
    """A dataset to be made."""

    name: Name
    description: Notes = ""


class DatasetPatch(Given):
    """Changes to a dataset."""

    name: Name | None = None
    description: Notes | None = None
    tags: Tags | None = None


class DatasetOut(BaseModel):
    """A named collection; `latest_version` is null before the first upload is ready."""

    id: str
    name: str
    description: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime
    latest_version: "VersionOut | None"


class SplitCounts(BaseModel):
    """Pictures per split."""

    train: int
    validation: int
    test: int


class ClassOut(BaseModel):
    """A class name, its integer label, and its pictures."""

    name: str
    label: int
    counts: SplitCounts


class VersionOut(BaseModel):
    """A frozen list of pictures with class names and splits. `base_version_id`: what it was made from, null after an upload."""

    id: str
    dataset_id: str
    number: int
    base_version_id: str | None
    fingerprint: str
    test_fingerprint: str
    created_at: datetime
    classes: list[ClassOut]
    image_count: int
    issues: dict[str, Any]
    notes: list[str]


class LabelProgress(BaseModel):
    """What a search for label errors is doing."""

    message: str = ""
    done: int = 0
    total: int = 0


class LabelDecisionIn(Given):
    """What a person says of a picture's label. `relabel` needs the class it goes to; `forget` takes back what was said."""

    image_id: Annotated[Text, Field(max_length=36)]
    decision: Literal["relabel", "dismiss", "forget"]
    class_name: Annotated[Text, Field(max_length=200)] | None = None


class LabelDecisionsIn(Given):
    """What a person says of some labels."""

    decisions: Annotated[list[LabelDecisionIn], Field(max_length=200)] = []


class LabelsAppliedIn(Given):
    """Which changed labels make the next version: those of train and validation, or (a new test then) those of test."""

    test: bool = False


class LabelSuggestionOut(BaseModel):
    """A label that is doubtful. Probabilities are those of heads that have not seen the picture."""

    rank: int
    image_id: str
    filename: str
    split: str
    given_class: str
    suggested_class: str
    given_probability: float
    suggested_probability: float
    likely: bool
    decision: str | None
    decided_class: str | None
    thumbnail_url: str


class LabelCounts(BaseModel):
    """How far a person is: `pending` pictures of train and validation, and `pending_test` ones of test, wait to go to another class."""

    likely: int
    open: int
    pending: int
    pending_test: int


class LabelSuggestionsOut(BaseModel):
    """The search for label errors of a version, and one page of what it has found, the least believable label first."""

    status: Literal["none", "queued", "checking", "ready", "failed", "cancelled"]
    progress: LabelProgress
    summary: dict[str, Any]
    error: str | None
    counts: LabelCounts
    items: list[LabelSuggestionOut]
    next_cursor: str | None


class VersionIn(Given):
    """A new version made from any version of the dataset (without a base: the newest). No change takes back what came after it."""

    base_version_id: Annotated[Text, Field(max_length=36)] | None = None
    changes: VersionChanges = VersionChanges()


class DiffClasses(BaseModel):
    """Class names that came or went; a renamed class did both."""

    added: list[str]
    removed: list[str]


class PlaceThen(BaseModel):
    """Where a picture was in one of two versions."""

    class_name: str
    split: Split
    group: str | None


class ChangedImage(BaseModel):
    """A picture that differs: `before` is null for an added one, `after` for a removed one."""

    id: str
    filename: str
    before: PlaceThen | None
    after: PlaceThen | None
    thumbnail_url: str


class VersionRef(BaseModel):
    """A dataset version by id and number."""

    id: str
    number: int


class DiffOut(BaseModel):
    """What became different from one version (`before`) to another (`after`); `items` are paged like a list."""

    before: VersionRef
    after: VersionRef
    counts: dict[Difference, int]
    classes: DiffClasses
    items: list[ChangedImage]
    next_cursor: str | None = None


class IssueImage(BaseModel):
    """A picture of an issue; the last four are null where it is not in the version (refused with the upload)."""

    id: str
    thumbnail_url: str
    filename: str | None
    class_name: str | None
    split: Split | None
    group: str | None


class IssueOut(BaseModel):
    """Something wrong or odd in a version: with one picture, with two that are alike or of one group, or with a class (no picture).

    `score`: correlation of two near duplicates, at most 1. `detail`: the receipt's sentence, the group, or a sentence about a class.
    """

    kind: Kind
    number: int
    images: list[IssueImage]
    score: float | None
    detail: str


class ImageOut(BaseModel):
    """A picture's place in a dataset version. Width and height in pixels, after orientation."""

    id: str
    sha256: str
    filename: str
    class_name: str
    split: Split
    group: str | None
    width: int
    height: int
    format: str
    thumbnail_url: str
    original_url: str


class UploadProgress(BaseModel):
    """`files_total` is null while it is not known."""

    files_done: int
    files_total: int | None


class ReceiptCounts(BaseModel):
    """What became of the files, by number."""

    kept: int
    fixed: int
    refused: int
    skipped: int
    by_reason: dict[str, Any]


class SampleIn(Given):
    """A sample set to be drawn by Thaw; `train_preset`: a run with it is queued as soon as the set is ready, null for none."""

    name: Name | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="The same seed gives the same pictures.")] | None = (
        None
    )
    train_preset: Annotated[Text, Field(max_length=60)] | None = None


class UploadOut(BaseModel):
    """An upload on its way to a dataset version.

    `sample_seed`: of a sample set, which Thaw draws itself. `train_preset`: a run with it is queued once the version is there.
    """

    id: str
    dataset_id: str
    status: UploadStatus
    received_bytes: int
    total_bytes: int | None
    progress: UploadProgress
    receipt: ReceiptCounts
    dataset_version_id: str | None
    sample_seed: int | None
    train_preset: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class WeightsOut(BaseModel):
    """Uploaded weights. `matched_by`: "name", or "order" where names told nothing; `form`: "plain", or "folded" as Thaw exports."""

    id: str
    backbone: str
    filename: str
    size_bytes: int
    status: Literal["checking", "ready", "rejected"]
    matched: int
    missing: list[str]
    unexpected: list[str]
    matched_by: str | None
    form: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class FilesAdded(BaseModel):
    """What a batch brought: `repeated` files were there already."""

    added: int
    repeated: int
    upload: UploadOut


class ReceiptLine(BaseModel):
    """What became of one file."""

    path: str
    outcome: Outcome
    reason: str
    image_id: str | None


class RunIn(Given):
    """A run to be queued: `config` is merged over the preset; give a dataset (its newest version) or a version."""

    dataset_version_id: Annotated[Text, Field(max_length=64)] | None = None
    dataset_id: Annotated[Text, Field(max_length=64)] | None = None
    name: Name | None = None
    preset: Annotated[Text, Field(max_length=60)] | None = None
    config: dict[str, Any] | None = Field(None, description="Fields of a TrainingConfig.")
    repeats: int = Field(1, description="1 to 50 runs of one group, with rising seeds.")


class SpreadOut(BaseModel):
    """Test accuracies of repeats. `deviation` and `interval` (95 %, Student's t, over seeds on the same pictures) need two runs."""

    count: int
    mean: float | None
    deviation: float | None
    lowest: float | None
    highest: float | None
    interval: tuple[float, float] | None


class EstimateIn(Given):
    """A run that is not queued: how long would it take?"""

    dataset_version_id: Annotated[Text, Field(max_length=64)] | None = None
    dataset_id: Annotated[Text, Field(max_length=64)] | None = None
    preset: Annotated[Text, Field(max_length=60)] | None = None
    config: dict[str, Any] | None = Field(None, description="Fields of a TrainingConfig.")


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
    augmentation: dict[str, Any] = Field({}, description="Fields of `augmentation` of a TrainingConfig.")
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
    """One training, from queued to its end."""

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
    config: dict[str, Any]
    attempt: int
    progress: Progress
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    model_id: str | None
    failure: Failure | None
    summary: dict[str, Any]
    machine: dict[str, Any]
    code_version: str
    revision: int


class ReproductionOut(BaseModel):
    """A run against the one it repeats (`retry_of`), once both have succeeded."""

    first_id: str
    equal_weights: dict[str, bool]
    pictures: int
    same_answer: int
    largest_difference: float
    same_machine: bool
    tolerance: float
    within_tolerance: bool


class RepeatsOut(BaseModel):
    """A group of repeats, the runs in the order of their seeds."""

    group_id: str
    runs: list[RunOut]
    test_accuracy: SpreadOut


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


class EvaluationOut(BaseModel):
    """What the test says, for the last phase of each kind; `looks`: how many runs have been scored on this test."""

    model_config = ConfigDict(extra="allow")

    split: str
    test_fingerprint: str
    looks: int
    phases: dict[str, Any]
    comparison: dict[str, Any] | None = None


class PredictionOut(BaseModel):
    """What one phase's network said of one picture."""

    image_id: str
    filename: str | None
    true_class: str
    predicted_class: str
    confidence: float
    true_probability: float
    probabilities: dict[str, float]
    thumbnail_url: str | None


class Box(BaseModel):
    """A box as shares of a picture's width and height, from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


class PixelBox(BaseModel):
    """A box in pixels of the upright original."""

    left: int
    top: int
    right: int
    bottom: int


class HeatmapOut(BaseModel):
    """Where a model looked (Grad-CAM), as PNG data URLs of the picture as the model sees it.

    `seen` is that picture, `picture` the same in colour only where the answer rested. `box` is rough: the largest connected part of at
    least half the strongest evidence; null where nothing spoke for the class.
    """

    class_name: str
    probability: float
    picture: str
    seen: str
    box: Box | None
    box_pixels: PixelBox | None
    caption: str


class ComparedRun(BaseModel):
    """One run beside others."""

    run: RunOut
    metrics: list[MetricOut]
    evaluation: EvaluationOut | None


class AgainstFirst(BaseModel):
    """A run's model against that of the first run, on the same test pictures.

    `gained` and `lost` are pictures that only this one, or only the first, has right; `p_value` is McNemar's exact test; `verdict` is `tie`
    where the difference may be chance (p at least 0.05).
    """

    id: str
    gained: int
    lost: int
    count: int
    p_value: float
    verdict: Literal["ahead", "behind", "tie"]


class Comparison(BaseModel):
    """Runs side by side. Scores may be compared only where `same_test` is true; without it `against_first` is empty."""

    items: list[ComparedRun]
    same_test: bool
    against_first: list[AgainstFirst] = []
    changed: list[str] = Field(description="Dotted paths of the config that differ.")


class ModelPatch(Given):
    """Changes to a model."""

    name: Name | None = None
    notes: Notes | None = None
    tags: Tags | None = None


class FormatOut(BaseModel):
    """One file format of a model."""

    format: str
    status: Literal["none", "building", "ready", "failed"]
    size_bytes: int | None = None
    sha256: str | None = None
    agreement: dict[str, Any] | None = None
    error: str | None = None


class ModelOut(BaseModel):
    """A trained network."""

    id: str
    run_id: str | None
    name: str
    notes: str
    tags: list[str]
    dataset_title: str
    backbone: str
    class_names: list[str]
    image_size: list[int]
    resize: str
    test_accuracy: float | None
    evaluation: dict[str, Any]
    formats: list[FormatOut]
    created_at: datetime


class PredictedOut(BaseModel):
    """The answer for one picture, or the `error` for one that cannot be read."""

    filename: str
    class_name: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    known_score: float | None = None
    verdict: Literal["confident", "unsure", "unknown"] | None = None
    error: str | None = None


class PredictionsOut(BaseModel):
    """Answers in the order of the pictures."""

    predictions: list[PredictedOut]


class BatchProgress(BaseModel):
    """How far a batch prediction is; `pictures_total` is unknown until the archive was opened."""

    pictures_done: int
    pictures_total: int | None


class BatchPredictionOut(BaseModel):
    """What a model says of every picture of an archive or of a dataset version; the answers are in its result."""

    id: str
    model_id: str
    dataset_version_id: str | None
    filename: str
    status: Literal["queued", "running", "ready", "failed", "cancelled"]
    progress: BatchProgress
    refused: int
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class BatchPredictionsOut(BaseModel):
    """The latest batch predictions of a model."""

    items: list[BatchPredictionOut]
