"""A PostgreSQL that restarts or fails over breaks every connection; a training does not notice."""

import time
from pathlib import Path

import pytest

from tests.end_to_end.house import running_house
from tests.end_to_end.test_faults import LONG, SHORT, check_whole, wait_for_epoch
from tests.postgres import Postgres
from tests.worker.tiny_dataset import queue_run


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_training_survives_that_all_connections_break_again_and_again(postgres: Postgres, tmp_path: Path) -> None:
    address = postgres.create()
    with running_house(tmp_path, **SHORT, DATABASE_URL=address) as house:
        run_id = queue_run(house.database, house.settings, LONG)
        wait_for_epoch(house, run_id, 3)
        for _ in range(15):
            postgres.disconnect(address)
            time.sleep(0.3)
        check_whole(house, run_id, attempts=1)
        assert house.client.get("/api/v1/health/ready").status_code == 200
        assert "attempt 2 begins" not in house.log, "no attempt was spent on it"
