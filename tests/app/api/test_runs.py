"""Runs over REST."""

from dataclasses import replace

import pytest

from app.api.runs import changed_paths
from app.dependencies import House
from core.datasets import VersionDraft, find_version, placed_pictures
from core.runs import MOST_REPEATS
from core.tables import Dataset, Run, Split
from tests.app.people import Belongings, Caller, belongings
from tests.core.rows import add_version

pytestmark = pytest.mark.both_databases


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def test_a_run_is_queued_with_a_preset_and_changes(ada: Caller, owned: Belongings) -> None:
    wish = {"dataset_id": owned.dataset_id, "preset": "standard", "name": "try", "config": {"head": {"dropout": 0.5}}}
    answer = ada.client.post("/api/v1/runs", json=wish)
    assert answer.status_code == 202, answer.text
    run = answer.json()
    assert (run["status"], run["name"], run["preset"]) == ("queued", "try", "standard")
    assert run["dataset_version_id"] == owned.version_id
    assert run["config"]["head"] == {
        "pooling": "avg", "hidden_units": [], "activation": "relu", "dropout": 0.5, "binary": False
    }  # fmt: skip
    assert [phase["kind"] for phase in run["config"]["phases"]] == ["frozen", "fine_tune"]
    assert ada.client.get(answer.headers["location"]).json() == run


def test_repeats_are_a_group_with_rising_seeds(ada: Caller, owned: Belongings) -> None:
    wish = {"dataset_version_id": owned.version_id, "preset": "quick", "repeats": 3, "config": {"seed": 7}}
    first = ada.client.post("/api/v1/runs", json=wish).json()
    group = ada.client.get("/api/v1/runs", params={"group_id": first["group_id"], "sort": "created_at"}).json()["items"]
    assert [one["config"]["seed"] for one in group] == [7, 8, 9]
    assert group[0] == first


@pytest.mark.parametrize("repeats", [0, -1, MOST_REPEATS + 1])
def test_repeats_out_of_range_are_refused(ada: Caller, owned: Belongings, repeats: int) -> None:
    wish = {"dataset_version_id": owned.version_id, "repeats": repeats}
    answer = ada.client.post("/api/v1/runs", json=wish)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "repeats"


def test_a_dataset_without_pictures_cannot_be_trained_on(ada: Caller) -> None:
    dataset_id = ada.client.post("/api/v1/datasets", json={"name": "empty"}).json()["id"]
    answer = ada.client.post("/api/v1/runs", json={"dataset_id": dataset_id})
    assert answer.status_code == 409
    assert "no pictures yet" in answer.json()["detail"]


def test_a_class_without_training_pictures_cannot_be_learnt(ada: Caller, owned: Belongings, house: House) -> None:
    with house.database.write() as session:
        old = find_version(session, ada.user.id, owned.version_id)
        placed = [
            replace(one, split=Split.TEST) if one.class_name == "dog" else one for one in placed_pictures(session, old)
        ]
        dataset = session.get_one(Dataset, owned.dataset_id)
        version_id = add_version(session, dataset, VersionDraft(placed)).id
    answer = ada.client.post("/api/v1/runs", json={"dataset_id": owned.dataset_id})
    assert answer.status_code == 422
    message = 'Nothing to learn from: class "dog" has no training pictures in this dataset version.'
    assert answer.json()["errors"] == [{"field": "dataset_version_id", "message": message, "received": version_id}]
    assert ada.client.post("/api/v1/runs", json={"dataset_version_id": owned.version_id}).status_code == 202


def test_the_queue_is_rung_after_the_commit(ada: Caller, owned: Belongings, house: House) -> None:
    before = house.queue.length("train") or 0
    ada.client.post("/api/v1/runs", json={"dataset_id": owned.dataset_id})
    house.queue._thread.submit(lambda: None).result(5)  # the ring was put before it
    assert house.queue.length("train") == before + 1


def test_a_queued_run_is_cancelled_at_once_and_tried_again(ada: Caller, owned: Belongings) -> None:
    run = ada.client.post("/api/v1/runs", json={"dataset_id": owned.dataset_id}).json()
    path = f"/api/v1/runs/{run['id']}"
    assert ada.client.delete(path).status_code == 409
    assert ada.client.post(f"{path}/retry").status_code == 409
    cancelled = ada.client.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert ada.client.post(f"{path}/cancel").status_code == 409
    again = ada.client.post(f"{path}/retry")
    assert again.status_code == 202
    assert (again.json()["retry_of"], again.json()["config"]) == (run["id"], run["config"])
    assert ada.client.delete(path).status_code == 204
    assert ada.client.get(path).status_code == 404


def test_a_run_is_renamed_and_tagged(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/runs/{owned.run_id}"
    changed = ada.client.patch(path, json={"name": "best", "notes": "so far", "tags": ["a", "b", "a"]}).json()
    assert (changed["name"], changed["notes"], changed["tags"]) == ("best", "so far", ["a", "b"])
    assert ada.client.patch(path, json={"status": "failed"}).status_code == 422


def test_a_finished_run_names_its_model(ada: Caller, owned: Belongings) -> None:
    run = ada.client.get(f"/api/v1/runs/{owned.run_id}").json()
    assert run["model_id"] == owned.model_id
    listed = ada.client.get("/api/v1/runs", params={"status": "succeeded", "dataset_id": owned.dataset_id}).json()
    assert listed["items"] == [run]


def test_metrics_come_in_order_and_as_csv(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/runs/{owned.run_id}/metrics"
    items = ada.client.get(path).json()["items"]
    keys = [(one["phase_index"], one["epoch"], one["split"], one["name"]) for one in items]
    assert len(keys) == 8
    assert keys == sorted(keys)
    lines = ada.client.get(path, params={"format": "csv"}).text.splitlines()
    assert lines[0] == "phase,phase_index,epoch,split,name,value"
    assert lines[1] == "frozen,0,1,train,accuracy,0.5"
    assert ada.client.get(path, params={"format": "xml"}).status_code == 422


def test_log_and_layers_are_read(ada: Caller, owned: Belongings) -> None:
    lines = ada.client.get(f"/api/v1/runs/{owned.run_id}/log").json()["items"]
    assert [one["message"] for one in lines] == ["line 1", "line 2"]
    phase = ada.client.get(f"/api/v1/runs/{owned.run_id}/layers").json()["items"][0]
    assert phase["layers"][0] == {
        "name": "dense", "kind": "Dense", "shape": [None, 2], "parameters": 10, "trainable": True
    }  # fmt: skip


def test_the_evaluation_says_how_many_runs_have_looked_at_this_test(ada: Caller, owned: Belongings) -> None:
    evaluation = ada.client.get(f"/api/v1/runs/{owned.run_id}/evaluation").json()
    assert evaluation["looks"] == 1
    assert evaluation["phases"]["frozen"]["accuracy_interval"] == [0.1, 0.9]
    queued = ada.client.post("/api/v1/runs", json={"dataset_id": owned.dataset_id}).json()
    missing = ada.client.get(f"/api/v1/runs/{queued['id']}/evaluation")
    assert missing.status_code == 409
    assert "queued" in missing.json()["detail"]


def test_predictions_are_filtered_worst_first(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/runs/{owned.run_id}/predictions"
    items = ada.client.get(path).json()["items"]
    assert [(one["true_class"], one["true_probability"]) for one in items] == [("dog", 0.3), ("cat", 0.7)]
    assert items[0]["probabilities"] == {"cat": 0.7, "dog": 0.3}
    wrong = ada.client.get(path, params={"wrong_only": "true", "phase": "frozen"}).json()["items"]
    assert [one["predicted_class"] for one in wrong] == ["cat"]
    assert ada.client.get(path, params={"true_class": "dog", "predicted_class": "dog"}).json()["items"] == []
    assert ada.client.get(path, params={"true_class": "cow"}).status_code == 422


def test_runs_are_compared(ada: Caller, owned: Belongings) -> None:
    other = ada.client.post("/api/v1/runs", json={"dataset_id": owned.dataset_id, "config": {"batch_size": 8}}).json()
    answer = ada.client.get("/api/v1/runs/compare", params={"id": [owned.run_id, other["id"]]}).json()
    assert [one["run"]["id"] for one in answer["items"]] == [owned.run_id, other["id"]]
    assert (answer["same_test"], answer["changed"]) == (True, ["batch_size"])
    assert ada.client.get("/api/v1/runs/compare").status_code == 422


def test_what_changed_is_named_by_its_path() -> None:
    first = {"a": 1, "head": {"units": [1]}, "phases": [{"epochs": 1}]}
    second = {"a": 1, "head": {"units": [2]}, "phases": [{"epochs": 1}, {"epochs": 2}]}
    assert changed_paths([first, second]) == ["head.units", "phases.1.epochs"]


def test_deleting_a_run_leaves_its_model(ada: Caller, owned: Belongings, house: House) -> None:
    folder = house.settings.runs_folder / owned.run_id / "attempts" / "1"
    folder.mkdir(parents=True)
    assert ada.client.delete(f"/api/v1/runs/{owned.run_id}").status_code == 204
    assert not folder.exists()
    model = ada.client.get(f"/api/v1/models/{owned.model_id}").json()
    assert (model["run_id"], model["test_accuracy"]) == (None, 0.5)
    with house.database.read() as session:
        assert session.get(Run, owned.run_id) is None


def test_repeats_have_a_mean_and_a_spread(house: House, ada: Caller, bob: Caller, owned: Belongings) -> None:
    wish = {"dataset_version_id": owned.version_id, "preset": "quick", "repeats": 3}
    group_id = ada.client.post("/api/v1/runs", json=wish).json()["group_id"]
    found = ada.client.get(f"/api/v1/runs/groups/{group_id}").json()
    assert len(found["runs"]) == 3
    assert found["test_accuracy"]["count"] == 0
    assert found["test_accuracy"]["mean"] is None
    assert bob.client.get(f"/api/v1/runs/groups/{group_id}").status_code == 404
    with house.database.write() as session:
        for run, score in zip(found["runs"], (0.8, 0.86, 0.92), strict=True):
            session.get_one(Run, run["id"]).test_accuracy = score
    told = ada.client.get(f"/api/v1/runs/groups/{group_id}").json()["test_accuracy"]
    assert (told["count"], told["mean"], told["deviation"]) == (3, pytest.approx(0.86), pytest.approx(0.06))
    assert told["interval"] == [pytest.approx(0.711, abs=1e-3), 1.0]
