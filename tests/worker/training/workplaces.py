"""A run's inside without its process: for tests that look at phases, features and checkpoints directly."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from worker.training import train
from worker.training.data import DecodedPictures
from worker.training.events import Speaker
from worker.training.features import FeatureStore
from worker.training.layers import PictureResizer
from worker.training.ledger import Ledger
from worker.training.materials import Workplace
from worker.training.network import Start, build_network
from worker.training.orders import Orders
from worker.training.precision import may_use_bfloat16
from worker.training.run_folder import read_run_folder


@dataclass
class Opened:
    """A run folder that was opened in this process."""

    work: Workplace
    ledger: Ledger
    _said: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        """Everything said so far."""
        return [json.loads(line) for line in self._said.read_text(encoding="utf-8").splitlines()]

    @property
    def log(self) -> list[str]:
        """Every sentence of the log so far."""
        return [event["message"] for event in self.events if event["event"] == "log"]

    @property
    def curve(self) -> list[tuple[int, Mapping[str, Any]]]:
        """(epoch, metrics) of every `epoch` event."""
        return [(event["epoch"], event["metrics"]) for event in self.events if event["event"] == "epoch"]

    def run_phases(self) -> "Opened":
        """Run every phase that is left."""
        train._run_phases(self.work, self.ledger)
        return self


def open_run(path: Path) -> Opened:
    """Open a run folder as the trainer does, up to the first phase."""
    folder = read_run_folder(path)
    orders = Orders()
    pictures = DecodedPictures(folder, orders)
    pictures.start()
    keras.utils.set_random_seed(folder.config.seed)
    pictures.set_resize(PictureResizer(folder.config.image_size, folder.config.resize))
    ledger = Ledger(folder)
    start = None if folder.start_file is None else Start(folder.start_file, folder.start_cut_layer)
    network = build_network(folder.config, len(folder.class_names), start)
    ledger.meet(network)
    said = path / "said.jsonl"
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    store = FeatureStore(folder, pictures)
    fast = may_use_bfloat16(folder.config.precision)
    work = Workplace(folder, network, pictures, store, Speaker(descriptor), orders, fast)
    return Opened(work, ledger, said)
