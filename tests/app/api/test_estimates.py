"""`POST /runs/estimate`."""

import threading
import time

import pytest

from app.dependencies import House
from core.config import Settings
from core.estimates import SPEEDS_LAST, speeds_name
from core.queue import PREFIX, redis_client
from tests.app.answering import answering
from tests.app.people import Belongings, Caller, belongings
from tests.core.test_estimates import SPEEDS

pytestmark = pytest.mark.both_databases

PATH = "/api/v1/runs/estimate"


@pytest.fixture
def owned(house: House, ada: Caller, settings: Settings) -> Belongings:
    """Ada's things; nothing has been timed yet."""
    with redis_client(settings) as client:
        for key in client.scan_iter(f"{PREFIX}note:*"):
            client.delete(key)
    return belongings(house, ada.user)


def test_an_estimate_is_measured_once_and_then_known(
    house: House, ada: Caller, owned: Belongings, settings: Settings
) -> None:
    wish = {"dataset_version_id": owned.version_id, "preset": "standard"}

    first_answer_seen = threading.Event()

    def measured(question: dict[str, object]) -> dict[str, object]:
        first_answer_seen.wait(5)
        house.queue.keep(speeds_name(str(question["key"])), SPEEDS, SPEEDS_LAST)
        return {"speeds": SPEEDS}

    with answering(settings, measured) as asked:
        first = ada.client.post(PATH, json=wish)
        assert (first.status_code, first.json()["status"]) == (202, "measuring")
        first_answer_seen.set()
        found = first.json()
        deadline = time.monotonic() + 5
        while found["status"] == "measuring" and time.monotonic() < deadline:
            found = ada.client.get(first.headers["location"]).json()
    assert found["status"] == "ready"
    assert found["seconds"] == pytest.approx(sum(found["by_phase"].values()), abs=0.5)
    assert "timed steps" in found["basis"]
    assert (asked[0]["kind"], asked[0]["classes"]) == ("estimate", 2)
    assert len(asked[0]["blob_keys"]) == 6
    assert ada.client.post(PATH, json=wish).json()["status"] == "ready"


def test_a_measurement_that_failed_says_why(ada: Caller, owned: Belongings, settings: Settings) -> None:
    with answering(settings, lambda _: {"error": "The file is gone."}):
        asked = ada.client.post(PATH, json={"dataset_id": owned.dataset_id})
    found = ada.client.get(asked.headers["location"]).json()
    assert (found["status"], found["error"]) == ("failed", "The file is gone.")


def test_estimates_of_other_people_and_old_ones_are_not_there(ada: Caller, bob: Caller, owned: Belongings) -> None:
    asked = ada.client.post(PATH, json={"dataset_id": owned.dataset_id})
    assert bob.client.get(asked.headers["location"]).status_code == 404
    assert ada.client.get(f"{PATH}/nonsense").status_code == 404
    assert bob.client.post(PATH, json={"dataset_id": owned.dataset_id}).status_code == 404


def test_a_wrong_config_is_said_at_its_field(ada: Caller, owned: Belongings) -> None:
    answer = ada.client.post(PATH, json={"dataset_id": owned.dataset_id, "config": {"batch_size": 0}})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "config.batch_size")
