"""A trainer that only speaks the protocol, for tests of the supervisor: what it does stands in the name of its backbone's run.

`python -m tests.worker.fake_trainer FOLDER --supervised` reads `FAKE_TRAINER` from the environment: a comma-separated list of steps.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

heard: list[str] = []


def say(event: str, **fields: Any) -> None:
    """One event."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def listen() -> None:
    """Remember every word; leave at end of file."""
    heard.extend(line.strip() for line in sys.stdin)
    os._exit(6)


def epoch(number: int) -> None:
    """One finished epoch of the frozen phase."""
    values = {"loss": 1.0 / number, "accuracy": 0.5}
    metrics = {"train": values, "validation": values}
    say("epoch", phase="frozen", phase_index=0, epoch=number, metrics=metrics, seconds=0.1)


def wait_for(word: str) -> None:
    """Block until this word was said."""
    while word not in heard:
        time.sleep(0.02)


def wait_for_folder() -> Path:
    """The folder of `run PATH`."""
    while True:
        for word in heard:
            if word.startswith("run "):
                return Path(word[4:])
        time.sleep(0.02)


def succeed(folder: Path) -> None:
    """Leave a whole result."""
    (folder / "model" / "saved_model").mkdir(parents=True)
    (folder / "model" / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    (folder / "model" / "saved_model.zip").write_bytes(b"zip")
    (folder / "checkpoints").mkdir(exist_ok=True)
    sha256 = hashlib.sha256(b"zip").hexdigest()
    export = {
        "format": "saved_model",
        "size_bytes": 3,
        "sha256": sha256,
        "agreement": {"top1": 1.0, "max_abs_diff": 0.0},
    }
    pictures = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    tested = [one for one in pictures if one["split"] == "test"]
    lines = [
        {"image_id": one["image_id"], "phase": "frozen", "split": "test", "true_label": one["label"]}
        | {"predicted_label": 0, "probabilities": [0.75, 0.25]}
        for one in tested
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "layers.json").write_text("[]")
    (folder / "evaluation.json").write_text("{}")
    result = {"summary": {"test_accuracy": 0.5}, "exports": [export]}
    (folder / "result.json").write_text(json.dumps(result))
    say("succeeded", result="result.json")


def end_badly(name: str, value: str) -> None:
    """What leads to an end, or keeps it away."""
    sys.stdout.flush()
    if name == "exit":
        os._exit(int(value))
    elif name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "count":  # as the kernel does before it kills for memory
        before = int(Path(value).read_text().split()[-1])
        Path(value).write_text(f"oom 9\noom_kill {before + 1}\n")
    elif name == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    elif name == "close":
        os.close(1)
    elif name == "hang":
        time.sleep(60)


def main() -> None:
    """Do the steps."""
    threading.Thread(target=listen, daemon=True).start()
    folder = wait_for_folder() if "--spare" in sys.argv else Path(sys.argv[1])
    say("started", device="CPU", precision="float32", versions={}, resumed_from=None)
    for step in os.environ["FAKE_TRAINER"].split(","):
        name, _, value = step.partition("=")
        if name == "epochs":
            for number in range(1, int(value) + 1):
                epoch(number)
        elif name == "wait":
            wait_for(value)
        elif name == "fail":
            say("failed", kind=value, message=f"It failed: {value}.", advice="Do something else.")
        elif name == "print":
            sys.stderr.write(value + "\n")
        elif name == "noise":
            sys.stdout.write("this is not JSON\n")
        elif name == "checkpoint":
            (folder / "checkpoints" / value).mkdir(parents=True)
        elif name == "succeed":
            succeed(folder)
        else:
            end_badly(name, value)


if __name__ == "__main__":
    main()
