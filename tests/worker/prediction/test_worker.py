"""Questions over a real broker."""

import base64
import io
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.broker import broker_plan
from core.config import Settings
from core.estimates import speeds_name
from core.queue import PREFIX, Queue, find_note, give_answer, redis_client
from core.training_config import parse_config
from tests.end_to_end.house import wait_until
from tests.worker.prediction.test_models import write_model
from worker.prediction.worker import PredictionWorker
from worker.training.pictures import PictureLimits
from worker.workplace import Workplace

QUESTION = {"kind": "predict", "model_id": "1", "storage_key": "models/a", "class_names": ["red", "green", "blue"]}


@pytest.fixture
def settings(tmp_path: Path, database_address: str) -> Iterator[Settings]:
    """A real broker on a unix socket, and a model."""
    plan, address = broker_plan(Settings(data_dir=tmp_path))
    with subprocess.Popen(plan.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as broker:
        assert broker.stdin is not None
        assert plan.standard_input is not None
        broker.stdin.write(plan.standard_input)
        broker.stdin.close()
        made = Settings(data_dir=tmp_path, database_url=database_address, redis_url=address, predict_timeout=10)
        queue = Queue(made)
        wait_until(queue.alive, 10, "the broker answers")
        queue.close()
        yield made
        broker.terminate()


@pytest.fixture
def worker(settings: Settings) -> Iterator[PredictionWorker]:
    """A prediction worker with one model."""
    place = Workplace(settings, ("predict",))
    write_model(place.storage.folder / "models/a/saved_model")
    yield PredictionWorker(place)
    place.close()


def red_picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), (250, 10, 10), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_bad_picture_has_a_sentence_and_the_others_their_classes(worker: PredictionWorker) -> None:
    answer = worker.answer(QUESTION, [red_picture(), b"no picture", red_picture()])
    first, bad, last = answer["predictions"]
    assert first == last
    assert (first["class_name"], first["verdict"]) == ("red", "confident")
    assert sum(first["probabilities"].values()) == pytest.approx(1.0)
    assert bad == {"error": "The file is not a picture; allowed are JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC."}


def test_where_a_model_looked_is_drawn_and_boxed(worker: PredictionWorker, settings: Settings) -> None:
    write_model(settings.data_dir / "storage/models/b/saved_model", explains=True)
    question = {
        "kind": "heatmap", "storage_key": "models/b", "class_names": QUESTION["class_names"], "image_size": [40, 40],
        "resize": "squash", "blob_key": None, "label": None,
    }  # fmt: skip
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[40:, 60:] = (250, 0, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    answer = worker.answer(question, [file.getvalue()])
    assert answer["class_name"] == "red"
    left, top, right, bottom = answer["box_pixels"]
    assert abs(left - 60) < 16
    assert abs(top - 40) < 11
    assert (right, bottom) == (120, 80)
    assert answer["box"][2:] == [1.0, 1.0]
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["picture"])))
    assert drawn.size == (40, 40)
    assert worker.answer({**question, "label": 2}, [file.getvalue()])["box"] is None  # nothing there is blue
    assert "Train it again" in worker.answer({**question, "storage_key": "models/a"}, [file.getvalue()])["error"]
    assert "not a picture" in worker.answer(question, [b"nothing"])["error"]


def test_the_large_picture_is_of_our_own_making_and_within_the_limits(worker: PredictionWorker) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    file = io.BytesIO()
    Image.fromarray(np.full((1000, 2000, 3), (250, 10, 10), np.uint8)).save(
        file, "JPEG", exif=exif, comment=b"a secret"
    )
    worker._place.storage.put("blobs/large", file.getvalue())
    worker._place.storage.put("blobs/bad", b"no picture")
    question = {"kind": "display", "blob_key": "blobs/large"}
    jpeg = base64.b64decode(worker.answer(question, [])["picture"])
    shown = Image.open(io.BytesIO(jpeg))
    assert (shown.format, shown.size) == ("JPEG", (800, 1600))  # upright
    assert (dict(shown.getexif()), b"secret" in jpeg) == ({}, False)
    assert np.abs(np.asarray(shown).astype(int) - (250, 10, 10)).max() < 6
    assert "not a picture" in worker.answer({**question, "blob_key": "blobs/bad"}, [])["error"]
    assert "not in the storage" in worker.answer({**question, "blob_key": "blobs/gone"}, [])["error"]
    worker._limits = PictureLimits(max_pixels=1_500_000)
    assert worker.answer(question, []) == {
        "error": "The picture declares 2000 x 1000 = 2.0 megapixels; at most 1.5 are allowed."
    }


def test_a_deleted_model_and_an_unknown_question_have_a_sentence(worker: PredictionWorker) -> None:
    assert "deleted" in worker.answer({**QUESTION, "storage_key": "models/none"}, [red_picture()])["error"]
    assert "predict, augment" in worker.answer({"kind": "sing"}, [])["error"]
    assert "Received: 'sing'" in worker.answer({"kind": "sing"}, [])["error"]


def test_a_question_is_answered_through_the_broker(settings: Settings, worker: PredictionWorker) -> None:
    queue = Queue(settings)
    client = redis_client(settings)
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(queue.ask(QUESTION, [red_picture()])))
    asking.start()
    # the message itself is Celery's business; its number stands in the key of the pictures
    (key,) = wait_until(lambda: client.keys(f"{PREFIX}pictures:*"), 10, "the question is there")  # type: ignore[misc]
    worker.task(key.decode().rpartition(":")[2], QUESTION, time.time() + 10)
    asking.join(10)
    assert answers[0]["predictions"][0]["class_name"] == "red"
    assert client.keys(f"{PREFIX}pictures:*") == []
    client.close()
    queue.close()


def test_a_question_whose_deadline_has_passed_is_dropped(settings: Settings, worker: PredictionWorker) -> None:
    with redis_client(settings) as client:
        give_answer(client, "before", {})
        worker.task("late", QUESTION, time.time() - 1)
        assert client.keys(f"{PREFIX}answer:*") == [f"{PREFIX}answer:before".encode()]


TINY = {"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 32], "batch_size": 4}


def test_predictions_do_not_wait_behind_the_timing_of_an_estimate(settings: Settings, worker: PredictionWorker) -> None:
    config = parse_config({**TINY, "phases": [{"kind": "frozen", "optimizer": {"name": "lbfgs"}}]}).model_dump(
        mode="json"
    )
    worker._place.storage.put("blobs/picture", red_picture())
    timing = {"kind": "estimate", "config": config, "classes": 3, "key": "shape", "blob_keys": ["blobs/picture"]}
    with redis_client(settings) as client:
        client.rpush(f"{PREFIX}pictures:2", red_picture())
        worker.task("1", timing, time.time() + 100)
        worker.task("2", QUESTION, time.time() + 100)
        assert find_note(client, speeds_name("shape")) is None
        assert b"predictions" in client.lrange(f"{PREFIX}answer:2", 0, -1)[0]  # type: ignore[index, operator]
        speeds = wait_until(lambda: find_note(client, speeds_name("shape")), 100, "the steps are timed")
        assert speeds["decode"] > 0  # type: ignore[index]
        assert wait_until(lambda: client.exists(f"{PREFIX}answer:1"), 5, "the answer is there")


def test_an_estimate_whose_pictures_are_gone_has_a_sentence(settings: Settings, worker: PredictionWorker) -> None:
    question = {"kind": "estimate", "config": TINY, "classes": 3, "key": "gone", "blob_keys": ["blobs/nothing"]}
    with redis_client(settings) as client:
        worker.task("1", question, time.time() + 100)
        (said,) = wait_until(lambda: client.lrange(f"{PREFIX}answer:1", 0, -1), 10, "an answer")  # type: ignore[misc]
        assert b"could not be measured" in said


def test_a_fault_of_ours_is_an_answer_too(settings: Settings, worker: PredictionWorker) -> None:
    with redis_client(settings) as client:
        client.rpush(f"{PREFIX}pictures:1", red_picture())
        with pytest.raises(ValueError, match="zip"):
            worker.task("1", {**QUESTION, "class_names": ["red"]}, time.time() + 10)
        assert b"fault of ours" in client.lrange(f"{PREFIX}answer:1", 0, -1)[0]  # type: ignore[index, operator]
