"""Weights over REST: sent, listed, deleted, and started from; checked by the real checker."""

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from app.dependencies import House
from app.receiving_weights import OneFile
from core.leases import RUN_LIFE, claim
from core.leftovers import remove_left_folders
from core.runs import Success, finish_succeeded
from core.tables import Run, RunStatus, TrainedModel, Weights, WeightsStatus
from core.training_config import parse_config
from core.weights import Start, start_of
from tests.app.people import Belongings, Caller, belongings
from tests.worker.weights.test_arrays import NO_TEXT, keras_3_file
from worker.weights import check
from worker.weights.check import check_next
from worker.workplace import Workplace

pytestmark = pytest.mark.both_databases

URL = "/api/v1/weights"


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def _send(who: Caller, body: bytes, backbone: str = "tiny_cnn", **headers: str) -> Any:
    return who.client.post(URL, data={"backbone": backbone}, files={"file": ("mine.weights.h5", body)}, headers=headers)


def _check_all(house: House, **options: Any) -> None:
    place = Workplace(house.settings, ("ingest",))
    while check_next(place, **options):
        pass
    place.close()


def _tiny(tmp_path: Path) -> bytes:
    return keras_3_file(tmp_path / "tiny.weights.h5").read_bytes()


def test_weights_are_sent_checked_and_listed(house: House, ada: Caller, tmp_path: Path) -> None:
    answer = _send(ada, _tiny(tmp_path))
    assert answer.status_code == 202, answer.text
    sent = answer.json()
    assert (sent["status"], sent["backbone"], sent["filename"]) == ("checking", "tiny_cnn", "mine.weights.h5")
    assert answer.headers["Location"] == f"{URL}/{sent['id']}"
    _check_all(house)
    checked = ada.client.get(f"{URL}/{sent['id']}").json()
    assert (checked["status"], checked["matched"], checked["missing"]) == ("ready", 25, [])
    assert (checked["unexpected"], checked["unexpected_count"]) == ([], 0)
    assert (checked["matched_by"], checked["form"], checked["error"]) == ("name", "plain", None)
    assert [one["id"] for one in ada.client.get(URL).json()["items"]] == [sent["id"]]
    assert not list(house.settings.incoming_folder.glob("*"))
    assert ada.client.delete(f"{URL}/{sent['id']}").status_code == 204
    assert ada.client.get(f"{URL}/{sent['id']}").status_code == 404
    assert not [path for path in house.settings.storage_folder.glob("weights/**/*") if path.is_file()]


def test_what_a_file_lacks_and_what_it_has_too_much_is_named_and_counted(
    house: House, ada: Caller, tmp_path: Path
) -> None:
    path = keras_3_file(tmp_path / "tiny.weights.h5")
    with h5py.File(path, "a") as file:
        del file["layers/conv2d_1"]
        for number in range(205):
            file[f"layers/dense_{number}/vars/0"] = np.zeros(1, np.float32)
            file[f"layers/dense_{number}/vars"].attrs["name"] = f"top_{number}"
    sent = _send(ada, path.read_bytes()).json()
    _check_all(house)
    found = ada.client.get(f"{URL}/{sent['id']}").json()
    assert (found["status"], found["matched"], found["missing"]) == ("rejected", 24, ["block2_conv/kernel"])
    assert found["unexpected"] == [f"top_{number}/0" for number in range(200)]
    assert found["unexpected_count"] == 205
    assert (
        "24 of its 25 arrays are in the file, 1 are missing or have another shape (block2_conv/kernel)"
        in found["error"]
    )
    page = ada.client.get("/weights").text
    assert found["error"].split(":")[0] in page
    assert "It has 205 arrays that are not part of the backbone." in page


@pytest.mark.parametrize("what", NO_TEXT)
def test_names_in_a_file_that_are_no_text_do_not_break_the_list(
    house: House, ada: Caller, tmp_path: Path, what: str
) -> None:
    make, told = NO_TEXT[what]
    make(tmp_path / "hostile")
    sent = _send(ada, (tmp_path / "hostile").read_bytes()).json()
    _check_all(house)
    answer = ada.client.get(URL)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["items"]
    assert found["id"] == sent["id"]
    assert found["status"] in {"ready", "rejected"}
    assert told in " ".join([found["error"] or "", *found["unexpected"]])
    assert ada.client.get(f"{URL}/{sent['id']}").status_code == 200
    assert ada.client.get("/weights").status_code == 200


def test_a_file_that_is_no_weights_is_rejected_with_its_reason(house: House, ada: Caller) -> None:
    sent = _send(ada, b"\x80\x04K\x01.").json()
    _check_all(house)
    found = ada.client.get(f"{URL}/{sent['id']}").json()
    assert found["status"] == "rejected"
    assert "This is a pickle" in found["error"]


def test_a_reader_that_crashes_or_hangs_rejects_the_file_and_nothing_else(house: House, ada: Caller) -> None:
    first = _send(ada, b"one").json()
    _check_all(house, command=("sh", "-c", "kill -9 $$"))
    second = _send(ada, b"two").json()
    _check_all(house, command=("sleep", "30"), most_seconds=0.2)
    assert "crashed" in ada.client.get(f"{URL}/{first['id']}").json()["error"]
    assert "took longer" in ada.client.get(f"{URL}/{second['id']}").json()["error"]


def test_files_on_their_way_are_not_taken_for_those_of_a_deleted_upload(
    house: House, ada: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def tidy() -> None:
        """What the sweeper does, an hour later."""
        folders = [
            path for area in ("incoming", "weights-incoming") for path in house.settings.folder.glob(f"{area}/*")
        ]
        for folder in folders:
            os.utime(folder, (1, 1))
        remove_left_folders(house.database, house.settings)
        seen.append(bool(folders) and all(folder.is_dir() for folder in folders))

    write, ask = OneFile.write, check._ask

    def written(sink: OneFile, data: memoryview) -> None:
        write(sink, data)
        tidy()

    def asked(*given: Any) -> dict[str, Any]:
        tidy()
        return ask(*given)

    monkeypatch.setattr(OneFile, "write", written)
    monkeypatch.setattr(check, "_ask", asked)
    sent = _send(ada, _tiny(tmp_path)).json()
    _check_all(house)
    assert ada.client.get(f"{URL}/{sent['id']}").json()["status"] == "ready"
    assert len(seen) >= 2
    assert all(seen)
    assert not list(house.settings.weights_folder.glob("*"))


def test_weights_that_are_deleted_while_they_are_checked_leave_nothing(
    house: House, ada: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = _send(ada, _tiny(tmp_path)).json()
    ask = check._ask

    def asked(*given: Any) -> dict[str, Any]:
        answer = ask(*given)
        assert ada.client.delete(f"{URL}/{sent['id']}").status_code == 204
        return answer

    monkeypatch.setattr(check, "_ask", asked)
    _check_all(house)
    assert not [path for path in house.settings.storage_folder.glob("weights/**/*") if path.is_file()]


def test_what_is_wrong_with_a_form_is_said_at_once(house: House, ada: Caller) -> None:
    unknown = _send(ada, b"x", "resnet_9000")
    assert unknown.status_code == 422
    assert "resnet_9000" in unknown.json()["errors"][0]["message"]
    assert ada.client.post(URL, data={"backbone": "tiny_cnn"}, files={"other": b"x"}).status_code == 422
    assert ada.client.post(URL, files={"backbone": (None, "tiny_cnn")}).status_code == 422
    two = ada.client.post(URL, data={"backbone": "tiny_cnn"}, files=[("file", ("a", b"x")), ("file", ("b", b"y"))])
    assert two.status_code == 422
    assert not list(house.settings.incoming_folder.glob("*"))


def test_a_repetition_with_the_same_key_is_the_same_weights(ada: Caller) -> None:
    one, two = (_send(ada, b"abc", **{"Idempotency-Key": "w1"}) for _ in range(2))
    assert one.status_code == 202
    assert two.json() == one.json()
    assert len(ada.client.get(URL).json()["items"]) == 1


def _run(who: Caller, owned: Belongings, **config: Any) -> Any:
    wish = {"backbone": "tiny_cnn", "image_size": [32, 32], **config}
    return who.client.post(
        "/api/v1/runs", json={"dataset_version_id": owned.version_id, "config": wish, "preset": "quick"}
    )


def test_a_run_starts_from_ready_weights_of_its_own_backbone_only(house: House, ada: Caller, owned: Belongings) -> None:
    weights = {"weights_id": owned.weights_id}
    queued = _run(ada, owned, weights=weights)
    assert queued.status_code == 202, queued.text
    assert queued.json()["config"]["weights"] == weights
    other = _run(ada, owned, weights=weights, backbone="mobilenet_v2")
    assert other.status_code == 422
    assert "weights of Tiny network, the run is for MobileNetV2" in other.json()["errors"][0]["message"]
    assert other.json()["errors"][0]["field"] == "config.weights"
    assert _run(ada, owned, weights={"weights_id": "nothing"}).status_code == 422
    busy = ada.client.delete(f"{URL}/{owned.weights_id}")
    assert busy.status_code == 409
    with house.database.write() as session:
        session.get_one(Run, queued.json()["id"]).status = RunStatus.CANCELLED
        session.get_one(Weights, owned.weights_id).status = WeightsStatus.REJECTED
    assert "were rejected" in _run(ada, owned, weights=weights).json()["errors"][0]["message"]
    assert ada.client.delete(f"{URL}/{owned.weights_id}").status_code == 204


def test_a_run_starts_from_ones_own_model_and_not_above_its_cut(
    house: House, ada: Caller, bob: Caller, owned: Belongings
) -> None:
    theirs = belongings(house, bob.user)
    with house.database.write() as session:
        for mine in (owned, theirs):
            session.get_one(TrainedModel, mine.model_id).backbone = "tiny_cnn"
        run = session.get_one(Run, owned.run_id)
        run.config = {**run.config, "backbone": "tiny_cnn", "cut_layer": "block3_add"}
    weights = {"model_id": owned.model_id}
    above = _run(ada, owned, weights=weights)
    assert above.status_code == 422
    assert 'cut at "block3_add"' in above.json()["errors"][0]["message"]
    assert _run(ada, owned, weights=weights, cut_layer="block3_add").status_code == 202
    assert _run(ada, owned, weights={"model_id": theirs.model_id}).status_code == 422


def test_a_cut_model_whose_run_was_deleted_still_knows_its_cut(house: House, ada: Caller, owned: Belongings) -> None:
    queued = _run(ada, owned, weights="none", cut_layer="block3_add").json()
    with house.database.write() as session:
        held = claim(session, RUN_LIFE, "a worker", 60)
        assert held is not None
        summary = {"chosen_phase": "frozen", "test_accuracy": 0.5}
        model = finish_succeeded(session, held, Success(summary, {}, [], [], "models/cut"))
    assert held.id == queued["id"]
    assert ada.client.delete(f"/api/v1/runs/{queued['id']}").status_code == 204
    assert ada.client.get(f"/api/v1/models/{model.id}").json()["run_id"] is None
    weights = {"model_id": model.id}
    above = _run(ada, owned, weights=weights)
    assert above.status_code == 422
    told = above.json()["errors"][0]
    assert told["field"] == "config.cut_layer"
    assert 'was cut at "block3_add": above that it has no weights. Received: "block4_relu"' in told["message"]
    assert _run(ada, owned, weights=weights, cut_layer="block3_add").status_code == 202
    with house.database.write() as session:
        run = session.get_one(Run, _run(ada, owned, weights=weights, cut_layer="block2_relu").json()["id"])
        start = start_of(session, ada.user.id, parse_config(run.config))
    assert start == Start("models/cut/backbone_and_head/frozen.npz", model.name, "block3_add", "tiny_cnn")


def test_weights_over_the_limit_are_cut_off(house: House, ada: Caller) -> None:
    object.__setattr__(house, "settings", house.settings.model_copy(update={"max_weights_bytes": 100}))
    answer = _send(ada, b"x" * 101)
    assert answer.status_code == 413
    assert "at most 100 bytes" in answer.json()["detail"]
    shutil.rmtree(house.settings.incoming_folder, ignore_errors=True)
