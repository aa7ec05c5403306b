"""How good a run is: evaluation, predictions, heat maps, comparison, repeats."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.runs import MetricOut, RunOut


class SpreadOut(BaseModel):
    """Test accuracies of repeats. `deviation` and `interval` (95 %, Student's t, over seeds on the same pictures) need two runs."""

    count: int
    mean: float | None
    deviation: float | None
    lowest: float | None
    highest: float | None
    interval: tuple[float, float] | None


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

    `gained` and `lost` are pictures that only this one, or only the first, has right; `p_value` is McNemar's exact test, in
    which pictures of one group and near duplicates of each other share one vote; `verdict` is `tie` where the difference may be chance (p
    at least 0.05).
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
