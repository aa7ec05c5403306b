"""What happens to a run between queued and its end."""

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from core import catalog, datasets, leases, models, runs
from core.database import Database
from core.errors import Conflict, InputInvalid, NotFound
from core.leases import RUN_LIFE, Claim
from core.tables import DatasetVersion, Run, RunStatus, TrainedModel
from core.training_config import parse_config
from tests.core.rows import RememberingQueue, person, version

pytestmark = pytest.mark.both_databases

TINY = {"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 32]}


def _running(database: Database, **changes: object) -> Claim:
    with database.write() as session:
        wish = runs.NewRun(parse_config({**TINY, **changes}))
        runs.create_runs(session, RememberingQueue(), version(session, person(session)), wish)  # type: ignore[arg-type]
    with database.write() as session:
        held = leases.claim(session, RUN_LIFE, "a worker", 60)
    assert held is not None
    return held


def _run(database: Database, held: Claim) -> Run:
    with database.read() as session:
        return session.get_one(Run, held.id)


def _success(accuracy: float = 0.9) -> runs.Success:
    line = {
        "phase": "frozen",
        "split": "test",
        "image_id": "x",
        "true_label": 0,
        "predicted_label": 1,
        "probabilities": [0.25, 0.75],
    }
    export = {"format": "saved_model", "storage_key": "models/x.zip", "size_bytes": 3, "sha256": "a" * 64}
    return runs.Success({"test_accuracy": accuracy}, {"layers": []}, [line], [{**export, "agreement": {}}], "models/x")


def test_queueing_rings_the_train_queue_only_after_the_commit(database: Database) -> None:
    queue = RememberingQueue()
    with database.write() as session:
        runs.create_runs(session, queue, version(session, person(session)), runs.NewRun(parse_config(TINY)))  # type: ignore[arg-type]
        assert queue.rung == []
    assert queue.rung == ["train"]


def test_the_last_repeat_needs_a_seed_too(database: Database) -> None:
    with database.write() as session:
        on = version(session, person(session))
        wish = runs.NewRun(parse_config({**TINY, "seed": 2**31 - 2}), repeats=3)
        with pytest.raises(InputInvalid, match="seed 2147483646 and 3 repeats"):
            runs.create_runs(session, None, on, wish)
        assert len(runs.create_runs(session, None, on, replace(wish, repeats=2))) == 2


def test_repeats_make_a_group_with_rising_seeds(database: Database) -> None:
    with database.write() as session:
        wish = runs.NewRun(parse_config({**TINY, "seed": 7}), repeats=3)
        made = runs.create_runs(session, RememberingQueue(), version(session, person(session)), wish)  # type: ignore[arg-type]
        assert [run.config["seed"] for run in made] == [7, 8, 9]
        assert len({run.group_id for run in made}) == 1


def test_a_sigmoid_head_on_three_classes_is_refused_with_a_sentence(database: Database) -> None:
    wish = runs.NewRun(parse_config({**TINY, "head": {"binary": True}}))
    with pytest.raises(InputInvalid, match="exactly two classes") as refused, database.write() as session:
        three = version(session, person(session), classes=3)
        runs.create_runs(session, RememberingQueue(), three, wish)  # type: ignore[arg-type]
    assert refused.value.problems[0].field == "config.head.binary"


def test_an_epoch_said_twice_is_stored_once(database: Database) -> None:
    held = _running(database)
    epoch = runs.MetricValue("frozen", 0, 1, "validation", "accuracy", 0.5)
    again = runs.MetricValue("frozen", 0, 1, "validation", "accuracy", 0.7)
    with database.write() as session:
        runs.record(session, held, runs.Report(metrics=[epoch]))
        runs.record(session, held, runs.Report(metrics=[again]))
    with database.read() as session:
        assert [one.value for one in catalog.run_metrics(session, held.id)] == [0.5]


def test_a_thousand_epochs_in_one_report_are_stored(database: Database) -> None:
    """A trainer of cached features does them while the database is away for a minute."""
    held = _running(database)
    told = [
        runs.MetricValue("frozen", 0, epoch, split, name, 0.5)
        for epoch in range(1, 1001)
        for split in ("train", "validation")
        for name in ("loss", "accuracy", "auc", "top5")
    ]
    with database.write() as session:
        runs.record(session, held, runs.Report(metrics=told))
    with database.read() as session:
        assert len(catalog.run_metrics(session, held.id)) == len(told) == 8000


def test_every_write_raises_the_revision_that_watchers_resume_from(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        runs.record(session, held, runs.Report(log=["one"]))
        seen = session.scalars(select(Run.revision).where(Run.id == held.id)).one()
        runs.record(session, held, runs.Report(log=["two", "three"]))
    with database.read() as session:
        lines = catalog.log_lines(session, held.id, after_revision=seen)
        assert [(line.number, line.message) for line in lines] == [(2, "two"), (3, "three")]


def test_a_run_tells_in_the_end_what_it_really_computed_in(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        hoped = {"machine": {"device": "CPU", "precision": "bfloat16"}}
        runs.record(session, held, runs.Report(columns=hoped))
        result = {"machine": {"precision": "float32"}}
        runs.finish_succeeded(session, held, replace(_success(), documents={"layers": [], "result": result}))
    with database.read() as session:
        assert session.get_one(Run, held.id).machine == {"device": "CPU", "precision": "float32"}


def test_success_makes_exactly_one_model_with_its_file(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        model = runs.finish_succeeded(session, held, _success())
        assert models.ready_export(session, model, "saved_model").size_bytes == 3
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(TrainedModel)) == 1
        page = catalog.predictions(session, held.id, catalog.PredictionWish("frozen", wrong_only=True))
        assert [(one.confidence, one.true_probability) for one in page.items] == [(0.75, 0.25)]
    assert _run(database, held).status == RunStatus.SUCCEEDED


def test_cancelling_a_queued_run_ends_it_at_once(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        runs.give_back(session, held, "drained")
    with database.write() as session:
        runs.cancel_run(session, session.get_one(Run, held.id))
    assert _run(database, held).status == RunStatus.CANCELLED
    with pytest.raises(Conflict, match="ended already"), database.write() as session:
        runs.cancel_run(session, session.get_one(Run, held.id))


def test_a_running_run_hears_of_its_cancel_when_it_renews(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        assert leases.renew(session, RUN_LIFE, held, 60) is False
    with database.write() as session:
        runs.cancel_run(session, session.get_one(Run, held.id))
    with database.write() as session:
        assert leases.renew(session, RUN_LIFE, held, 60) is True


def test_out_of_memory_is_tried_once_more_with_half_the_batch(database: Database) -> None:
    held = _running(database, batch_size=32)
    with database.write() as session:
        assert runs.record_out_of_memory(session, held, "too big") == RunStatus.QUEUED
    assert _run(database, held).batch_size == 16
    with database.write() as session:
        second = leases.claim(session, RUN_LIFE, "a worker", 60)
    assert second is not None
    with database.write() as session:
        assert runs.record_out_of_memory(session, second, "still too big") == RunStatus.FAILED
    failure = _run(database, held).failure
    assert failure is not None
    assert failure["kind"] == "out_of_memory"


def test_the_third_crash_fails_the_run_and_says_why(database: Database) -> None:
    held: Claim | None = _running(database)
    for expected in (RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.FAILED):
        assert held is not None
        with database.write() as session:
            assert runs.record_crash(session, held, "the trainer died with signal 11") == expected
        last = held
        with database.write() as session:
            held = leases.claim(session, RUN_LIFE, "a worker", 60)
    failure = _run(database, last).failure
    assert failure is not None
    assert "signal 11" in failure["message"]


def test_looks_counts_the_finished_runs_on_the_same_test_split(database: Database) -> None:
    with database.write() as session:
        owner = person(session)
        frozen = version(session, owner)
        wish = runs.NewRun(parse_config(TINY), repeats=3)
        runs.create_runs(session, RememberingQueue(), frozen, wish)  # type: ignore[arg-type]
    for _ in range(2):
        with database.write() as session:
            held = leases.claim(session, RUN_LIFE, "a worker", 60)
            assert held is not None
            runs.finish_succeeded(session, held, _success())
    with database.read() as session:
        every = session.scalars(select(Run)).all()
        assert runs.looks(session, every) == {run.id: 2 for run in every}
        stranger = Run(id="x", owner_id="nobody", test_fingerprint=frozen.test_fingerprint)
        assert runs.looks(session, [stranger]) == {"x": 0}
        models = session.scalars(select(TrainedModel)).all()
        assert runs.model_looks(session, models) == {model.id: 2 for model in models}
        assert len(models) == 2


def test_a_dataset_with_a_finished_run_is_deleted_only_by_force_and_its_model_stays(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        runs.finish_succeeded(session, held, _success())
    with database.write() as session:
        owner = person(session)
        dataset = datasets.find_dataset(session, owner.id, session.scalars(select(DatasetVersion.dataset_id)).one())
        with pytest.raises(Conflict, match="force"):
            datasets.delete_dataset(session, dataset, force=False)
        datasets.delete_dataset(session, dataset, force=True)
    run = _run(database, held)
    assert (run.status, run.dataset_id, run.dataset_version_id) == (RunStatus.SUCCEEDED, None, None)
    with database.read() as session:
        assert catalog.model_of_run(session, held.id) is not None


def test_another_persons_run_is_not_found(database: Database) -> None:
    held = _running(database)
    with database.write() as session:
        other = person(session, "other")
        with pytest.raises(NotFound):
            runs.find_run(session, other.id, held.id)
