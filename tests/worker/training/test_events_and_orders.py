import json
import os
import threading
import time
from pathlib import Path

import pytest

from worker.training import events
from worker.training.events import Place, Progress, Speaker
from worker.training.orders import Cancelled, Drained, Orders


def _lines(descriptor: int) -> list[dict[str, object]]:
    data = os.read(descriptor, 1_000_000)
    return [json.loads(line) for line in data.splitlines()]


def test_an_event_is_one_whole_line_of_json_whatever_thread_says_it() -> None:
    reading, writing = os.pipe()
    speaker = Speaker(writing)
    threads = [threading.Thread(target=speaker.log, args=(f"line {n}\nü" * 20,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = _lines(reading)
    assert len(said) == 20
    assert all(one["event"] == "log" for one in said)


def test_a_listener_that_went_away_does_not_stop_the_work() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        Speaker(writing).log("nobody hears this")
        with pytest.raises(BrokenPipeError):  # the pipe really was broken
            os.write(writing, b"x")
    finally:
        os.close(writing)


def test_progress_is_said_at_most_twice_a_second() -> None:
    reading, writing = os.pipe()
    progress = Progress(Speaker(writing), Place("prepare"), 1000, 1000)
    started = time.monotonic()
    step = 0
    while time.monotonic() - started < 1.2:
        step += 1
        progress.at(step, step)
        time.sleep(0.01)
    said = _lines(reading)
    assert 2 <= len(said) <= 3


def test_time_left_is_what_is_left_at_the_present_speed() -> None:
    reading, writing = os.pipe()
    progress = Progress(Speaker(writing), Place("frozen", 0), 100, 100)
    for step in range(1, 13):
        progress.at(step, step)
        time.sleep(0.1)
    last = _lines(reading)[-1]
    speed, left = last["images_per_second"], last["eta_seconds"]
    assert isinstance(speed, float)
    assert isinstance(left, float)
    assert 4 < speed < 12
    assert left == pytest.approx((100 - int(str(last["step"]))) / speed, rel=0.1)


def test_after_the_first_epoch_the_time_left_is_within_a_fifth_of_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing of 6 s, eight epochs of 30 steps of a tenth of a second, each with 2 s of validation and checkpoint."""
    now, epochs, steps, batch = 0.0, 8, 30, 32
    monkeypatch.setattr(events.time, "monotonic", lambda: now)
    reading, writing = os.pipe()
    progress = Progress(Speaker(writing), Place("fine_tune", 1), steps, epochs * steps * batch)
    said: list[float] = []
    for epoch in range(epochs):
        for step in range(1, steps + 1):
            now += 6.0 if epoch == 0 and step == 1 else 0.1
            done = (epoch * steps + step) * batch
            if done == batch:
                progress.begin_here(done)
            progress.at(step, done, epoch + 1, epochs - epoch)
            said.append(now)
        now += 2.0
        progress.rest(2.0)
    end = now
    lines = [line for line in _lines(reading) if line["epoch"] > 1]
    assert len(lines) > 30
    for line in lines:
        moment = said[(line["epoch"] - 1) * steps + line["step"] - 1]
        assert line["eta_seconds"] == pytest.approx(end - moment, rel=0.2)
        assert line["images_per_second"] == pytest.approx(batch / 0.1, rel=0.05)


def test_cancel_and_drain_are_raised_at_the_next_check() -> None:
    orders = Orders()
    orders.check()
    orders.hear("tick")
    orders.check()
    orders.hear("drain")
    with pytest.raises(Drained):
        orders.check()
    orders.hear("cancel")
    with pytest.raises(Cancelled):
        orders.check()


def test_a_spare_waits_for_its_folder(tmp_path: Path) -> None:
    orders = Orders()
    threading.Timer(0.1, orders.hear, (f"run {tmp_path}/a b",)).start()
    assert orders.wait_for_folder() == tmp_path / "a b"


def test_a_spare_that_is_drained_ends_without_a_run() -> None:
    orders = Orders()
    orders.hear("drain")
    with pytest.raises(Drained):
        orders.wait_for_folder()
