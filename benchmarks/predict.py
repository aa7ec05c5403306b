"""Answers: one picture after the other through REST, and many pictures by the prediction process beside the Keras model itself.

    python -m benchmarks predict ../shared/data/dev_sample/flowers5

Starts its own `thaw serve`, trains the preset quick, waits until nothing trains, then sends single pictures (p50 and p95 in
milliseconds, connection kept, after a few that warm it up). Then, with the server stopped: pictures per second of the process that
answers batches (`worker.prediction.batch`, from files to lines of JSON) against the same files decoded and resized on as many threads
and given to the `.keras` file's model by `predict_on_batch`, 32 at a time; in turns, so that both see the same machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.main_job import House, running_house, train, upload

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BATCH = 32
BREATH = 30.0  # seconds after the training: the spare trainer loads, then the machine is quiet


def single(house: House, model_id: str, files: Sequence[Path], count: int) -> dict[str, float]:
    """Milliseconds from request to answer of one picture, one request after the other."""
    times = []
    for number in range(-10, count):
        file = files[number % len(files)]
        began = time.perf_counter()
        answer = house.api.post(f"/models/{model_id}/predict", files={"images": (file.name, file.read_bytes())})
        spent = time.perf_counter() - began
        answer.raise_for_status()
        if number >= 0:
            times.append(1000 * spent)
    cuts = statistics.quantiles(times, n=20)
    return {"requests": count, "p50_ms": round(cuts[9], 1), "p95_ms": round(cuts[18], 1)}


class BatchProcess:
    """`worker.prediction.batch` on a model's SavedModel, warm."""

    def __init__(self, folder: Path, image_size: Sequence[int], resize: str, warm: Sequence[Path]) -> None:
        order: dict[str, Any] = {"saved_model": str(folder / "saved_model"), "image_size": image_size, "resize": resize}
        order |= {"max_bytes": 1 << 30, "max_pixels": 1 << 30}
        command = [sys.executable, "-m", "worker.prediction.batch", json.dumps(order)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.rate(warm)

    def rate(self, files: Sequence[Path]) -> float:
        """Pictures per second over these files."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None and answers is not None  # noqa: PT018 - both are pipes
        began = time.perf_counter()
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(self._send, files)
            for _ in files:
                answer = json.loads(answers.readline())
                assert answer.get("error") is None, answer
            sending.result()
        return len(files) / (time.perf_counter() - began)

    def _send(self, files: Sequence[Path]) -> None:
        asked = self._process.stdin
        assert asked is not None
        for number, file in enumerate(files):
            asked.write(json.dumps([number, str(file)]) + "\n")
        asked.write("[-1, null]\n")
        asked.flush()

    def end(self) -> None:
        """Close its input and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class Direct:
    """The model of the `.keras` file, asked as Keras' own guide asks one."""

    def __init__(self, folder: Path, image_size: Sequence[int], resize: Any, warm: Sequence[Path]) -> None:
        import keras  # noqa: PLC0415 - after the server has stopped

        from worker.training.layers import PictureResizer  # noqa: PLC0415
        from worker.training.pictures import decode  # noqa: PLC0415

        self._model = keras.saving.load_model(folder / "classifier.keras").get_layer("classifier")
        self._resize = PictureResizer((image_size[0], image_size[1]), resize)
        self._decode = decode
        self.rate(warm)

    def rate(self, files: Sequence[Path]) -> float:
        """Pictures per second over these files: decoding runs ahead on threads, as beside it."""
        import numpy as np  # noqa: PLC0415

        began = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            coming: Iterator[Any] = pool.map(lambda file: self._resize(self._decode(file)), files)
            for first in range(0, len(files), BATCH):
                some = [next(coming) for _ in range(min(BATCH, len(files) - first))]
                answer = self._model.predict_on_batch(np.stack(some))
                assert answer["probabilities"].shape[0] == len(some)
        return len(files) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of class folders with JPEG pictures")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=640, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = [path for path in sorted(arguments.folder.rglob("*")) if path.suffix.lower() in {".jpg", ".jpeg"}]
    files = [found[number % len(found)] for number in range(arguments.pictures)]
    figures: dict[str, Any] = {"set": arguments.folder.name}
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as where:
        with running_house(Path(where)) as house:
            dataset_id, _ = upload(house, arguments.folder.resolve())
            figures["run"] = train(house, dataset_id, "quick", 0)["status"]
            time.sleep(BREATH)
            model = house.api.get("/models?limit=1").json()["items"][0]
            figures["single"] = single(house, model["id"], found, arguments.requests)
        keras_file = next(Path(where).rglob("classifier.keras"))
        facts = (keras_file.parent, model["image_size"], model["resize"], files[: 2 * BATCH])
        direct, batch = Direct(*facts), BatchProcess(*facts)
        rates: dict[str, list[float]] = {"worker": [], "direct": []}
        for _ in range(arguments.rounds):
            rates["worker"].append(round(batch.rate(files), 1))
            rates["direct"].append(round(direct.rate(files), 1))
        batch.end()
    figures |= {"pictures_per_second": rates}
    figures["ratio"] = round(statistics.median(rates["worker"]) / statistics.median(rates["direct"]), 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
