"""POST /runs to the first metric that GET /runs/{id}/metrics shows, through a real `thaw serve`: features cached, trainer warm.

The first run computes the features and is told beside it; then, after a breath in which the spare trainer gets ready, `--seeds` runs
of the same settings with other seeds.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._record import Record, folders_of, options, settings_of
from benchmarks._sets import read_set
from benchmarks._tables import first_metric_rows, table
from benchmarks.main_job import ENDED, House, running_house, upload

BREATH = 20.0  # seconds: the spare loads TensorFlow and builds a network


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__)
    parser.add_argument("--preset", default="quick")
    arguments = parser.parse_args()
    folders = folders_of(arguments)
    most = 120 if arguments.quick else None
    runs = 1 if arguments.quick else arguments.seeds
    settings = {**settings_of(folders), "most": most, "preset": arguments.preset}
    record = Record("first_metric", arguments, settings)
    if arguments.fresh or f"warm/{runs - 1}" not in record.body["parts"]:
        with tempfile.TemporaryDirectory(prefix="thaw-bench-") as where:
            pictures = joined(Path(where) / "joined", folders, most)
            with running_house(Path(where) / "house") as house:
                dataset, _ = upload(house, pictures)
                time.sleep(BREATH)
                record.put("first", _timed(house, dataset, arguments.preset, 1000))
                for number in range(runs):
                    time.sleep(BREATH)
                    record.put(f"warm/{number}", _timed(house, dataset, arguments.preset, number))
    print(table(first_metric_rows(record.body)))


def joined(folder: Path, folders: list[Path], most: int | None) -> Path:
    """The pictures as one folder of class folders, already split, by links."""
    pictures = read_set(folders, 0, most=most)
    for path, label, split in zip(pictures.paths, pictures.labels, pictures.splits, strict=True):
        part = ("train", "validation", "test")[split]
        target = folder / part / pictures.class_names[label].replace("/", " ")
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{path.parent.name}-{path.name}").symlink_to(path)
    return folder


def _timed(house: House, dataset: str, preset: str, seed: int) -> dict[str, Any]:
    """Seconds from the POST to the first metric, and to the end, of one run."""
    body = {"dataset_id": dataset, "preset": preset, "config": {"seed": seed}}
    began = time.monotonic()
    run = house.api.post("/runs", json=body).raise_for_status().json()
    first = None
    while True:
        if first is None and house.api.get(f"/runs/{run['id']}/metrics").json()["items"]:
            first = time.monotonic() - began
        status = house.api.get(f"/runs/{run['id']}").json()["status"]
        if status in ENDED:
            break
        time.sleep(0.02 if first is None else 0.5)
    if first is None:
        raise SystemExit(f"The run ended as {status} without a metric.")
    return {"first_metric_s": round(first, 2), "whole_s": round(time.monotonic() - began, 1), "status": status}


if __name__ == "__main__":
    main()
