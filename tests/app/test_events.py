"""Event streams over a real server, a real Valkey and a real database."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import httpx
import pytest
from fastapi import FastAPI

from app.dependencies import House
from app.events import Batch, encoded, last_seen, read_run
from app.presenting import progress_out
from app.watching import MOST_STREAMS
from core import datasets, leases, runs
from core.config import Settings
from core.live import CHANNEL, Announcer
from core.queue import redis_client
from core.runs import MetricValue, Report
from core.tables import Run
from core.training_config import TrainingConfig
from tests.app.people import Caller, belongings
from tests.app.server import serving
from tests.end_to_end.house import wait_until


@dataclass
class Event:
    """One event of a stream."""

    name: str = ""
    number: str = ""
    data: dict[str, object] = field(default_factory=dict)


def events_of(answer: httpx.Response) -> Iterator[Event]:
    """The events of a stream as they come; comments are left out."""
    event = Event()
    for line in answer.iter_lines():
        kind, _, value = line.partition(": ")
        if kind == "event":
            event.name = value
        elif kind == "id":
            event.number = value
        elif kind == "data":
            event.data = json.loads(value)
        elif not line and event.name:
            yield event
            event = Event()


@pytest.fixture
def address(web: FastAPI) -> Iterator[str]:
    """Where the application is served."""
    with serving(web) as found:
        yield found


@dataclass(frozen=True)
class Training:
    """A run that is being worked on, from its supervisor's side."""

    house: House
    held: leases.Claim
    announcer: Announcer

    def report(self, epoch: int) -> None:
        """Write an epoch and say so, as a supervisor does."""
        metrics = [MetricValue("frozen", 0, epoch, split, "loss", 1 / epoch) for split in ("train", "validation")]
        progress = {"phase": "frozen", "epoch": epoch}
        with self.house.database.write() as session:
            runs.record(session, self.held, Report(progress=progress, metrics=metrics, log=[f"epoch {epoch}"]))
        self.announcer.changed(self.held.id)

    def finish(self) -> None:
        """End the run."""
        with self.house.database.write() as session:
            runs.finish_cancelled(session, self.held)
        self.announcer.changed(self.held.id)


@pytest.fixture
def training(house: House, ada: Caller, settings: Settings) -> Iterator[Training]:
    """A running run of Ada's with one epoch."""
    owned = belongings(house, ada.user)
    with house.database.write() as session:
        version = datasets.find_version(session, ada.user.id, owned.version_id)
        runs.create_runs(session, house.queue, version, runs.NewRun(TrainingConfig()))
    with house.database.write() as session:
        held = leases.claim(session, leases.RUN_LIFE, "tester", 60)
    assert held is not None
    announcer = Announcer(settings)
    going = Training(house, held, announcer)
    going.report(1)
    yield going
    announcer.close()


@contextmanager
def watching(address: str, token: str, run_id: str, **headers: str) -> Iterator[httpx.Response]:
    """An open stream."""
    headers = {"Authorization": f"Bearer {token}", **headers}
    path = f"{address}/api/v1/runs/{run_id}/events"
    with httpx.Client(timeout=10) as client, client.stream("GET", path, headers=headers) as answer:
        yield answer


def test_a_stream_begins_with_a_snapshot_and_ends_with_the_run(address: str, ada: Caller, training: Training) -> None:
    with watching(address, ada.token, training.held.id) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer)
        snapshot = list(islice(events, 5))
        assert [one.name for one in snapshot] == ["status", "metric", "metric", "log", "progress"]
        assert snapshot[0].data["status"] == "running"
        assert snapshot[1].data == {
            "phase": "frozen", "phase_index": 0, "epoch": 1, "split": "train", "name": "loss", "value": 1.0
        }  # fmt: skip
        assert snapshot[4].number == "1"
        training.report(2)
        started = time.monotonic()
        delta = list(islice(events, 5))
        assert time.monotonic() - started < 1.5  # woken, not polled
        assert [one.name for one in delta] == ["metric", "metric", "log", "progress", "status"]
        assert {one.data["epoch"] for one in delta[:2]} == {2}
        assert [one.number for one in delta] == ["1", "1", "1", "1", "2"]
        training.finish()
        rest = list(events)
        assert rest[-1].name == "status"
        assert rest[-1].data["status"] == "cancelled"


def test_a_stream_resumes_with_what_is_new(address: str, ada: Caller, training: Training) -> None:
    training.report(2)
    with watching(address, ada.token, training.held.id, **{"Last-Event-ID": "1"}) as answer:
        first = list(islice(events_of(answer), 3))
    assert [(one.name, one.data.get("epoch")) for one in first[:2]] == [("metric", 2), ("metric", 2)]
    assert first[2].data["message"] == "epoch 2"


def test_nobody_comes_again_to_a_run_that_has_ended(address: str, ada: Caller, training: Training) -> None:
    training.finish()
    with watching(address, ada.token, training.held.id) as answer:
        last = list(events_of(answer))[-1]
    assert last.name == "status"
    with watching(address, ada.token, training.held.id, **{"Last-Event-ID": last.number}) as answer:
        assert answer.status_code == 204


def test_a_stream_goes_on_when_nobody_wakes_it(address: str, ada: Caller, training: Training, house: House) -> None:
    with watching(address, ada.token, training.held.id) as answer:
        events = events_of(answer)
        list(islice(events, 5))
        with house.database.write() as session:  # no announcement: as if Redis were away
            runs.record(session, training.held, Report(log=["quiet"]))
        started = time.monotonic()
        assert next(events).data["message"] == "quiet"
        assert time.monotonic() - started < 4


def test_a_seventh_stream_is_refused_until_one_is_closed(address: str, ada: Caller, training: Training) -> None:
    path = f"{address}/api/v1/runs/{training.held.id}/events"
    headers = {"Authorization": f"Bearer {ada.token}"}
    with httpx.Client(timeout=10) as client:
        held = [
            client.send(client.build_request("GET", path, headers=headers), stream=True) for _ in range(MOST_STREAMS)
        ]
        assert {one.status_code for one in held} == {200}
        refused = client.get(path, headers=headers)
        assert refused.status_code == 429
        assert "At most 6" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        for one in held:
            one.close()
        deadline = time.monotonic() + 8
        while (status := _try(client, path, headers)) == 429 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status == 200


def _try(client: httpx.Client, path: str, headers: dict[str, str]) -> int:
    with client.stream("GET", path, headers=headers) as answer:
        return answer.status_code


def test_a_deleted_run_ends_its_stream(address: str, ada: Caller, training: Training, house: House) -> None:
    with watching(address, ada.token, training.held.id) as answer:
        events = events_of(answer)
        list(islice(events, 5))
        with house.database.write() as session:
            session.delete(session.get_one(Run, training.held.id))
        training.announcer.changed(training.held.id)
        assert list(events) == []


def test_a_quiet_stream_says_that_it_lives(
    address: str, ada: Caller, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.events.KEEP_ALIVE_SECONDS", 0.1)
    with watching(address, ada.token, training.held.id) as answer:
        assert any(line.startswith(":") for line in answer.iter_lines())


def test_cancelling_is_seen_at_once(
    address: str, ada: Caller, training: Training, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.watching.POLL_SECONDS", 60.0)  # what comes within the client's 10 s came by a wake-up
    with redis_client(settings) as broker, watching(address, ada.token, training.held.id) as answer:
        wait_until(lambda: dict(broker.pubsub_numsub(CHANNEL))[CHANNEL.encode()], 10, "the server listens")
        events = events_of(answer)
        list(islice(events, 5))
        headers = {"Authorization": f"Bearer {ada.token}"}
        asked = httpx.post(f"{address}/api/v1/runs/{training.held.id}/cancel", headers=headers, timeout=30)
        assert asked.status_code == 202
        status = next(one for one in events if one.name == "status")
        assert status.data["cancel_requested"] is True


def test_an_upload_streams_until_it_is_ready(address: str, ada: Caller, house: House) -> None:
    owned = belongings(house, ada.user)
    headers = {"Authorization": f"Bearer {ada.token}"}
    with httpx.Client(timeout=10, headers=headers) as client:
        with client.stream("GET", f"{address}/api/v1/uploads/{owned.upload_id}/events") as answer:
            events = list(events_of(answer))
        assert [one.data["status"] for one in events] == ["ready"]
        opened = client.post(f"{address}/api/v1/datasets/{owned.dataset_id}/uploads?complete=false").json()
        with client.stream("GET", f"{address}/api/v1/uploads/{opened['id']}/events") as answer:
            events_now = events_of(answer)
            assert next(events_now).data["received_bytes"] == 0
            client.post(f"{address}/api/v1/uploads/{opened['id']}/files", files=[("files", ("a.png", b"123"))])
            assert next(events_now).data["received_bytes"] == 3


def test_an_interrupted_batch_is_sent_again_whole(house: House, training: Training) -> None:
    batch = read_run(house, training.held.id, 0)
    assert batch is not None
    pieces = encoded(batch, 0).decode().split("\n\n")[:-1]
    assert all("id: 0" in one for one in pieces[:-1])
    assert "id: 1" in pieces[-1]
    first = encoded(Batch(4, [("progress", progress_out(Run(progress={})))] * 2, ended=False), None).decode()
    assert first.count("id:") == 1


def test_what_the_client_has_seen_is_a_number() -> None:
    assert last_seen("17") == 17
    for wrong in (None, "", "x", "-1", "1.5", "\u0661", "9" * 40):
        assert last_seen(wrong) is None
