from typing import Any

import pytest
from sqlalchemy.orm import Session

from core.database import Database
from core.reproduction import TOLERANCE, reproduction
from core.tables import DatasetVersion, Prediction, Run, RunDocument, RunStatus, Split
from tests.app.people import finished_run
from tests.core.rows import person, version

pytestmark = pytest.mark.both_databases

MACHINE = {"processor": "one", "threads": 2, "versions": {"tensorflow": "2"}}


def repeated(session: Session, on: DatasetVersion, answers: list[list[float]], **changes: Any) -> Run:
    """A finished run with these probabilities of its test pictures; `frozen`: SHA-256 of its frozen weights."""
    run = finished_run(on)
    run.retry_of = changes.get("retry_of")
    session.add(run)
    session.flush()
    files = [{"path": "model/backbone_and_head/frozen.npz", "sha256": changes.get("frozen", "a" * 64)}]
    machine = {**MACHINE, "threads": changes.get("threads", 2)}
    session.add(RunDocument(run_id=run.id, kind="result", body={"files": files, "machine": machine}))
    for number, probabilities in enumerate(answers):
        said = probabilities.index(max(probabilities))
        session.add(
            Prediction(
                run_id=run.id, phase=run.summary["chosen_phase"], split=Split.TEST, image_id=f"picture {number}", true_label=0,
                predicted_label=said, confidence=max(probabilities), true_probability=probabilities[0], probabilities=probabilities,
            )
        )  # fmt: skip
    session.flush()
    return run


def test_a_run_that_comes_out_the_same_is_said_to(database: Database) -> None:
    with database.write() as session:
        on = version(session, person(session))
        first = repeated(session, on, [[0.9, 0.1], [0.3, 0.7]])
        again = repeated(session, on, [[0.9, 0.1], [0.3 + TOLERANCE / 2, 0.7]], retry_of=first.id)
        found = reproduction(session, again)
        assert found is not None
        assert (found.first_id, found.equal_weights, found.same_machine) == (first.id, {"frozen": True}, True)
        assert (found.pictures, found.same_answer) == (2, 2)
        assert found.largest_difference == pytest.approx(TOLERANCE / 2)
        assert found.within_tolerance


@pytest.mark.parametrize(
    ("answers", "changes"),
    [
        ([[0.9, 0.1], [0.3 + 2 * TOLERANCE, 0.7]], {}),
        ([[0.9, 0.1], [0.7, 0.3]], {}),
        ([[0.9, 0.1], [0.3, 0.7]], {"frozen": "b" * 64}),
    ],
)
def test_any_difference_beyond_the_tolerance_is_told(
    database: Database, answers: list[list[float]], changes: dict[str, Any]
) -> None:
    with database.write() as session:
        on = version(session, person(session))
        first = repeated(session, on, [[0.9, 0.1], [0.3, 0.7]])
        found = reproduction(session, repeated(session, on, answers, retry_of=first.id, **changes))
        assert found is not None
        assert not found.within_tolerance


def test_other_threads_are_another_machine(database: Database) -> None:
    with database.write() as session:
        on = version(session, person(session))
        first = repeated(session, on, [[0.9, 0.1]])
        found = reproduction(session, repeated(session, on, [[0.9, 0.1]], retry_of=first.id, threads=4))
        assert found is not None
        assert not found.same_machine


def test_only_the_same_settings_on_the_same_pictures_are_compared(database: Database) -> None:
    with database.write() as session:
        on = version(session, person(session))
        first = repeated(session, on, [[0.9, 0.1]])
        assert reproduction(session, first) is None, "it repeats nothing"
        other = repeated(session, on, [[0.9, 0.1]], retry_of=first.id)
        other.config = {**other.config, "seed": 5}
        assert reproduction(session, other) is None
        other.config = first.config
        assert reproduction(session, other) is not None
        other.status = RunStatus.FAILED
        assert reproduction(session, other) is None
