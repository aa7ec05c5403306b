"""How far the estimate of a run, and the time left that it shows, are from what it really took, through a real `thaw serve`.

Each set is uploaded, estimated (`POST /runs/estimate`) and trained with each preset: once with nothing known, then again with another
seed, estimated anew (features stored, one earlier run to mend by). Real: from `started_at` to `finished_at`. Time left: every sample
after the first epoch of a phase that trains by steps, against how long the phase then really went on. What is shown
is up to a second old, so samples of the last five seconds are left out.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks._record import Record, folders_of, options, settings_of
from benchmarks._tables import estimates_rows, table
from benchmarks.first_metric import BREATH, joined
from benchmarks.main_job import ENDED, House, running_house, upload

LEAST = 5.0  # seconds: below, the second that a progress is old is more than a fifth of them


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__, seeds=2)
    parser.add_argument("--preset", action="append", help="default: quick and standard")
    arguments = parser.parse_args()
    folders, most = folders_of(arguments), 90 if arguments.quick else None
    presets = arguments.preset or ["quick", "standard"]
    settings = {**settings_of(folders), "most": most, "presets": presets}
    record = Record("estimates", arguments, settings)
    for folder in folders:
        wanted = [f"{folder.name}/{preset}/{seed}" for preset in presets for seed in range(arguments.seeds)]
        if not arguments.fresh and all(key in record.body["parts"] for key in wanted):
            continue
        with tempfile.TemporaryDirectory(prefix="thaw-bench-") as where:
            data = joined(Path(where) / folder.name, [folder], most)
            with running_house(Path(where) / "house") as house:
                dataset, _ = upload(house, data)
                time.sleep(BREATH)
                for preset in presets:
                    for seed in range(arguments.seeds):
                        record.put(f"{folder.name}/{preset}/{seed}", measured(house, dataset, preset, seed))
    print(table(estimates_rows(record.body)))


def measured(house: House, dataset: str, preset: str, seed: int) -> dict[str, Any]:
    """Estimate a run, make it, and compare."""
    body = {"dataset_id": dataset, "preset": preset, "config": {"seed": seed}}
    estimate = house.api.post("/runs/estimate", json=body).raise_for_status().json()
    while estimate["status"] == "measuring":
        time.sleep(0.5)
        estimate = house.api.get(f"/runs/estimate/{estimate['id']}").raise_for_status().json()
    if estimate["status"] != "ready":
        raise SystemExit(f"No estimate: {estimate['error']}")
    time.sleep(BREATH)  # the process that timed steps goes, the spare is ready
    run = house.api.post("/runs", json=body).raise_for_status().json()
    seen = list(events(house, f"/runs/{run['id']}/events"))
    run = house.api.get(f"/runs/{run['id']}").raise_for_status().json()
    if run["status"] != "succeeded":
        raise SystemExit(f"The run ended as {run['status']}: {run['failure']}")
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started_at", "finished_at"))
    return {
        "estimate_s": estimate["seconds"],
        "estimate_by_phase": estimate["by_phase"],
        "basis": estimate["basis"],
        "real_s": round((finished - started).total_seconds(), 1),
        "real_by_phase": run["summary"]["seconds"],
        "left": times_left(seen),
    }


def events(house: House, path: str) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """(moment, name, data) of a run's event stream until the run has ended."""
    with house.api.stream("GET", path, timeout=600) as stream:
        name, status = "", ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                yield time.monotonic(), name, data
                status = data["status"] if name == "status" else status
            elif not line and status in ENDED:
                return


def times_left(seen: list[tuple[float, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Samples {phase, said, real} in seconds: what was said to be left of a phase after its first epoch, and what was."""
    ends: dict[str, float] = {}
    for moment, name, data in seen:
        if name == "metric":
            ends[data["phase"]] = moment
    begun: set[str] = set()
    samples = []
    for moment, name, data in seen:
        if name == "metric":
            begun.add(data["phase"])
        if name == "progress" and data["phase"] in begun and data["eta_seconds"] is not None and not data["message"]:
            real = ends[data["phase"]] - moment
            if real >= LEAST:
                samples.append({"phase": data["phase"], "said": data["eta_seconds"], "real": round(real, 2)})
    return samples


if __name__ == "__main__":
    main()
