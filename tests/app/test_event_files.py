"""TensorBoard event files, written without TensorFlow and read back with it."""

import io
import json
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from app.event_files import event_files
from core.tables import Metric, Run

READ = """
import glob, json, os, sys
import tensorflow as tf
from tensorflow.core.util import event_pb2
found = {}
for path in sorted(glob.glob(sys.argv[1] + "/**/*tfevents*", recursive=True)):
    for record in tf.data.TFRecordDataset(path):  # checks every CRC
        event = event_pb2.Event.FromString(record.numpy())
        for value in event.summary.value:
            found.setdefault(os.path.basename(os.path.dirname(path)), []).append(
                [event.wall_time, event.step, value.tag, value.simple_value])
        if event.file_version:
            assert event.file_version == "brain.Event:2"
print(json.dumps(found))
"""


def test_tensorflow_reads_what_was_written(tmp_path: Path) -> None:
    when = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    run = Run(id="run-1", created_at=when, finished_at=when)
    metrics = [
        Metric(phase="frozen", epoch=epoch, split=split, name=name, value=0.5 if epoch == 1 else 1.25, recorded_at=when)
        for epoch in (1, 200)
        for split in ("train", "validation")
        for name in ("accuracy", "loss")
    ]
    evaluation = {"phases": {"frozen": {"accuracy": 0.75, "loss": 0.5, "macro_f1": None}}}
    with zipfile.ZipFile(io.BytesIO(event_files(run, metrics, evaluation))) as archive:
        assert all(name.startswith("run-1/") for name in archive.namelist())
        archive.extractall(tmp_path)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["train"] == [
        [when.timestamp(), 1, "epoch_accuracy", 0.5],
        [when.timestamp(), 1, "epoch_loss", 0.5],
        [when.timestamp(), 200, "epoch_accuracy", 1.25],
        [when.timestamp(), 200, "epoch_loss", 1.25],
    ]
    assert found["validation"] == found["train"]
    assert found["test"] == [
        [when.timestamp(), 200, "epoch_loss", 0.5],
        [when.timestamp(), 200, "epoch_accuracy", 0.75],
    ]


def test_a_run_that_has_not_begun_is_an_empty_archive() -> None:
    with zipfile.ZipFile(io.BytesIO(event_files(Run(id="run-1"), [], None))) as archive:
        assert archive.namelist() == []
