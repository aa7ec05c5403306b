"""The supervisor against a trainer that speaks the protocol and does what each test asks of it."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from core.accounts import local_user
from core.errors import FULL_DISK, DiskFull
from core.leases import RUN_LIFE, claim, expire, expired
from core.logs import JsonLines
from core.models import delete_model, find_model
from core.storage import FolderStorage
from core.tables import Export, LogLine, Metric, Prediction, Run, RunStatus, TrainedModel
from tests.core.rows import tiny_model
from tests.worker.tiny_dataset import blob_paths, queue_run
from tests.worker.workplaces import retried, workplace
from worker import memory_kills, trainer_process
from worker import supervisor as supervisor_module
from worker.hold import Hold
from worker.run_preparation import attempts_folder
from worker.supervisor import Supervisor, crash_sentence
from worker.trainer_process import Spare, wait_for_end
from worker.workplace import Workplace

Play = Callable[[str], Run]


@pytest.fixture
def place(tmp_path: Path, database_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A workplace with short leases, without a broker: what it announces is heard by nobody."""
    command = [sys.executable, "-m", "tests.worker.fake_trainer"]
    monkeypatch.setattr(trainer_process, "trainer_command", lambda: command)
    with workplace(tmp_path, database_address, "train", lease_seconds=5, spare_trainer=False) as made:
        yield made


@pytest.fixture
def play(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Queue a run, let the supervisor work until nothing waits, and give the run back."""

    def playing(steps: str) -> Run:
        monkeypatch.setenv("FAKE_TRAINER", steps)
        run_id = queue_run(place.database, place.settings)
        Supervisor(place).task()
        return run_of(place, run_id)

    return playing


def run_of(place: Workplace, run_id: str) -> Run:
    with place.database.read() as session:
        return session.get_one(Run, run_id)


def only_run(place: Workplace) -> Run:
    with place.database.read() as session:
        return session.scalars(select(Run)).one()


def epochs_of(place: Workplace, run_id: str) -> list[int]:
    with place.database.read() as session:
        where = (Metric.run_id == run_id, Metric.split == "validation", Metric.name == "loss")
        return list(session.scalars(select(Metric.epoch).where(*where).order_by(Metric.epoch)))


def log_of(place: Workplace, run_id: str) -> str:
    with place.database.read() as session:
        lines = session.scalars(select(LogLine.message).where(LogLine.run_id == run_id).order_by(LogLine.number))
        return "\n".join(lines)


def later(what: Callable[[], None], seconds: float) -> None:
    threading.Timer(seconds, what).start()


def drain_attempt(place: Workplace, number: int) -> None:
    """Ask for the drain once this attempt of the only run is prepared, however long that takes."""

    def wait() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not list(place.settings.runs_folder.glob(f"*/attempts/{number}/run.json")):
            time.sleep(0.05)
        place.drain.set()

    later(wait, 0.0)


def test_a_succeeded_trainer_becomes_a_model_with_its_files(place: Workplace, play: Play) -> None:
    run = play("epochs=3,succeed,exit=0")
    assert run.status == RunStatus.SUCCEEDED
    assert (run.attempt, run.test_accuracy, run.machine["device"]) == (1, 0.5, "CPU")
    assert run.started_at is not None
    assert epochs_of(place, run.id) == [1, 2, 3]
    with place.database.read() as session:
        model = session.scalars(select(TrainedModel)).one()
        export = session.scalars(select(Export)).one()
        assert len(session.scalars(select(Prediction)).all()) == 8
    assert model.storage_key == f"models/{run.id}-1"
    assert export.storage_key is not None
    assert place.storage.local(export.storage_key).read_bytes() == b"zip"
    assert place.storage.has(f"{model.storage_key}/saved_model/saved_model.pb")
    left = {path.name for path in (attempts_folder(place.settings, run.id) / "1").iterdir()}
    assert left == {"run.json", "images.jsonl", "result.json", "evaluation.json", "layers.json", "predictions.jsonl"}


def test_every_line_of_the_workers_log_names_the_run(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    caplog.handler.setFormatter(JsonLines())
    run = play("epochs=1,succeed,exit=0")
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    ours = [line for line in lines if line["logger"].startswith("worker.supervisor")]
    assert len(ours) >= 2, lines
    assert {line["run_id"] for line in ours} == {run.id}


def test_the_run_folder_holds_what_the_contract_says(place: Workplace, play: Play) -> None:
    run = play("succeed,exit=0")
    folder = attempts_folder(place.settings, run.id) / "1"
    told = json.loads((folder / "run.json").read_text())
    assert told["class_names"] == ["class 0", "class 1"]
    assert told["config"] == run.config
    assert (told["attempt"], told["batch_size"], told["checkpoints"]) == (1, 8, [])
    pictures = [json.loads(line) for line in (folder / told["images"]).read_text().splitlines()]
    assert len(pictures) == 30
    assert set(pictures[0]) == {"image_id", "sha256", "path", "label", "split", "group", "filename"}
    assert all(Path(one["path"]).is_file() for one in pictures)


@pytest.mark.parametrize("kind", ["config", "data", "weights", "disk_full", "export"])
def test_a_failure_that_trying_again_would_not_change_ends_the_run(play: Play, kind: str) -> None:
    run = play(f"fail={kind},exit=5")
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert run.failure == {"kind": kind, "message": f"It failed: {kind}.", "advice": "Do something else."}


def test_out_of_memory_is_tried_once_more_with_half_the_batch(play: Play) -> None:
    run = play("fail=out_of_memory,exit=5")
    assert (run.status, run.attempt, run.batch_size) == (RunStatus.FAILED, 2, 4)
    assert run.failure is not None
    assert run.failure["kind"] == "out_of_memory"


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the kernel counts, with something of earlier in it."""
    path = tmp_path / "memory.events"
    path.write_text("oom 9\noom_kill 7\n")
    monkeypatch.setattr(memory_kills, "counters", lambda: (path,))
    return path


def test_a_trainer_that_the_system_kills_for_memory_is_tried_once_more_with_half_the_batch(
    place: Workplace, play: Play, counter: Path
) -> None:
    run = play(f"epochs=1,count={counter},die")
    assert (run.status, run.attempt, run.batch_size, run.halvings, run.failures) == (RunStatus.FAILED, 2, 4, 1, 0)
    assert run.failure == {
        "kind": "out_of_memory",
        "message": "The training needed more memory than there is: the system ended its process (signal 9).",
        "advice": "Choose a smaller batch size or image size, or a smaller backbone, and try again.",
    }
    assert memory_kills.memory_kills() == 9
    assert log_of(place, run.id).count("needed more memory") == 2


def test_a_kill_is_not_for_memory_when_the_kernel_counted_it_before_the_trainer_began(
    play: Play, counter: Path
) -> None:
    run = play("die")
    assert memory_kills.memory_kills() == 7, counter
    assert (run.status, run.attempt, run.batch_size, run.failures) == (RunStatus.FAILED, 3, 8, 3)


def test_a_trainer_that_aborts_for_memory_is_tried_once_more_with_half_the_batch(place: Workplace, play: Play) -> None:
    run = play("print=terminate called after throwing an instance of 'std::bad_alloc',abort")
    assert (run.status, run.attempt, run.batch_size) == (RunStatus.FAILED, 2, 4)
    assert run.failure is not None
    assert run.failure["kind"] == "out_of_memory"
    assert "std::bad_alloc" in log_of(place, run.id)


def test_any_other_abort_is_a_crash_that_names_memory_as_possible(play: Play) -> None:
    run = play("print=Check failed: this is no picture,abort")
    assert run.failure is not None
    assert (run.attempt, run.batch_size, run.failure["kind"]) == (3, 8, "crash")
    assert "perhaps because memory ran out" in run.failure["message"]


def test_a_trainer_that_we_killed_did_not_run_out_of_memory(
    play: Play, counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it closes its output and stays; meanwhile something else of this machine is killed for memory
    monkeypatch.setattr(supervisor_module, "wait_for_end", lambda trainer, _: wait_for_end(trainer, 0.3))
    run = play(f"count={counter},close,hang")
    assert run.failure is not None
    assert (run.attempt, run.batch_size, run.failure["kind"]) == (3, 8, "crash")


@pytest.mark.parametrize(
    ("steps", "words"), [("print=the end is near,exit=1", "exit code 1"), ("die", "memory ran out")]
)
def test_a_poisoned_run_fails_at_its_third_crash(place: Workplace, play: Play, steps: str, words: str) -> None:
    run = play(steps)
    assert (run.status, run.attempt, run.failures) == (RunStatus.FAILED, 3, 3)
    assert run.failure is not None
    assert words in run.failure["message"]
    if "print" in steps:
        assert log_of(place, run.id).count("the end is near") == 3


def test_history_said_again_after_a_resume_does_not_forgive_crashes(place: Workplace, play: Play) -> None:
    # every attempt says epochs 1 and 2; only the first time they are new
    run = play("epochs=2,die")
    assert (run.status, run.attempt) == (RunStatus.FAILED, 3)
    assert epochs_of(place, run.id) == [1, 2]


def test_noise_on_the_trainers_output_is_ignored(play: Play) -> None:
    assert play("noise,epochs=1,succeed,exit=0").status == RunStatus.SUCCEEDED


def test_an_exit_without_a_result_is_a_crash(play: Play) -> None:
    run = play("epochs=1,exit=0")
    assert run.status == RunStatus.FAILED
    assert run.failure is not None
    assert run.failure["kind"] == "crash"


def test_a_cancel_reaches_the_trainer_within_seconds(place: Workplace, play: Play) -> None:
    def cancel() -> None:
        with place.database.write() as session:
            session.execute(update(Run).values(cancel_requested_at=1.0))

    later(cancel, 1.5)
    began = time.monotonic()
    run = play("epochs=1,wait=cancel,exit=3")
    assert run.status == RunStatus.CANCELLED
    assert time.monotonic() - began < 10


def test_a_trainer_that_does_not_obey_a_cancel_is_killed_within_five_seconds(place: Workplace, play: Play) -> None:
    asked = []

    def cancel() -> None:
        with place.database.write() as session:
            session.execute(update(Run).values(cancel_requested_at=1.0))
        asked.append(time.monotonic())

    later(cancel, 1.5)
    assert play("epochs=1,hang").status == RunStatus.CANCELLED
    assert time.monotonic() - asked[0] < 5


@pytest.mark.parametrize("moment", ["while its files are stored", "after the last look"])
def test_a_cancel_that_comes_after_the_training_leaves_no_model(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    put = place.storage.put
    stored: list[str] = []

    def cancel_and_put(key: str, path: Path) -> None:
        put(key, path)
        if not stored:
            with place.database.write() as session:
                session.execute(update(Run).values(cancel_requested_at=1.0))
            if moment == "after the last look":
                monkeypatch.setattr(Hold, "keep", lambda _: None)
            else:
                time.sleep(0.3)  # it looks every 0.2 s here
        stored.append(key)

    monkeypatch.setattr(place.storage, "put", cancel_and_put)
    run = play("epochs=1,succeed,exit=0")
    assert (run.status, run.attempt) == (RunStatus.CANCELLED, 1)
    assert len(stored) == (1 if moment == "while its files are stored" else 2)
    with place.database.read() as session:
        assert session.scalars(select(TrainedModel)).all() == []
    assert not place.storage.has(stored[0])


def test_a_drain_gives_the_run_back_without_counting_a_failure(place: Workplace, play: Play) -> None:
    later(place.drain.set, 1.5)
    run = play("epochs=1,wait=drain,exit=4")
    assert (run.status, run.failures, run.attempt, run.lease_owner) == (RunStatus.QUEUED, 0, 1, None)


def test_a_trainer_that_does_not_drain_in_time_is_killed(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "DRAIN_SECONDS", 0.5)
    later(place.drain.set, 1.5)
    run = play("epochs=1,hang")
    assert (run.status, run.failures) == (RunStatus.QUEUED, 0)


def test_a_stopped_worker_claims_nothing(place: Workplace, play: Play) -> None:
    place.drain.set()
    assert play("succeed,exit=0").attempt == 0


def test_a_fenced_supervisor_stops_and_touches_nothing(place: Workplace, play: Play) -> None:
    def take_away() -> None:
        with place.database.write() as session:
            session.execute(update(Run).values(lease_expires_at=1.0))
            lost = expired(session, RUN_LIFE)
            assert expire(session, RUN_LIFE, lost[0]) == RunStatus.QUEUED
            assert claim(session, RUN_LIFE, "another worker", 60) is not None

    later(take_away, 1.5)
    run = play("epochs=1,hang")
    assert (run.status, run.attempt, run.lease_owner) == (RunStatus.RUNNING, 2, "another worker")


def test_a_missing_picture_fails_the_run_with_a_sentence(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRAINER", "succeed,exit=0")
    run_id = queue_run(place.database, place.settings)
    blob_paths(place.settings)[0].unlink()
    Supervisor(place).task()
    run = run_of(place, run_id)
    assert run.status == RunStatus.FAILED
    assert run.failure is not None
    assert run.failure["kind"] == "data"
    assert "not in the storage any more" in run.failure["message"]


def test_a_model_that_is_deleted_before_a_run_begins_with_it_fails_that_run_with_a_sentence(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER", "succeed,exit=0")
    with place.database.write() as session:
        model = tiny_model(local_user(session).id)
        session.add(model)
    run_id = queue_run(place.database, place.settings, {"weights": {"model_id": model.id}})
    with place.database.write() as session:
        delete_model(session, place.storage, find_model(session, model.owner_id, model.id))
    Supervisor(place).task()
    run = run_of(place, run_id)
    assert run.status == RunStatus.FAILED
    assert run.failure is not None
    assert run.failure["kind"] == "weights"
    sentence = f'What this run starts from is not there any more. There is no model "{model.id}".'
    assert run.failure["message"] == sentence


def test_a_later_attempt_gets_the_checkpoints_of_earlier_ones(place: Workplace, play: Play) -> None:
    drain_attempt(place, 1)
    run = play("epochs=1,wait=drain,exit=4")
    checkpoints = attempts_folder(place.settings, run.id) / "1" / "checkpoints"
    checkpoints.mkdir()
    place.drain.clear()
    drain_attempt(place, 2)
    Supervisor(place).task()
    told = json.loads((attempts_folder(place.settings, run.id) / "2" / "run.json").read_text())
    assert told["checkpoints"] == [str(checkpoints)]


def kept_checkpoints(place: Workplace, run_id: str) -> list[str]:
    """Paths below the run's folder of attempts."""
    folder = attempts_folder(place.settings, run_id)
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/checkpoints/*"))


def told_checkpoints(place: Workplace, run: Run) -> list[str]:
    """What `run.json` says to the trainer."""
    path = attempts_folder(place.settings, run.id) / str(run.attempt) / "run.json"
    told: list[str] = json.loads(path.read_text())["checkpoints"]
    return told


@pytest.mark.parametrize("kind", ["config", "data", "weights", "export", "out_of_memory", "crash", "disk_full"])
def test_only_a_full_disk_leaves_the_checkpoints_of_a_failed_run(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = play(f"checkpoint=00-000001-epoch,checkpoint=.half.part,fail={kind},exit=5")
    assert run.failure is not None
    assert (run.status, run.failure["kind"]) == (RunStatus.FAILED, kind)
    kept = ["1/checkpoints/00-000001-epoch"] if kind == "disk_full" else []
    assert kept_checkpoints(place, run.id) == kept
    monkeypatch.setenv("FAKE_TRAINER", "succeed,exit=0")
    assert told_checkpoints(place, retried(place, run)) == [
        str(attempts_folder(place.settings, run.id) / path.rpartition("/")[0]) for path in kept
    ]


def test_of_several_attempts_the_furthest_checkpoints_are_kept(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain_attempt(place, 1)
    run = play("checkpoint=00-000001-epoch,wait=drain,exit=4")
    place.drain.clear()
    drain_attempt(place, 2)
    monkeypatch.setenv("FAKE_TRAINER", "checkpoint=00-000002-epoch,wait=drain,exit=4")
    Supervisor(place).task()
    place.drain.clear()
    monkeypatch.setenv("FAKE_TRAINER", "checkpoint=.half.part,fail=disk_full,exit=5")
    Supervisor(place).task()
    assert run_of(place, run.id).attempt == 3
    assert kept_checkpoints(place, run.id) == ["3/checkpoints/00-000002-epoch"]
    assert [path.name for path in attempts_folder(place.settings, run.id).iterdir()] == ["3"]


def test_a_full_disk_before_the_first_epoch_leaves_nothing_big(place: Workplace, play: Play) -> None:
    run = play("checkpoint=.half.part,fail=disk_full,exit=5")
    left = {path.name for path in (attempts_folder(place.settings, run.id) / "1").iterdir()}
    assert left == {"run.json", "images.jsonl"}


def test_a_trained_model_that_the_disk_has_no_room_for_leaves_its_checkpoints(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(supervisor_module, "harvest", full)
    run = play("checkpoint=00-000002-over,succeed,exit=0")
    assert run.failure == {
        "kind": "disk_full",
        "message": "The disk is full.",
        "advice": "Finished epochs are kept for a week.",
    }
    assert kept_checkpoints(place, run.id) == ["1/checkpoints/00-000002-over"]
    assert not (attempts_folder(place.settings, run.id) / "1" / "model").exists()


def test_a_retry_that_has_succeeded_removes_the_checkpoints_of_the_whole_line(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = play("checkpoint=00-000001-epoch,fail=disk_full,exit=5")
    monkeypatch.setenv("FAKE_TRAINER", "fail=disk_full,exit=5")
    second = retried(place, first)
    monkeypatch.setenv("FAKE_TRAINER", "checkpoint=00-000002-epoch,fail=disk_full,exit=5")
    third = retried(place, second)
    folders = [attempts_folder(place.settings, one.id) / "1" / "checkpoints" for one in (third, first)]
    assert all(folder.is_dir() for folder in folders)
    monkeypatch.setenv("FAKE_TRAINER", "succeed,exit=0")
    last = retried(place, third)
    assert (last.status, told_checkpoints(place, last)) == (RunStatus.SUCCEEDED, [str(folder) for folder in folders])
    assert not any(folder.exists() for folder in folders)


def test_a_retry_on_a_machine_without_the_folder_begins_anew(place: Workplace, play: Play) -> None:
    run = play("checkpoint=00-000001-epoch,fail=disk_full,exit=5")
    shutil.rmtree(attempts_folder(place.settings, run.id))
    assert told_checkpoints(place, retried(place, run)) == []


def test_a_database_that_is_locked_for_a_moment_is_waited_for(place: Workplace, play: Play) -> None:
    def lock() -> None:
        with place.database.write():
            time.sleep(1.5)

    later(lock, 1.0)
    assert play("epochs=3,succeed,exit=0").status == RunStatus.SUCCEEDED


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_a_disk_that_becomes_full_is_a_sentence(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def put(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(place.storage, "put", put)
    monkeypatch.setattr(
        "tests.worker.tiny_dataset.open_storage",
        lambda settings: FolderStorage(settings.storage_folder, reserve_bytes=0),
    )
    run = play("succeed,exit=0")
    assert run.failure is not None
    assert (run.status, run.failure["kind"]) == (RunStatus.FAILED, "disk_full")


def test_a_fault_of_ours_counts_as_a_crash_and_is_raised(
    place: Workplace, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "harvest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play("succeed,exit=0")
    run = only_run(place)
    assert (run.status, run.failures) == (RunStatus.QUEUED, 1)


def test_the_next_trainer_waits_as_a_spare_and_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Workplace
) -> None:
    monkeypatch.setenv("FAKE_TRAINER", "epochs=1,exit=0")
    settings = place.settings.model_copy(update={"spare_trainer": True})
    spare = Spare(settings)
    assert spare.wanted, "this machine has 4 GB of memory and no GPU"
    spare.prepare()
    spare.prepare()
    trainer = spare.start(tmp_path)
    heard = [trainer.next_event(10)[0], trainer.next_event(10)[0]]
    assert [one["event"] for one in heard if one] == ["started", "epoch"]
    assert trainer.wait(10) == 0
    trainer.close()
    spare.prepare()
    spare.close()
    spare.prepare()
    assert spare.waiting_pid is None, "a closed one starts nothing any more"


def test_a_spare_waits_from_the_start_before_there_was_any_run(place: Workplace) -> None:
    place.settings = place.settings.model_copy(update={"spare_trainer": True})
    supervisor = Supervisor(place)
    waiting = supervisor._spare.waiting_pid
    assert waiting is not None
    supervisor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "signal 9"), (-11, "SIGSEGV"), (6, "lost its supervisor"), (77, "exit code 77")]
)
def test_every_end_of_a_trainer_has_a_sentence(code: int, words: str) -> None:
    assert words in crash_sentence(code)
