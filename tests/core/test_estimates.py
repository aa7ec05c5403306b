"""From timed steps to seconds."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from core.database import Database
from core.estimates import Counts, counts_of, estimate, modelled, shape_key
from core.presets import PRESETS
from core.tables import DatasetVersion, Run, RunStatus, User
from core.training_config import TrainingConfig, parse_config
from tests.core.rows import person, version

pytestmark = pytest.mark.both_databases

STANDARD = PRESETS["standard"].config
VIEWS, EPOCHS = 3, 6  # of its fine-tune phase
COUNTS = Counts(700, 150, 150, 3)
SPEEDS: dict[str, Any] = {
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


def parts(config: TrainingConfig, counts: Counts = COUNTS, *, known: bool = False) -> dict[str, float]:
    return modelled(config, counts, SPEEDS, threads=2, known=known)


def test_a_phase_costs_its_trace_its_views_and_its_epochs() -> None:
    once = 4.0 + 700 * VIEWS * 0.003 + 150 * 0.002
    epochs = EPOCHS * (700 + 0.35 * 150) * 0.004
    assert parts(STANDARD)["phase_1"] == pytest.approx(once + epochs)


def test_more_epochs_views_and_pictures_take_longer_and_known_features_less() -> None:
    base = sum(parts(STANDARD).values())
    assert sum(parts(changed(epochs=16)).values()) > base
    assert sum(parts(changed(views=8)).values()) > base
    assert sum(parts(STANDARD, Counts(1400, 150, 150, 3)).values()) > base
    assert sum(parts(STANDARD, known=True).values()) < base


def test_steps_per_epoch_count_instead_of_pictures() -> None:
    few = parts(changed(steps_per_epoch=2))["phase_1"]
    assert parts(STANDARD)["phase_1"] - few == pytest.approx(EPOCHS * (700 - 64) * 0.004)


def test_epochs_rates_and_seeds_do_not_change_the_shape_but_thawing_and_size_do() -> None:
    key = shape_key(STANDARD, 3)
    assert shape_key(changed(epochs=20, optimizer={"name": "adamw", "learning_rate": 0.1}), 3) == key
    assert shape_key(STANDARD.model_copy(update={"seed": 5}), 3) == key
    assert shape_key(changed(unfreeze_from="b7_add"), 3) != key
    assert shape_key(STANDARD.model_copy(update={"image_size": (96, 96)}), 3) != key
    assert shape_key(STANDARD, 4) != key


def finished(session: Session, owner: User, on: DatasetVersion, factor: float) -> None:
    """A run that took `factor` times what timed steps say."""
    real = modelled(STANDARD, counts_of(on), SPEEDS, threads=2, known=False)
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
        assert mended.seconds == pytest.approx(2 * plain.seconds)
        assert "3 earlier runs" in mended.basis
        assert set(mended.by_phase) == {"prepare", "phase_0", "phase_1", "export", "evaluate"}
        other_shape = STANDARD.model_copy(update={"batch_size": 64})
        assert estimate(session, here, other_shape, SPEEDS, threads=2).basis == plain.basis


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
