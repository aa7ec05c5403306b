"""A new run: a preset as it is, or one's own settings over a base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.dependencies import House, Person, ReadSession, TheHouse, WriteSession, house_of
from app.estimating import ask_for_estimate, find_estimate
from app.pages.forms import Fields, see_other
from app.previewing import PreviewWish, preview
from app.run_form import (
    BASE_PRESET,
    OWN,
    OWN_WEIGHTS,
    PHASES,
    FormConfig,
    Section,
    form_values,
    phases_fit,
    problems_by_name,
    read_form,
    sections,
)
from app.templating import View, render
from core.backbones import BACKBONES, imagenet_state
from core.catalog import Wish, latest_versions, list_datasets, list_models, picture_by_turn, ready_weights
from core.datasets import find_dataset, find_version
from core.errors import BrokerAway, FieldProblem, InputInvalid, NotFound, WorkersAway
from core.models import find_model
from core.presets import PRESETS, Preset, check_start, is_just
from core.runs import MOST_REPEATS, NewRun, create_runs, find_run
from core.tables import Dataset, DatasetVersion, Run, Split, TrainedModel, Weights
from core.training_config import parse_config
from core.weights import find_weights

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class PresetCard:
    """A preset with its phases as (kind, epochs); `shares`: as (kind, width in the bar); `missing`: what a recipe lacks here."""

    preset: Preset
    phases: Sequence[tuple[str, int]]
    shares: Sequence[tuple[str, int]]
    missing: str = ""


@dataclass(frozen=True)
class NewRunView(View):
    """The form, as asked for the first time or with what was wrong; `kept`: phases of the base that it has no fields for."""

    template = "runs/new.html"
    nav = "runs"
    dataset: Dataset
    version: DatasetVersion
    totals: dict[str, int]
    cards: Sequence[PresetCard]
    recipes: Sequence[PresetCard]
    starts: Sequence[tuple[str, str]]
    chosen: str
    base: str
    kept: Sequence[Mapping[str, Any]]
    sections: Sequence[Section]
    layers: Sequence[str]
    values: Mapping[str, str]
    name: str
    repeats: str
    most_repeats: int
    problems: Mapping[str, str] = field(default_factory=dict)
    # the preview comes once the panel is opened: what its partial needs until then
    pictures: Sequence[str] = ()
    sentence: str = "Drawing nine variants …"


@dataclass(frozen=True)
class PreviewView(View):
    """Nine augmented variants of a training picture, or the sentence that says why there are none."""

    template = "runs/_preview.html"
    pictures: Sequence[str] = ()
    filename: str = ""
    size: tuple[int, int] = (0, 0)
    sentence: str = ""


@dataclass(frozen=True)
class EstimateView(View):
    """How long a preset would take; without words where nobody knows."""

    template = "runs/_estimate.html"
    status: str
    asked: str = ""
    words: str = ""
    basis: str = ""


@dataclass(frozen=True)
class ChooseView(View):
    """Which dataset to train on."""

    template = "runs/choose.html"
    nav = "runs"
    choices: Sequence[tuple[Dataset, DatasetVersion]]


def _cards(*, recipes: bool, downloads: bool) -> list[PresetCard]:
    return [
        PresetCard(
            preset,
            [(phase.kind, phase.epochs) for phase in preset.config.phases],
            _shares(preset),
            _missing(preset, downloads) if recipes else "",
        )
        for preset in PRESETS.values()
        if preset.recipe == recipes
    ]


def _missing(preset: Preset, downloads: bool) -> str:
    """What a recipe does not find on this machine."""
    if preset.needs_model:
        return "Choose one of your models under “Start from”, with the backbone it has."
    backbone = BACKBONES[preset.config.backbone]
    _, reason = imagenet_state(backbone, downloads)
    return f"{backbone.title}'s ImageNet weights: {reason[0].lower()}{reason[1:]}" if reason else ""


def _starts(session: Session, owner_id: str, chosen: str) -> list[tuple[str, str]]:
    """(value, words) of models and files of weights that a run may start from: the newest of each, and the one that is chosen."""
    found = [_start(one) for one in list_models(session, owner_id, Wish(limit=50)).items]
    found += [_start(one) for one in ready_weights(session, owner_id)]
    kind, _, wanted = chosen.partition(":")
    if kind not in OWN_WEIGHTS or chosen in dict(found):
        return found
    try:
        one = find_model(session, owner_id, wanted) if kind == "model_id" else find_weights(session, owner_id, wanted)
        return [*found, _start(one)]
    except NotFound:  # without an option of its own a browser would send ImageNet, in silence
        return [*found, (chosen, "what is no longer there: choose another")]


def _start(one: TrainedModel | Weights) -> tuple[str, str]:
    backbone = BACKBONES[one.backbone].title if one.backbone in BACKBONES else one.backbone
    if isinstance(one, TrainedModel):
        return f"model_id:{one.id}", f"model “{one.name}” ({backbone})"
    return f"weights_id:{one.id}", f"file {one.filename} ({backbone})"


def _shares(preset: Preset) -> list[tuple[str, int]]:
    """How long the phases are beside each other, for the bar: iterations of a logistic regression take no time to speak of."""
    return [(phase.kind, 4 if phase.optimizer.name == "lbfgs" else phase.epochs) for phase in preset.config.phases]


def _base_config(session: Session, owner_id: str, base: str) -> Mapping[str, Any]:
    """The config a base stands for: a preset's name, or an earlier run's id."""
    preset = PRESETS.get(base)
    return preset.config.model_dump(mode="json") if preset else find_run(session, owner_id, base).config


def _kept_phases(session: Session, owner_id: str, base: str) -> Sequence[Mapping[str, Any]]:
    config = _base_config(session, owner_id, base)
    return () if phases_fit(config) else config["phases"]


@router.get("/runs/new")
def show_new(
    request: Request,
    session: ReadSession,
    person: Person,
    dataset_id: str = "",
    version_id: str = "",
    like: str = "",
    recipe: str = "",
) -> Response:
    """The form; `like` is an earlier run to start from, `recipe` a preset whose settings are to be changed."""
    earlier = find_run(session, person.id, like) if like else None
    version_id = version_id or (earlier.dataset_version_id or "" if earlier else "")
    if not version_id and not dataset_id:
        return render(request, _choose_view(session, person.id))
    version = _version(session, person.id, version_id, dataset_id)
    dataset = find_dataset(session, person.id, version.dataset_id)
    chosen, base = _as_before(earlier) if earlier else (BASE_PRESET, BASE_PRESET)
    if recipe:
        chosen, base = OWN, _preset(recipe).id
    values = form_values(_base_config(session, person.id, base))
    return render(request, _view(request, session, dataset, version, values, chosen=chosen, base=base))


def _as_before(earlier: Run) -> tuple[str, str]:
    """(what is chosen, base) for a run like an earlier one: its preset, or its own settings where they are not just the preset's."""
    if earlier.preset and is_just(earlier.preset, earlier.config):
        return earlier.preset, earlier.preset
    return OWN, earlier.id


def _choose_view(session: Session, owner_id: str) -> ChooseView:
    found = list_datasets(session, owner_id, Wish(limit=50)).items
    versions = latest_versions(session, [one.id for one in found])
    return ChooseView([(one, versions[one.id]) for one in found if one.id in versions])


def _version(session: Session, owner_id: str, version_id: str, dataset_id: str) -> DatasetVersion:
    if version_id:
        return find_version(session, owner_id, version_id)
    dataset = find_dataset(session, owner_id, dataset_id)
    version = latest_versions(session, [dataset.id]).get(dataset.id)
    if version is None:
        raise NotFound(f'The dataset "{dataset.name}" has no pictures yet, so there is nothing to train on.')
    return version


def _view(  # noqa: PLR0913 - what a form is made of
    request: Request,
    session: Session,
    dataset: Dataset,
    version: DatasetVersion,
    values: Mapping[str, str],
    *,
    chosen: str,
    base: str,
    problems: Mapping[str, str] | None = None,
) -> NewRunView:
    totals = {split.value: sum(one[split.value] for one in version.counts.values()) for split in Split}
    backbone = BACKBONES.get(values.get("backbone", ""))
    downloads = house_of(request).settings.download_weights
    return NewRunView(
        dataset=dataset,
        version=version,
        totals=totals,
        cards=_cards(recipes=False, downloads=downloads),
        recipes=_cards(recipes=True, downloads=downloads),
        starts=_starts(session, version.owner_id, values.get("weights", "")),
        chosen=chosen,
        base=base,
        kept=_kept_phases(session, version.owner_id, base),
        sections=sections(),
        layers=backbone.cut_layers if backbone else (),
        values=values,
        name=values.get("name", ""),
        repeats=values.get("repeats", "1"),
        most_repeats=MOST_REPEATS,
        problems=problems or {},
    )


@router.post("/runs")
def create(request: Request, session: WriteSession, person: Person, house: TheHouse, form: Fields) -> Response:
    """Queue what the form asks for, or show the form again with what is wrong at its field."""
    version = find_version(session, person.id, form.get("version_id", ""))
    kinds: Sequence[str] = PHASES
    try:
        repeats = _repeats(form.get("repeats", "1"))
        wished = _wished(session, person.id, form)
        kinds = wished.kinds
        chosen = form.get("preset", BASE_PRESET)
        preset = None if chosen == OWN else chosen
        config = parse_config(wished.config)
        wish = NewRun(config=config, preset=preset, name=form.get("name") or None, repeats=repeats)
        runs = create_runs(session, house.queue, version, wish)
    except InputInvalid as error:
        return _again(request, session, version, form, problems_by_name(error.problems, kinds))
    return see_other(f"/runs/{runs[0].id}" if len(runs) == 1 else f"/runs?group_id={runs[0].group_id}")


def _wished(session: Session, owner_id: str, form: Mapping[str, str]) -> FormConfig:
    """The settings that the form asks for: those of the preset chosen, or its fields.

    Raises:
        InputInvalid: there is no such preset, or it lacks what it starts from.
    """
    chosen = form.get("preset", BASE_PRESET)
    if chosen == OWN:
        return read_form(_base_config(session, owner_id, form.get("base", BASE_PRESET)), form)
    preset = _preset(chosen)
    check_start(preset, preset.config, chosen=False)
    return FormConfig(preset.config.model_dump(mode="json"), PHASES)


@router.post("/runs/preview")
async def show_preview(request: Request, person: Person, house: TheHouse, form: Fields) -> Response:
    """What the form's augmentation makes of one training picture; the form's script asks for it."""
    try:
        wish, filename = await run_in_threadpool(_preview_wish, house, person.id, form)
        view = PreviewView(await preview(house, wish), filename, wish.image_size)
    except InputInvalid as error:
        view = PreviewView(sentence=error.message)
    except WorkersAway as error:
        view = PreviewView(sentence=f"No preview now: {error.message}")
    return await run_in_threadpool(render, request, view)


@router.get("/runs/new/estimate")
def show_estimate(
    request: Request,
    session: ReadSession,
    person: Person,
    house: TheHouse,
    version_id: str = "",
    preset: str = "",
    asked: str = "",
) -> Response:
    """How long a preset would take on this version; `asked` is the estimate that an earlier answer has begun."""
    try:
        if not asked:
            version = find_version(session, person.id, version_id)
            asked = ask_for_estimate(session, house, version, _preset(preset).config)
        return render(request, _told(session, house, person.id, asked))
    except (BrokerAway, NotFound, InputInvalid):  # the card is whole without it
        return render(request, EstimateView("failed"))


@router.post("/runs/new/estimate")
def estimate_form(request: Request, session: ReadSession, person: Person, house: TheHouse, form: Fields) -> Response:
    """Begin to estimate what the form asks for, or say why that cannot run."""
    try:
        version = find_version(session, person.id, form.get("version_id", ""))
        config = parse_config(_wished(session, person.id, form).config)
        return render(request, _told(session, house, person.id, ask_for_estimate(session, house, version, config)))
    except (InputInvalid, NotFound) as error:
        return render(request, EstimateView("failed", words=error.message))
    except BrokerAway as error:
        return render(request, EstimateView("failed", words=f"Nobody can say now: {error.message}"))


def _told(session: Session, house: House, owner_id: str, asked: str) -> EstimateView:
    """An estimate as it stands, in words; one that failed says why."""
    found = find_estimate(session, house, owner_id, asked)
    words = {"measuring": "timing …", "ready": f"about {rounded_duration(found.seconds or 0)}"}.get(
        found.status, found.error or ""
    )
    return EstimateView(found.status, asked, words, found.basis or "")


def rounded_duration(seconds: float) -> str:
    """No more digits than an estimate deserves: 9 s, 45 s, 1:20, 14 min."""
    if seconds < 58:
        return f"{max(1, round(seconds)) if seconds < 20 else round(seconds / 5) * 5} s"
    if seconds < 597:
        whole = round(seconds / 5) * 5
        return f"{whole // 60}:{whole % 60:02}"
    return f"{round(seconds / 60)} min"


def _preview_wish(house: House, owner_id: str, form: Mapping[str, str]) -> tuple[PreviewWish, str]:
    base = PRESETS[BASE_PRESET].config.model_dump(mode="json")
    asked = read_form(base, form).config
    config = parse_config({**base, **{name: asked[name] for name in ("augmentation", "resize", "image_size")}})
    turn = int(form["preview_turn"]) if form.get("preview_turn", "").isdecimal() else 0
    with house.database.read() as session:
        version = find_version(session, owner_id, form.get("version_id", ""))
        place = picture_by_turn(session, version, turn % 1_000_003)
        wish = PreviewWish(place.image.sha256, config.augmentation, config.seed, config.resize, config.image_size)
    return wish, place.filename


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        message = f"There is no preset {name[:60]!r}. Allowed: {', '.join(PRESETS)}, {OWN}."
        raise InputInvalid(message, problems=(FieldProblem("preset", message, name),))
    return PRESETS[name]


def _repeats(text: str) -> int:
    if text.strip().isdecimal():
        return int(text)
    message = f"Repeats must be 1 to {MOST_REPEATS}. Received: {text[:60]!r}."
    raise InputInvalid(message, problems=(FieldProblem("repeats", message, text),))


def _again(
    request: Request, session: Session, version: DatasetVersion, form: Mapping[str, str], problems: Mapping[str, str]
) -> Response:
    """The form with what was typed; nothing is lost."""
    defaults = dict.fromkeys(form_values(PRESETS[BASE_PRESET].config.model_dump(mode="json")), "")
    dataset = session.get_one(Dataset, version.dataset_id)
    chosen, base = form.get("preset", BASE_PRESET), form.get("base", BASE_PRESET)
    view = _view(request, session, dataset, version, {**defaults, **form}, chosen=chosen, base=base, problems=problems)
    return render(request, view, 422)
