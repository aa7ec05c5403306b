"""From a real quick run to what people see: a cropped copy in test that ingest did not find is found by the features of the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app.main import create_app
from core.accounts import open_browser_session
from core.presets import PRESETS
from core.runs import NewRun, create_runs
from core.tables import NearCheck, NearCheckStatus, Run, RunStatus, User
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import encoded
from tests.worker.ingest.test_guard import scene
from tests.worker.test_near_checks import by_name
from tests.worker.workplaces import workplace
from worker import tasks
from worker.supervisor import Supervisor
from worker.workplace import Workplace

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, database_address: str) -> Iterator[Workplace]:
    """A worker's place; its leases outlast TensorFlow's start."""
    with workplace(tmp_path, database_address, "train", lease_seconds=60) as made:
        yield made


def test_a_crop_of_fifteen_percent_across_train_and_test_is_shown_after_a_quick_run(place: Workplace) -> None:
    person = Person(place.settings, place.database)
    files: dict[str, bytes | Path] = {}
    for seed in range(40):
        split = ("train", "train", "train", "val", "test")[seed % 5]
        files[f"{split}/{'ab'[seed // 5 % 2]}/{seed}.png"] = encoded(scene(seed, 240))
    files["test/a/copy.png"] = encoded(scene(0, 240)[36:, 36:])  # 15 % of either side
    person.upload(files)
    version = person.version()
    assert version.issues["near_duplicates"] == 0, "ingest does not find it"
    with place.database.write() as session:
        wish = NewRun(preset="quick", config=PRESETS["quick"].config)
        run_id = create_runs(session, None, version, wish)[0].id
    supervisor = Supervisor(place)
    try:
        supervisor.task()
    finally:
        supervisor.close()
    with place.database.read() as session:
        run = session.get_one(Run, run_id)
        assert run.status == RunStatus.SUCCEEDED, run.failure
    tasks.batch(place)
    names = by_name(place, version)
    wanted = {names["0.png"][0], names["copy.png"][0]}
    with place.database.write() as session:
        check = session.scalars(select(NearCheck)).one()
        assert (check.status, check.compared) == (NearCheckStatus.READY, version.image_count), "test is among them"
        cookie = open_browser_session(session, session.get_one(User, person.owner_id), days=1)
    with TestClient(create_app(place.settings), base_url="http://localhost") as client:
        client.cookies.set("thaw_session", cookie)
        address = f"/datasets/{person.dataset_id}"
        answer = client.get(f"/api/v1/dataset-versions/{version.id}/issues?kind=found_later")
        assert answer.status_code == 200, answer.text
        pairs = [{image["id"] for image in one["images"]} for one in answer.json()["items"]]
        assert wanted in pairs
        page = client.get(f"{address}/issues?kind=found_later").text
    assert "Near duplicates found later" in page
    assert "leak between" in page
    assert all(f"/images/{image_id}/" in page for image_id in wanted)
