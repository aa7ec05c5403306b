import pytest

from app.run_form import form_values, phases_fit, problems_by_name, read_form, sections
from core.errors import ConfigInvalid
from core.presets import PRESETS
from core.training_config import EarlyStopping, FineTunePhase, FrozenPhase, TrainingConfig, parse_config

STANDARD = PRESETS["standard"].config.model_dump(mode="json")


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_goes_through_the_form_unchanged(preset: str) -> None:
    config = PRESETS[preset].config.model_dump(mode="json")
    assert parse_config(read_form(config, form_values(config)).config) == PRESETS[preset].config


def test_what_the_form_does_not_change_is_kept() -> None:
    values = form_values(STANDARD) | {"fine_tune.epochs": "3"}
    phases = read_form(STANDARD, values).config["phases"]
    assert phases[1]["epochs"] == 3
    assert phases[1]["ema_decay"] == 0.98


def test_a_phase_that_is_switched_off_is_left_out() -> None:
    read = read_form(STANDARD, form_values(STANDARD) | {"fine_tune.on": ""})
    assert read.kinds == ("frozen",)
    assert parse_config(read.config).phases[0].kind == "frozen"


def test_a_phase_that_the_base_has_not_begins_with_the_standard_one() -> None:
    quick = PRESETS["quick"].config.model_dump(mode="json")
    read = read_form(quick, form_values(quick) | {"fine_tune.on": "on"})
    assert parse_config(read.config).phases[1].epochs == STANDARD["phases"][1]["epochs"]


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("0.3", {"fraction": 0.3}), ("b9_add", "b9_add"), ("1", {"fraction": 1})]
)
def test_thaw_from_is_everything_a_share_or_a_layer(text: str, value: object) -> None:
    config = read_form(STANDARD, form_values(STANDARD) | {"fine_tune.unfreeze_from": text}).config
    assert config["phases"][1]["unfreeze_from"] == value


@pytest.mark.parametrize(("text", "value"), [("96", [96, 96]), ("96, 128", [96, 128]), ("96 x 128", [96, 128])])
def test_an_image_size_is_one_number_or_two(text: str, value: list[int]) -> None:
    assert read_form(STANDARD, form_values(STANDARD) | {"image_size": text}).config["image_size"] == value


def test_hidden_units_and_patience_may_be_empty() -> None:
    values = form_values(STANDARD) | {"head.hidden_units": " 256,12 ", "frozen.early_stopping.patience": ""}
    values["frozen.optimizer.name"] = "adam"  # L-BFGS trains a linear head only
    config = parse_config(read_form(STANDARD, values).config)
    assert config.head.hidden_units == (256, 12)
    assert config.phases[0].early_stopping is None


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("head.dropout", "7"),
        ("head.hidden_units", "256, 12a"),
        ("image_size", "banana"),
        ("batch_size", ""),
        ("seed", "1.5"),
        ("frozen.epochs", "0"),
        ("fine_tune.optimizer.learning_rate", "high"),
        ("fine_tune.unfreeze_from", "no_such_layer"),
        ("backbone", "resnet9000"),
        ("augmentation.zoom", "2"),
        ("augmentation.shift", "0.1, 0.2, 0.3"),
        ("augmentation.shift", "a little"),
        ("cut_layer", "no_such_layer"),
        ("frozen.steps_per_epoch", "0"),
        ("fine_tune.ema_decay", "1"),
        ("fine_tune.early_stopping.patience", "-1"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(field: str, text: str) -> None:
    read = read_form(STANDARD, form_values(STANDARD) | {field: text})
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(read.config)
    assert list(problems_by_name(caught.value.problems, read.kinds)) == [field]


def test_a_problem_of_the_fine_tune_phase_alone_stands_at_its_field() -> None:
    values = form_values(STANDARD) | {"frozen.on": "", "weights": "none", "fine_tune.epochs": "0"}
    read = read_form(STANDARD, values)
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(read.config)
    assert list(problems_by_name(caught.value.problems, read.kinds)) == ["fine_tune.epochs"]


def test_both_phases_off_is_one_sentence() -> None:
    read = read_form(STANDARD, form_values(STANDARD) | {"frozen.on": "", "fine_tune.on": ""})
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(read.config)
    assert problems_by_name(caught.value.problems, read.kinds) == {"": "Both phases are off. At least one must be on."}


def test_every_field_has_help_and_numbers_have_their_range() -> None:
    for section in sections():
        for field in section.fields:
            assert field.help
            assert field.kind != "number" or (field.least and field.most), field.name


def leaves(value: object, path: str = "") -> list[str]:
    """Dotted paths of everything in a config that is no object."""
    if not isinstance(value, dict):
        return [path]
    return [leaf for name, one in value.items() for leaf in leaves(one, f"{path}.{name}" if path else name)]


def test_every_leaf_of_a_config_has_a_field_and_no_field_is_without_one() -> None:
    phases = {
        "frozen": FrozenPhase(early_stopping=EarlyStopping()),
        "fine_tune": FineTunePhase(early_stopping=EarlyStopping()),
    }
    config = TrainingConfig(phases=tuple(phases.values())).model_dump(mode="json")
    wanted = set(leaves({name: value for name, value in config.items() if name != "phases"}))
    for kind, phase in phases.items():
        wanted |= {f"{kind}.{one}" for one in leaves(phase.model_dump(mode="json")) if one != "kind"}
    assert {field.name for section in sections() for field in section.fields} == wanted


def test_every_field_goes_through_the_form() -> None:
    changed = form_values(STANDARD) | {
        "augmentation.shift": "0.1, 0.25",
        "augmentation.shear_degrees": "12.5",
        "cut_layer": "b10_add",
        "head.activation": "gelu",
        "head.binary": "on",
        "precision": "float32",
        "fine_tune.unfreeze_from": "b9_add",
        "fine_tune.ema_decay": "0.9",
        "fine_tune.keep": "last",
        "fine_tune.steps_per_epoch": "7",
        "fine_tune.optimizer.momentum": "0.9",
        "fine_tune.schedule.decay_rate": "0.01",
        "fine_tune.schedule.warmup_epochs": "1.5",
        "frozen.optimizer.name": "adamw",
        "frozen.optimizer.weight_decay": "0.02",
    }
    config = parse_config(read_form(STANDARD, changed).config)
    assert form_values(config.model_dump(mode="json")) == changed
    frozen, tuned = config.phases
    assert (config.augmentation.shift, config.cut_layer, config.head.binary) == ((0.1, 0.25), "b10_add", True)
    assert (tuned.ema_decay, tuned.steps_per_epoch, tuned.schedule.warmup_epochs) == (0.9, 7, 1.5)
    assert (frozen.optimizer.weight_decay, tuned.optimizer.momentum) == (0.02, 0.9)


def test_one_number_of_a_shift_stands_for_both() -> None:
    config = read_form(STANDARD, form_values(STANDARD) | {"augmentation.shift": "0.1"}).config
    assert config["augmentation"]["shift"] == [0.1, 0.1]


def test_ranges_are_those_of_the_config() -> None:
    fields = {field.name: field for section in sections() for field in section.fields}
    metadata = TrainingConfig.model_fields["batch_size"].metadata
    assert (fields["batch_size"].least, fields["batch_size"].most) == tuple(
        str(getattr(one, "ge", getattr(one, "le", ""))) for one in metadata
    )


@pytest.mark.parametrize("weights", [{"model_id": "m1"}, {"weights_id": "w1"}])
def test_weights_of_ones_own_go_through_the_form(weights: dict[str, str]) -> None:
    config = STANDARD | {"weights": weights}
    values = form_values(config)
    assert values["weights"] == ":".join(*weights.items())
    assert read_form(STANDARD, values).config["weights"] == weights


def test_a_number_that_nobody_touches_keeps_every_digit() -> None:
    phase = {"kind": "frozen", "epochs": 3, "optimizer": {"name": "adam", "learning_rate": 0.000123456789}}
    augmentation = {"rotation_degrees": 12.3456789, "shift": [0.123456789, 0.5]}
    config = parse_config({"phases": [phase], "augmentation": augmentation, "label_smoothing": 0.1234567891})
    written = config.model_dump(mode="json")
    assert parse_config(read_form(written, form_values(written)).config) == config
    assert form_values(STANDARD)["augmentation.rotation_degrees"] == "36"


FROZEN, TUNE = {"kind": "frozen", "epochs": 1}, {"kind": "fine_tune", "epochs": 2}


@pytest.mark.parametrize(
    "phases",
    [
        [FROZEN, TUNE, {**TUNE, "epochs": 3, "unfreeze_from": "b10_add"}],
        [{**TUNE, "epochs": 7}, FROZEN],
        [FROZEN, {**FROZEN, "epochs": 9}],
    ],
)
def test_phases_that_the_form_has_no_fields_for_are_kept(phases: list[dict[str, object]]) -> None:
    config = parse_config({"phases": phases, "weights": "none"}).model_dump(mode="json")
    assert not phases_fit(config)
    form = {name: value for name, value in form_values(config).items() if not name.startswith(("frozen", "fine_tune"))}
    read = parse_config(read_form(config, form | {"seed": "5"}).config)
    assert read.model_dump(mode="json") == {**config, "seed": 5}


def test_what_is_wrong_with_a_kept_phase_is_said_above_the_form() -> None:
    tune = {**TUNE, "unfreeze_from": "b10_add"}
    config = parse_config({"phases": [FROZEN, tune, tune]}).model_dump(mode="json")
    read = read_form(config, form_values(config) | {"backbone": "tiny_cnn", "weights": "none"})
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(read.config)
    assert 'has no layer "b10_add"' in problems_by_name(caught.value.problems, read.kinds)[""]
