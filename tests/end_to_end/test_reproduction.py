"""Run it again and compare: two real trainings through a real server, and what the second says of the first."""

import pytest

from tests.end_to_end.house import House, succeeded_run
from tests.worker.tiny_dataset import queue_run

pytestmark = [pytest.mark.xdist_group("house"), pytest.mark.timeout(500)]
BOTH = {"phases": [{"kind": "frozen", "epochs": 2}, {"kind": "fine_tune", "epochs": 2}]}


def test_a_run_done_again_has_the_same_frozen_weights_and_answers(house: House) -> None:
    first = succeeded_run(house, queue_run(house.database, house.settings, BOTH))
    assert house.client.get(f"/api/v1/runs/{first['id']}/reproduction").status_code == 404
    asked = house.client.post(f"/api/v1/runs/{first['id']}/retry").raise_for_status().json()
    again = succeeded_run(house, asked["id"])
    found = house.client.get(f"/api/v1/runs/{again['id']}/reproduction").raise_for_status().json()
    assert found["first_id"] == first["id"]
    assert found["same_machine"] is True
    assert found["equal_weights"]["frozen"] is True
    assert set(found["equal_weights"]) == {"frozen", "fine_tune"}
    assert found["pictures"] == found["same_answer"] == again["summary"]["test_pictures"]
    assert found["largest_difference"] <= found["tolerance"]
    assert found["within_tolerance"] is True
