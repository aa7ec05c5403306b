"""Twenty thousand pictures answered through a real server whose worker is killed half-way: every answer once, memory flat."""

import json
import os
import re
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.conftest import ON_BOTH_DATABASES, database_of
from tests.end_to_end.house import House, running_house, wait_until
from tests.worker.tiny_dataset import picture_bytes, queue_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COUNT, BAD = 20_000, 500  # every 500th file is no picture
WORKER = r"--queues \S*batch"
GROWTH = 120 << 20  # bytes that a process may have more at the end than at a quarter: allocators keep some
SHORT_LEASES = {"THAW_LEASE_SECONDS": "4", "THAW_RENEW_SECONDS": "1", "THAW_SWEEP_SECONDS": "1"}


@pytest.fixture(scope="module", params=ON_BOTH_DATABASES)
def quick_house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that notices a dead worker within seconds."""
    with running_house(tmp_path_factory.mktemp("many"), **SHORT_LEASES, **database_of(request)) as running:
        yield running


def _archive(path: Path) -> None:
    """Forty different pictures under as many names as are wanted, in one zip."""
    pictures = [picture_bytes(number % 2, 300 + number) for number in range(40)]
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(COUNT):
            body = b"no picture" if number % BAD == 0 else pictures[number % 40]
            archive.writestr(f"{number % 7}/{number:05}.png", body)


def _memory(house: House, wanted: str) -> int:
    """Anonymous resident bytes of the process with such a command line; 0 while there is none."""
    found = [pid for pid, command in house.processes().items() if re.search(wanted, command)]
    try:
        status = Path(f"/proc/{found[0]}/status").read_text() if found else ""
    except OSError:
        return 0
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0


def test_twenty_thousand_pictures_are_answered_once_though_the_worker_is_killed(
    quick_house: House, tmp_path: Path
) -> None:
    house = quick_house
    run_id = queue_run(house.database, house.settings)
    path = f"/api/v1/runs/{run_id}"

    def trained() -> Any:
        run = house.client.get(path).raise_for_status().json()
        return run if run["status"] not in {"queued", "running"} else None

    run = wait_until(trained, 300, f"the run ends\n{house.log}")
    assert run["status"] == "succeeded", run
    _archive(tmp_path / "many.zip")
    with (tmp_path / "many.zip").open("rb") as file:
        begun = house.client.post(
            f"/api/v1/models/{run['model_id']}/batch-predictions?filename=many.zip",
            content=iter(lambda: file.read(1 << 20), b""),
            headers={"Content-Type": "application/zip"},
        ).raise_for_status()
    address = f"/api/v1/batch-predictions/{begun.json()['id']}"
    seen: list[tuple[int, int, int]] = []

    def state() -> dict[str, Any]:
        answer: dict[str, Any] = house.client.get(address).raise_for_status().json()
        done = answer["progress"]["pictures_done"]
        seen.append((done, _memory(house, "worker.prediction.batch"), _memory(house, WORKER)))
        return answer

    before = wait_until(lambda: (one := state())["progress"]["pictures_done"] > COUNT // 2 and one, 900, house.log)
    assert before["status"] == "running"
    worker = next(pid for pid, command in house.processes().items() if re.search(WORKER, command))
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: state()["status"] not in {"queued", "running"}, 900, house.log)
    batch = state()
    assert (batch["status"], batch["refused"]) == ("ready", COUNT // BAD), batch
    with house.client.stream("GET", f"{address}/result?format=jsonl") as result:
        rows = [json.loads(line) for line in result.iter_lines()]
    assert [row["filename"] for row in rows] == [f"{number % 7}/{number:05}.png" for number in range(COUNT)]
    said: dict[int, list[list[float]]] = {}
    for number, row in enumerate(rows):
        if number % BAD == 0:
            assert "not a picture" in row["error"]
        else:
            said.setdefault(number % 40, []).append(list(row["probabilities"].values()))
    assert len(said) == 40
    assert max(float(np.ptp(np.array(rows), axis=0).max()) for rows in said.values()) < 1e-4
    with house.client.stream("GET", f"{address}/result?format=csv") as result:
        assert sum(1 for _ in result.iter_lines()) == COUNT + 1
    early = [one for one in seen if COUNT // 8 < one[0] < COUNT // 4]
    late = [one for one in seen if one[0] > COUNT * 3 // 4]
    assert early
    assert late
    for place in (1, 2):
        assert max(one[place] for one in late) < max(one[place] for one in early) + GROWTH, seen[
            :: max(1, len(seen) // 40)
        ]
