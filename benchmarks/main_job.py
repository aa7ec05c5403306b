"""The main job through the REST API, timed: upload to ready, training, time to the first metric, agreement of the download.

Starts its own `thaw serve` in a temporary folder. Reads any folder of class folders:

    python -m benchmarks main_job ../shared/data/dev_sample/trash6 ../shared/data/dev_sample/flowers5 --preset standard
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ENDED = {"succeeded", "failed", "cancelled"}


@dataclass
class House:
    """A running Thaw: its API and its main process."""

    api: httpx.Client
    pid: int


@contextmanager
def running_house(folder: Path) -> Iterator[House]:
    """Start `thaw serve` on a free port, wait for its link, make a token; stop it at the end."""
    thaw = Path(sys.executable).with_name("thaw")
    environment = {**os.environ, "THAW_DATA_DIR": str(folder)}
    command = [thaw, "serve", "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.:]+", line)))
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        token = subprocess.check_output([thaw, "token", "create", "benchmark"], env=environment, text=True).split()[-1]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=60) as api:
            _wait(lambda: api.get("/health/ready").status_code == 200, 60)
            yield House(api, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait(done: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds} s in vain.")
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def tree_memory(pid: int) -> dict[int, tuple[str, int]]:
    """Peak resident bytes (VmHWM) of a process and all below it, by pid, with the command line's tail."""
    found = {}
    for one in descendants(pid):
        try:
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())
            command = Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if peak:
            found[one] = (command.strip()[-60:], int(peak[1]) * 1024)
    return found


def archive_of(folder: Path) -> bytes:
    """The folder as a stored zip in memory (the samples are small)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            archive.write(path, path.relative_to(folder.parent))
    return packed.getvalue()


def upload(house: House, folder: Path) -> tuple[str, dict[str, Any]]:
    """Upload a folder as a zip; returns the dataset's id and figures."""
    dataset = house.api.post("/datasets", json={"name": folder.name}).raise_for_status().json()
    body = archive_of(folder)
    started = time.monotonic()
    answer = house.api.post(
        f"/datasets/{dataset['id']}/uploads?filename={folder.name}.zip",
        content=body,
        headers={"Content-Type": "application/zip"},
    ).raise_for_status()
    upload_id = answer.json()["id"]
    last: dict[str, Any] = {}

    def settled() -> bool:
        last.update(house.api.get(f"/uploads/{upload_id}").raise_for_status().json())
        return last["status"] in {"ready", "rejected"}

    _wait(settled, 600)
    seconds = time.monotonic() - started
    memory = max((peak for command, peak in tree_memory(house.pid).values() if "ingest" in command), default=0)
    figures = {
        "set": folder.name,
        "upload_to_ready_s": round(seconds, 2),
        "MB": round(len(body) / 1e6, 1),
        "status": last["status"],
        "receipt": last["receipt"],
        "ingest_process_peak_MB": round(memory / 1e6),
    }
    return dataset["id"], figures


def train(house: House, dataset_id: str, preset: str, seed: int) -> dict[str, Any]:
    """Train with a preset; returns figures."""
    body = {"dataset_id": dataset_id, "preset": preset, "config": {"seed": seed}}
    started = time.monotonic()
    run = house.api.post("/runs", json=body).raise_for_status().json()
    accepted = time.monotonic() - started
    path = f"/runs/{run['id']}"
    _wait(lambda: house.api.get(f"{path}/metrics").json()["items"] or _state(house, path) in ENDED, 900)
    first_metric = time.monotonic() - started
    _wait(lambda: _state(house, path) in ENDED, 1800)
    total = time.monotonic() - started
    run = house.api.get(path).json()
    figures = {
        "preset": preset,
        "seed": seed,
        "status": run["status"],
        "POST_s": round(accepted, 3),
        "POST_to_first_metric_s": round(first_metric, 2),
        "total_s": round(total, 1),
        "summary": run["summary"],
        "failure": run["failure"],
    }
    if run["model_id"]:
        model = house.api.get(f"/models/{run['model_id']}").json()
        figures["agreement"] = next(one["agreement"] for one in model["formats"] if one["format"] == "saved_model")
    return figures


def _state(house: House, path: str) -> str:
    return str(house.api.get(path).json()["status"])


def main() -> None:
    """Measure and print one JSON object per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of class folders")
    parser.add_argument("--preset", action="append", help="presets to train with (may be given more than once)")
    parser.add_argument("--seeds", type=int, default=1, help="runs per preset, with seeds 0, 1, ...")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder, running_house(Path(folder)) as house:
        for one in arguments.folders:
            dataset_id, figures = upload(house, one.resolve())
            print(json.dumps(figures), flush=True)
            for preset in arguments.preset or []:
                for seed in range(arguments.seeds):
                    print(json.dumps({"set": one.name, **train(house, dataset_id, preset, seed)}), flush=True)


if __name__ == "__main__":
    main()
