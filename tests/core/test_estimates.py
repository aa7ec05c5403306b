"""From timed steps to seconds."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from core.database import Database
from core.estimates import (
    CHECK_BUILDS,
    CHECK_LEAST,
    HEAD_STEP,
    MADE_WORSE_SECONDS,
    Counts,
    counts_of,
    estimate,
    left_behind,
    modelled,
    shape_key,
    timed_key,
)
from core.presets import PRESETS
from core.tables import DatasetVersion, Run, RunStatus, User
from core.training_config import Augmentation, FrozenPhase, Optimizer, TrainingConfig, parse_config
from tests.core.rows import person, version

pytestmark = pytest.mark.both_databases

STANDARD = PRESETS["standard"].config
VIEWS, EPOCHS = 3, 6  # of its fine-tune phase
COUNTS = Counts(700, 150, 150, 3)
SPEEDS: dict[str, Any] = {
    "bfloat16": False,
    "build": 1.0,
    "decode": 0.002,
    "phases": [
        {"trace": 2.0, "extract": 0.002, "extract_view": 0.0, "step": 0.0},
        {"trace": 4.0, "extract": 0.002, "extract_view": 0.003, "step": 0.004},
    ],
}


def changed(**changes: Any) -> TrainingConfig:
    """The standard preset with another fine-tune phase."""
    data = STANDARD.model_dump(mode="json")
    return parse_config({**data, "phases": [data["phases"][0], {**data["phases"][1], **changes}]})


def parts(
    config: TrainingConfig,
    counts: Counts = COUNTS,
    *,
    known: frozenset[str] = frozenset(),
    speeds: dict[str, Any] = SPEEDS,
) -> dict[str, float]:
    return modelled(config, counts, speeds, threads=2, known=known)


def test_a_phase_costs_its_trace_its_views_and_its_epochs() -> None:
    once = 4.0 + 700 * VIEWS * 0.003 + 150 * 0.002
    epochs = EPOCHS * (700 + 0.35 * 150) * 0.004
    assert parts(STANDARD)["phase_1"] == pytest.approx(once + epochs)


def test_more_epochs_views_and_pictures_take_longer_and_known_features_less() -> None:
    base = sum(parts(STANDARD).values())
    assert sum(parts(changed(epochs=16)).values()) > base
    assert sum(parts(changed(views=8)).values()) > base
    assert sum(parts(STANDARD, Counts(1400, 150, 150, 3)).values()) > base
    assert sum(parts(STANDARD, known=left_behind(STANDARD)).values()) < base


def test_what_another_shape_of_run_left_behind_is_not_computed_again() -> None:
    """Standard after Quick: pictures and plain features are there, the augmented ones are not."""
    quick = STANDARD.model_copy(update={"phases": STANDARD.phases[:1], "batch_size": 7})
    new, after = parts(STANDARD), parts(STANDARD, known=left_behind(quick))
    # pictures are decoded while the network is built, which takes half of the timed second here
    assert (new["prepare"], after["prepare"]) == (pytest.approx(0.5 + COUNTS.all * 0.002 / 2), pytest.approx(0.5 + 0.5))
    assert new["phase_0"] - after["phase_0"] == pytest.approx((700 + 150) * 0.002)
    assert new["phase_1"] == after["phase_1"]


def test_augmented_features_are_known_for_the_same_seed_and_augmentation_alone() -> None:
    plain = (COUNTS.validation * 0.002, 700 * VIEWS * 0.003)  # of phase 1: validation, views
    saved = {}
    for name, changes in {
        "same": {},
        "seed": {"seed": 5},
        "augmentation": {"augmentation": Augmentation(vertical_flip=True)},
        "size": {"image_size": (96, 96)},
        "weights": {"weights": "none"},
    }.items():
        known = left_behind(STANDARD.model_copy(update=changes))
        saved[name] = parts(STANDARD)["phase_1"] - parts(STANDARD, known=known)["phase_1"]
    assert saved["same"] == pytest.approx(sum(plain))
    assert saved["seed"] == saved["augmentation"] == pytest.approx(plain[0])
    assert saved["size"] == saved["weights"] == 0.0


def test_a_head_costs_what_it_was_timed_at_and_a_tiny_one_the_fetching_of_its_features() -> None:
    adam = changed().model_copy(update={"phases": (FrozenPhase(epochs=10, optimizer=Optimizer(name="adam")),)})

    def learning(step: float) -> float:
        speeds = {**SPEEDS, "phases": [{"trace": 0.0, "extract": 0.0, "extract_view": 0.0, "step": step}]}
        return parts(adam, speeds=speeds)["phase_0"]

    assert learning(0.001) == pytest.approx(10 * (700 + 0.35 * 150) * 0.001)
    assert learning(1e-7) == learning(0.0) == pytest.approx(10 * (700 + 0.35 * 150) * HEAD_STEP)


def test_steps_per_epoch_count_instead_of_pictures() -> None:
    few = parts(changed(steps_per_epoch=2))["phase_1"]
    assert parts(STANDARD)["phase_1"] - few == pytest.approx(EPOCHS * (700 - 64) * 0.004)


def test_judging_counts_the_test_pictures_made_worse_up_to_as_many_as_the_card_looks_at() -> None:
    forward = 0.05  # so slow that judging takes longer than the check of the export
    phase = {**SPEEDS["phases"][0], "extract": forward}

    def judging(test: int, **changes: Any) -> float:
        speeds = {**SPEEDS, "phases": [phase], **changes}
        return parts(PRESETS["quick"].config, Counts(700, 150, test, 3), speeds=speeds)["evaluate"]

    # asked once, its features once, plain for the card and in seven ways, and made worse in seven ways
    assert judging(101) - judging(100) == pytest.approx((1 + 1 + 8) * forward + 7 * MADE_WORSE_SECONDS)
    assert judging(1001) - judging(1000) == pytest.approx(2 * forward)
    assert judging(101, bfloat16=True) - judging(100, bfloat16=True) == pytest.approx(
        (2 * (1 + 8) + 1) * forward + 7 * MADE_WORSE_SECONDS
    )


def test_judging_and_the_check_beside_it_take_as_long_as_the_longer_and_share_the_processors() -> None:
    check = CHECK_LEAST + CHECK_BUILDS * SPEEDS["build"]

    def evaluating(forward: float, threads: int) -> float:
        speeds = {**SPEEDS, "phases": [{**SPEEDS["phases"][0], "extract": forward}]}
        return modelled(PRESETS["quick"].config, Counts(700, 150, 150, 3), speeds, threads=threads, known=frozenset())[
            "evaluate"
        ]

    assert evaluating(0.0001, 8) == check
    assert evaluating(0.05, 2) - evaluating(0.05, 8) == pytest.approx(check * (1 / 2 - 1 / 8))
    assert evaluating(0.05, 8) > 2 * check


def test_what_the_model_knows_is_asked_anew_only_after_fine_tuning() -> None:
    quick = PRESETS["quick"].config
    speeds = {**SPEEDS, "phases": SPEEDS["phases"][:1]}
    few, many = Counts(700, 150, 150, 3), Counts(800, 150, 150, 3)
    assert parts(quick, many, speeds=speeds)["export"] == parts(quick, few, speeds=speeds)["export"]
    assert parts(STANDARD, many)["export"] - parts(STANDARD, few)["export"] == pytest.approx(100 * 0.002)
    assert parts(STANDARD, Counts(5000, 150, 150, 3))["export"] == parts(STANDARD, Counts(1000, 150, 150, 3))["export"]


def test_epochs_rates_and_seeds_do_not_change_the_shape_but_thawing_and_size_do() -> None:
    key = shape_key(STANDARD, 3)
    assert shape_key(changed(epochs=20, optimizer={"name": "adamw", "learning_rate": 0.1}), 3) == key
    assert shape_key(STANDARD.model_copy(update={"seed": 5}), 3) == key
    assert shape_key(changed(unfreeze_from="b7_add"), 3) != key
    assert shape_key(STANDARD.model_copy(update={"image_size": (96, 96)}), 3) != key
    assert shape_key(STANDARD, 4) != key


def finished(session: Session, owner: User, on: DatasetVersion, factor: float) -> None:
    """A run that took `factor` times what timed steps say."""
    real = modelled(STANDARD, counts_of(on), SPEEDS, threads=2, known=frozenset())
    seconds = {name: value * factor for name, value in real.items()}
    run = Run(
        owner_id=owner.id,
        dataset_version_id=on.id,
        dataset_title="Fruit",
        name="earlier",
        status=RunStatus.SUCCEEDED,
        config=STANDARD.model_dump(mode="json"),
        batch_size=32,
        summary={"seconds": seconds},
        test_fingerprint=on.test_fingerprint,
        code_version="0",
    )
    session.add(run)
    session.flush()


def test_earlier_runs_of_the_same_shape_mend_the_estimate(database: Database) -> None:
    with database.write() as session:
        owner = person(session)
        here, elsewhere = version(session, owner), version(session, owner, name="Other")
        plain = estimate(session, here, STANDARD, SPEEDS, threads=2)
        assert plain.basis == "timed steps on this machine"
        for factor in (1.5, 2.0, 2.5):
            finished(session, owner, version(session, owner, name=str(factor)), factor)
        mended = estimate(session, elsewhere, STANDARD, SPEEDS, threads=2)
        rest = sum(seconds for name, seconds in plain.by_phase.items() if name != "prepare")
        # how long their pictures took to decode says nothing about the pictures here
        assert mended.by_phase["prepare"] == plain.by_phase["prepare"]
        assert mended.seconds == pytest.approx(plain.by_phase["prepare"] + 2 * rest)
        assert "3 earlier runs" in mended.basis
        assert set(mended.by_phase) == {"prepare", "phase_0", "phase_1", "export", "evaluate"}
        other_shape = STANDARD.model_copy(update={"batch_size": 64})
        assert estimate(session, here, other_shape, SPEEDS, threads=2).basis == plain.basis


def test_how_long_this_versions_pictures_took_is_learned_from_a_run_on_it(database: Database) -> None:
    with database.write() as session:
        owner = person(session)
        here = version(session, owner)
        finished(session, owner, here, 3.0)
        again = estimate(session, here, changed(epochs=20), SPEEDS, threads=2)
        known = modelled(changed(epochs=20), counts_of(here), SPEEDS, threads=2, known=left_behind(STANDARD))
        assert again.by_phase["prepare"] == pytest.approx(3 * known["prepare"])


def test_speeds_hold_for_pictures_of_about_the_same_size() -> None:
    small, like, large = ([size] * 6 for size in (10_000, 11_000, 4_000_000))
    assert timed_key("shape", small) == timed_key("shape", like) != timed_key("shape", large)
    assert timed_key("shape", small) != timed_key("another", small)


def test_features_that_a_run_of_another_shape_left_on_this_version_are_known(database: Database) -> None:
    with database.write() as session:
        owner = person(session)
        here, elsewhere = version(session, owner), version(session, owner, name="Other")
        finished(session, owner, here, 1.0)
        other_shape = STANDARD.model_copy(update={"batch_size": 64})
        known, new = (estimate(session, one, other_shape, SPEEDS, threads=2) for one in (here, elsewhere))
        assert known.basis == new.basis == "timed steps on this machine"
        assert known.by_phase == modelled(other_shape, counts_of(here), SPEEDS, threads=2, known=left_behind(STANDARD))
        assert known.seconds < new.seconds
        on_gpu = estimate(session, here, other_shape, {**SPEEDS, "device": "NVIDIA L4"}, threads=2)
        assert on_gpu.basis == "timed steps on this machine (NVIDIA L4)"


def test_runs_of_other_people_and_of_settings_that_are_no_more_do_not_count(database: Database) -> None:
    with database.write() as session:
        owner, other = person(session), person(session, "eve")
        finished(session, other, version(session, other, name="hers"), 3.0)
        mine = version(session, owner)
        finished(session, owner, mine, 3.0)
        session.query(Run).filter(Run.owner_id == owner.id).update({"config": {"backbone": "gone"}})
        session.expire_all()
        found = estimate(session, mine, STANDARD, SPEEDS, threads=2)
        assert found.basis == "timed steps on this machine"
