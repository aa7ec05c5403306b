"""System, account, and the contract."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.dependencies import House
from core.backbones import BACKBONES
from core.config import Settings
from core.presets import PRESETS
from core.tables import WorkerRow
from core.training_config import FineTunePhase, FrozenPhase, TrainingConfig, parse_config
from tests.app.people import Caller


def test_health_needs_no_token(nobody: TestClient) -> None:
    assert nobody.get("/api/v1/health/live").json()["ok"] is True
    ready = nobody.get("/api/v1/health/ready")
    assert ready.json() == {"ok": True, "parts": {"database": True, "broker": True, "disk": True}}


class TestWithoutBroker:
    """With a broker that is not there."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """A socket that nobody listens on."""
        return settings.model_copy(update={"redis_url": "unix://:x@/nowhere/v.sock", "disk_reserve_bytes": 10**18})

    def test_ready_is_red(self, nobody: TestClient) -> None:
        ready = nobody.get("/api/v1/health/ready")
        assert ready.status_code == 503
        assert ready.json() == {"ok": False, "parts": {"database": True, "broker": False, "disk": False}}


def test_the_system_says_workers_devices_and_limits(ada: Caller, house: House, settings: Settings) -> None:
    device = {"name": "CPU", "kind": "cpu", "memory_bytes": 5}
    with house.database.write() as session:
        session.add(WorkerRow(id="w1", queues=["train"], devices=[device], busy=True, heartbeat_at=0.0))
    system = ada.client.get("/api/v1/system").json()
    assert system["workers"] == [{"id": "w1", "queues": ["train"], "alive": False, "busy": True}]
    assert system["devices"] == [{"worker": "w1", **device}]
    assert system["queue"] == {"queued": 0, "running": 0}
    assert system["limits"]["max_image_pixels"] == settings.max_image_pixels
    assert system["storage"]["free_bytes"] > 0


def test_backbones_and_presets_are_listed(ada: Caller) -> None:
    backbones = {one["id"]: one for one in ada.client.get("/api/v1/backbones").json()["items"]}
    assert set(backbones) == set(BACKBONES)
    assert {one["id"] for one in backbones["efficientnet_lite0"]["weights"]} == {"imagenet", "none"}
    presets = ada.client.get("/api/v1/presets").json()["items"]
    assert [one["id"] for one in presets] == list(PRESETS)
    for one in presets:
        assert parse_config(one["config"]) == PRESETS[one["id"]].config


def test_the_document_names_every_setting_and_asks_for_none_that_the_api_does_not_need(web: FastAPI) -> None:
    schemas = web.openapi()["components"]["schemas"]
    reference = "#/components/schemas/TrainingConfig"
    assert schemas["PresetOut"]["properties"]["config"]["$ref"] == reference
    for body in ("RunIn", "EstimateIn"):
        arms = schemas[body]["properties"]["config"]["anyOf"]
        assert arms == [{"$ref": reference}, {"type": "null"}]
    assert schemas["PreviewIn"]["properties"]["augmentation"]["$ref"] == "#/components/schemas/Augmentation"
    parts = ("TrainingConfig", "Head", "Augmentation", "Optimizer", "Schedule", "EarlyStopping")
    phases = ("FrozenPhase", "FineTunePhase")
    assert [one for one in parts if "required" in schemas[one]] == []
    assert [schemas[one]["required"] for one in phases] == [["kind"], ["kind"]]
    shown = {name: set(schemas[name]["properties"]) for name in ("TrainingConfig", *phases)}
    assert shown == {
        "TrainingConfig": set(TrainingConfig.model_fields),
        "FrozenPhase": set(FrozenPhase.model_fields),
        "FineTunePhase": set(FineTunePhase.model_fields),
    }


def test_a_token_is_shown_once_and_can_be_revoked(ada: Caller, nobody: TestClient) -> None:
    made = ada.client.post("/api/v1/tokens", json={"name": "ci", "scope": "read", "days": 1}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert nobody.get("/api/v1/datasets", headers=headers).status_code == 200
    listed = {one["name"]: one for one in ada.client.get("/api/v1/tokens").json()["items"]}
    assert "token" not in listed["ci"]
    assert listed["ci"]["last_used_at"] is not None
    assert ada.client.delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    assert nobody.get("/api/v1/datasets", headers=headers).status_code == 401


def test_a_browser_can_be_signed_out(ada: Caller, browser: TestClient) -> None:
    found = ada.client.get("/api/v1/sessions").json()["items"]
    assert ada.client.delete(f"/api/v1/sessions/{found[0]['id']}").status_code == 204
    assert browser.get("/api/v1/datasets").status_code == 401


def test_the_contract_is_openapi_3_1_and_names_every_route(web: FastAPI, nobody: TestClient) -> None:
    document = nobody.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    for path, method in [
        ("/datasets/{dataset_id}/uploads", "post"),
        ("/uploads/{upload_id}/files", "post"),
        ("/uploads/{upload_id}/receipt", "get"),
        ("/dataset-versions/{version_id}/images", "get"),
        ("/runs/{run_id}/events", "get"),
        ("/runs/{run_id}/evaluation", "get"),
        ("/runs/compare", "get"),
        ("/models/{model_id}/predict", "post"),
        ("/models/{model_id}/download/{file_format}", "get"),
        ("/health/ready", "get"),
        ("/users/{user_id}", "patch"),
    ]:
        assert method in document["paths"][f"/api/v1{path}"], path
    assert web.openapi() is web.openapi()
