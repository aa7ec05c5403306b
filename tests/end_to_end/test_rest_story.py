"""The main job by REST alone, over a real server with real workers: what a script does from a zip to a model it trusts."""

import hashlib
import json
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.end_to_end.house import House, wait_until
from tests.end_to_end.pictures import COLOURS, write_classes, zip_of

pytestmark = [pytest.mark.xdist_group("house"), pytest.mark.timeout(240)]
API = "/api/v1"
EACH = {"train": 12, "validation": 5, "test": 6}
FROZEN, TUNED = 4, 3
CONFIG: dict[str, Any] = {
    "backbone": "tiny_cnn",
    "weights": "none",
    "image_size": [32, 32],
    "batch_size": 8,
    "precision": "float32",
    "phases": [
        {"kind": "frozen", "epochs": FROZEN, "optimizer": {"name": "adam", "learning_rate": 0.03}},
        {
            "kind": "fine_tune",
            "epochs": TUNED,
            "features": "live",
            "optimizer": {"name": "adam", "learning_rate": 0.001},
        },
    ],
}
# a green picture under "red": whatever the network says of the two, it is wrong about one of them
TWINS = ("test/green/00.png", "test/red/twin.png")


@dataclass
class Event:
    """One event of a stream."""

    name: str = ""
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Told:
    """What the script has learned so far."""

    dataset_id: str
    upload: dict[str, Any]
    estimate: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


def get(house: House, path: str, **query: Any) -> dict[str, Any]:
    """The JSON answer of a GET."""
    found: dict[str, Any] = house.client.get(f"{API}{path}", params=query).raise_for_status().json()
    return found


def post(house: House, path: str, **request: Any) -> dict[str, Any]:
    """The JSON answer of a POST."""
    made: dict[str, Any] = house.client.post(f"{API}{path}", **request).raise_for_status().json()
    return made


def read_events(house: House, run_id: str, last_event_id: str | None = None) -> Iterator[Event]:
    """The events of a run until the stream ends."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    event = Event()
    with house.client.stream("GET", f"{API}/runs/{run_id}/events", headers=headers, timeout=180) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(":")
            if name == "event":
                event.name = value.strip()
            elif name == "id":
                event.id = value.strip()
            elif name == "data":
                event.data = json.loads(value)
            elif not line and event.name:
                yield event
                event = Event()


def make_zip(folder: Path) -> Path:
    """Splits as folders, three colours, two pictures that are the same under two classes, two files that are no pictures."""
    pictures = folder / "pictures"
    for seed, (split, count) in enumerate(EACH.items()):
        write_classes(pictures / split, count, seed=seed)
    twin = (pictures / TWINS[0]).read_bytes()
    # the same pixels in other bytes: the same bytes under two classes would be refused
    (pictures / TWINS[1]).write_bytes(twin[:-12] + _text_chunk() + twin[-12:])
    (pictures / "train" / "red" / "half.png").write_bytes(twin[: len(twin) // 2])
    (pictures / "train" / "notes.txt").write_text("no picture")
    return zip_of(pictures, folder / "colours.zip")


def _text_chunk() -> bytes:
    content = b"tEXtComment\0a twin"
    return (len(content) - 4).to_bytes(4) + content + zlib.crc32(content).to_bytes(4)


@pytest.fixture(scope="module")
def told(house: House, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Upload, wait, ask how long it will take, train, follow the events to their end."""
    archive = make_zip(tmp_path_factory.mktemp("story"))
    dataset = post(house, "/datasets", json={"name": "Colours by REST"})
    upload = post(
        house,
        f"/datasets/{dataset['id']}/uploads?filename=colours.zip",
        content=archive.read_bytes(),
        headers={"Content-Type": "application/zip"},
    )
    told = Told(dataset["id"], upload)

    def ended() -> bool:
        told.upload = get(house, f"/uploads/{upload['id']}")
        return told.upload["status"] in {"ready", "rejected"}

    wait_until(ended, 60, f"the upload ends\n{house.log}")
    assert told.upload["status"] == "ready", told.upload

    def measured() -> bool:
        # whoever measures may still be starting: then a person asks again
        if told.estimate.get("status") != "measuring":
            told.estimate = post(house, "/runs/estimate", json={"dataset_id": told.dataset_id, "config": CONFIG})
        told.estimate = get(house, f"/runs/estimate/{told.estimate['id']}")
        return told.estimate["status"] == "ready"

    wait_until(measured, 180, f"the estimate is there\n{house.log}")
    run = post(house, "/runs", json={"dataset_id": told.dataset_id, "name": "by REST", "config": CONFIG})
    told.events = list(read_events(house, run["id"]))
    told.run = get(house, f"/runs/{run['id']}")
    assert told.run["status"] == "succeeded", (told.run["failure"], house.log)
    return told


def test_the_estimate_adds_up_and_is_of_the_order_of_the_real_run(told: Told) -> None:
    found, real = told.estimate, told.run["summary"]["seconds"]
    assert (found["status"], found["error"]) == ("ready", None), found
    assert "timed steps on this machine" in found["basis"]
    assert set(found["by_phase"]) == set(real) == {"prepare", "phase_0", "phase_1", "export", "evaluate"}
    assert all(seconds > 0 for seconds in found["by_phase"].values()), found
    assert sum(found["by_phase"].values()) == pytest.approx(found["seconds"], abs=0.05 * 6)
    assert 1 / 8 < found["seconds"] / sum(real.values()) < 8, (found, real)


def test_the_receipt_names_every_file_of_the_zip(house: House, told: Told) -> None:
    pictures = sum(EACH.values()) * len(COLOURS) + 1
    receipt = get(house, f"/uploads/{told.upload['id']}/receipt", limit=200)["items"]
    by_path = {line["path"].removeprefix("colours.zip/"): line for line in receipt}
    assert len(by_path) == len(receipt) == pictures + 2
    assert told.upload["receipt"]["kept"] + told.upload["receipt"]["fixed"] == pictures
    refused = {path for path, line in by_path.items() if line["outcome"] == "refused"}
    assert "train/red/half.png" in refused
    assert by_path["train/notes.txt"]["outcome"] in {"refused", "skipped"}
    assert all(line["reason"] for line in receipt if line["outcome"] != "kept")


def test_folders_named_like_splits_are_the_splits(house: House, told: Told) -> None:
    version = get(house, f"/dataset-versions/{told.upload['dataset_version_id']}")
    counts = {one["name"]: one["counts"] for one in version["classes"]}
    assert list(counts) == sorted(COLOURS)
    assert counts["red"] == {**EACH, "test": EACH["test"] + 1}
    assert counts["blue"] == EACH


def test_the_events_tell_every_metric_once_and_the_end_last(house: House, told: Told) -> None:
    assert told.events[0].name == "status"
    assert (told.events[-1].name, told.events[-1].data["status"]) == ("status", "succeeded")
    assert {"status", "progress", "metric", "log"} == {event.name for event in told.events}
    told_metrics = [event.data for event in told.events if event.name == "metric"]
    assert told_metrics == get(house, f"/runs/{told.run['id']}/metrics")["items"]


def test_a_client_that_has_seen_the_end_is_told_to_stay_away(house: House, told: Told) -> None:
    address = f"{API}/runs/{told.run['id']}/events"
    answer = house.client.get(address, headers={"Last-Event-ID": told.events[-1].id})
    assert answer.status_code == 204


def test_metrics_are_contiguous_through_both_phases(house: House, told: Told) -> None:
    rows = get(house, f"/runs/{told.run['id']}/metrics")["items"]
    seen = [(row["phase"], row["epoch"], row["split"], row["name"]) for row in rows]
    epochs = [("frozen", epoch) for epoch in range(1, FROZEN + 1)]
    epochs += [("fine_tune", epoch) for epoch in range(FROZEN + 1, FROZEN + TUNED + 1)]
    expected = [
        (*one, split, name) for one in epochs for split in ("train", "validation") for name in ("loss", "accuracy")
    ]
    assert sorted(seen) == sorted(expected)
    assert [(row["phase_index"], row["epoch"]) for row in rows] == sorted(
        (row["phase_index"], row["epoch"]) for row in rows
    )


def test_the_evaluation_judges_both_phases_on_the_test_split(house: House, told: Told) -> None:
    evaluation = get(house, f"/runs/{told.run['id']}/evaluation")
    pictures = EACH["test"] * len(COLOURS) + 1
    assert set(evaluation["phases"]) == {"frozen", "fine_tune"}
    assert (evaluation["split"], evaluation["looks"]) == ("test", 1)
    for phase in evaluation["phases"].values():
        low, high = phase["accuracy_interval"]
        assert 0 <= low < phase["accuracy"] <= high <= 1 or phase["accuracy"] == low == 0
        counts = np.array(phase["confusion_matrix"]["counts"])
        assert counts.sum() == pictures
        assert phase["accuracy"] == pytest.approx(counts.trace() / pictures)
        assert [row["support"] for row in phase["per_class"]] == counts.sum(axis=1).tolist()
    chosen = evaluation["phases"][told.run["summary"]["chosen_phase"]]
    assert told.run["summary"]["test_accuracy"] == chosen["accuracy"]
    assert told.run["summary"]["test_accuracy_interval"] == chosen["accuracy_interval"]


@pytest.mark.parametrize("phase", ["frozen", "fine_tune"])
def test_the_wrong_pictures_are_exactly_the_errors_of_the_matrix(house: House, told: Told, phase: str) -> None:
    path = f"/runs/{told.run['id']}/predictions"
    wrong = get(house, path, phase=phase, wrong_only="true", limit=200)["items"]
    counts = np.array(get(house, f"/runs/{told.run['id']}/evaluation")["phases"][phase]["confusion_matrix"]["counts"])
    assert len(wrong) == counts.sum() - counts.trace()
    assert all(row["true_class"] != row["predicted_class"] for row in wrong)
    assert {row["filename"] for row in wrong} & set(TWINS), "one of two equal pictures under two names is wrong"
    assert [row["true_probability"] for row in wrong] == sorted(row["true_probability"] for row in wrong)
    picture = house.client.get(wrong[0]["thumbnail_url"]).raise_for_status()
    assert picture.headers["content-type"] == "image/jpeg"


def test_the_layers_say_what_learned_in_each_phase(house: House, told: Told) -> None:
    frozen, tuned = get(house, f"/runs/{told.run['id']}/layers")["items"]
    assert (frozen["phase"], tuned["phase"]) == ("frozen", "fine_tune")
    assert 0 < frozen["trainable_parameters"] < tuned["trainable_parameters"]
    together = [one["trainable_parameters"] + one["non_trainable_parameters"] for one in (frozen, tuned)]
    assert together[0] == together[1]


def test_predicting_answers_for_good_pictures_and_excuses_a_broken_one(
    house: House, told: Told, tmp_path: Path
) -> None:
    asked = write_classes(tmp_path, 1, seed=77)
    files = [
        ("images", (f"{name}.png", (asked / name / "00.png").read_bytes(), "image/png")) for name in ("blue", "red")
    ]
    files.insert(1, ("images", ("broken.png", b"\x89PNG\r\n\x1a\n and then nothing", "image/png")))
    blue, broken, red = post(house, f"/models/{told.run['model_id']}/predict", files=files)["predictions"]
    assert (blue["filename"], broken["filename"], red["filename"]) == ("blue.png", "broken.png", "red.png")
    assert broken["error"]
    assert broken["class_name"] is None
    for row in (blue, red):
        assert list(row["probabilities"]) == sorted(COLOURS)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["class_name"]]


def saved_model(house: House, told: Told) -> dict[str, Any]:
    """The row of the SavedModel."""
    formats = get(house, f"/models/{told.run['model_id']}")["formats"]
    found: dict[str, Any] = next(one for one in formats if one["format"] == "saved_model")
    return found


def test_a_download_that_broke_off_goes_on_where_it_was(house: House, told: Told) -> None:
    row = saved_model(house, told)
    address = f"{API}/models/{told.run['model_id']}/download/saved_model"
    half = row["size_bytes"] // 2
    first = house.client.get(address, headers={"Range": f"bytes=0-{half - 1}"})
    assert (first.status_code, len(first.content)) == (206, half)
    etag = first.headers["etag"]
    rest = house.client.get(address, headers={"Range": f"bytes={half}-", "If-Range": etag})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes {half}-{row['size_bytes'] - 1}/{row['size_bytes']}"
    assert hashlib.sha256(first.content + rest.content).hexdigest() == row["sha256"]
    changed = house.client.get(address, headers={"Range": f"bytes={half}-", "If-Range": '"another"'})
    assert (changed.status_code, len(changed.content)) == (200, row["size_bytes"])
    assert house.client.get(address, headers={"If-None-Match": etag}).status_code == 304
    beyond = house.client.get(address, headers={"Range": f"bytes={row['size_bytes']}-"})
    assert beyond.status_code == 416


def test_the_download_proves_itself_and_answers_like_the_site(house: House, told: Told, tmp_path: Path) -> None:
    answer = house.client.get(f"{API}/models/{told.run['model_id']}/download/saved_model").raise_for_status()
    (tmp_path / "model.zip").write_bytes(answer.content)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path)
    verified = subprocess.run(
        [sys.executable, "verify.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "The answers agree." in verified.stdout
    golden = json.loads((tmp_path / "golden" / "expected.json").read_text(encoding="utf-8"))["pictures"][:8]
    files = [
        ("images", (one["picture"], (tmp_path / "golden" / one["picture"]).read_bytes(), "image/png")) for one in golden
    ]
    rows = post(house, f"/models/{told.run['model_id']}/predict", files=files)["predictions"]
    for row, one in zip(rows, golden, strict=True):
        np.testing.assert_allclose(list(row["probabilities"].values()), one["probabilities"], atol=1e-5, rtol=0)


def test_the_log_says_which_request_run_and_upload_each_line_is_about(house: House, told: Told) -> None:
    lines = house.log.splitlines()
    asked = [line for line in lines if " app.envelope: POST /api/v1/runs 202 in " in line]
    assert asked
    assert all(" [request_id=" in line for line in asked)
    assert any(f"worker.supervisor: run {told.run['id']} succeeded" in line for line in lines)
    assert any(f"upload {told.upload['id']} is ready: dataset version " in line for line in lines)


def test_what_is_in_use_is_deleted_in_order(house: House, told: Told) -> None:
    assert house.client.delete(f"{API}/datasets/{told.dataset_id}").status_code == httpx.codes.CONFLICT
    for path in (f"/models/{told.run['model_id']}", f"/runs/{told.run['id']}", f"/datasets/{told.dataset_id}"):
        assert house.client.delete(f"{API}{path}").status_code == httpx.codes.NO_CONTENT, path
        assert house.client.get(f"{API}{path}").status_code == httpx.codes.NOT_FOUND, path
