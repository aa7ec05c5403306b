"""`POST /samples`: an upload that Thaw fills itself."""

from app.dependencies import House
from core.leases import UPLOAD_LIFE, waiting_count
from tests.app.people import Caller


def test_a_sample_is_an_upload_that_waits_for_a_worker(house: House, ada: Caller) -> None:
    answer = ada.client.post("/api/v1/samples", json={"seed": 7, "train_preset": "quick", "name": "First try"})
    assert answer.status_code == 202
    upload = answer.json()
    assert (upload["status"], upload["sample_seed"], upload["train_preset"]) == ("received", 7, "quick")
    assert answer.headers["location"] == f"/api/v1/uploads/{upload['id']}"
    assert ada.client.get(f"/api/v1/datasets/{upload['dataset_id']}").json()["name"] == "First try"
    with house.database.read() as session:
        assert waiting_count(session, UPLOAD_LIFE) == 1


def test_without_a_seed_every_sample_is_another(ada: Caller) -> None:
    seeds = {ada.client.post("/api/v1/samples", json={}).json()["sample_seed"] for _ in range(3)}
    assert len(seeds) > 1


def test_an_unknown_preset_is_refused_at_its_field(ada: Caller) -> None:
    answer = ada.client.post("/api/v1/samples", json={"train_preset": "fastest"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "train_preset")


def test_a_stranger_does_not_see_it(ada: Caller, bob: Caller) -> None:
    upload = ada.client.post("/api/v1/samples", json={}).json()
    assert bob.client.get(f"/api/v1/uploads/{upload['id']}").status_code == 404
