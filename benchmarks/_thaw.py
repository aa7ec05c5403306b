"""Thaw's own trainer, timed from inside its process: the same functions that a run goes through (`worker.training.train`)."""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks._sets import read_set, with_fewer, write_run_folder
from core.training_config import parse_config
from worker.training import train as story
from worker.training.data import DecodedPictures
from worker.training.evaluate import choose, last_of_each_kind, trained_graph
from worker.training.events import Speaker
from worker.training.features import FeatureStore
from worker.training.layers import PictureResizer
from worker.training.ledger import Ledger
from worker.training.machine import prepare_tensorflow
from worker.training.materials import Workplace
from worker.training.network import build_network
from worker.training.orders import Orders
from worker.training.precision import may_use_bfloat16
from worker.training.run_folder import read_run_folder


def open_run(path: Path) -> tuple[Workplace, Ledger]:
    """A run up to its first phase, with nothing made ready before: the first lines of `worker.training.train.train`."""
    folder, orders = read_run_folder(path), Orders()
    pictures = DecodedPictures(folder, orders)
    pictures.start()
    prepare_tensorflow(folder.threads)
    keras.utils.set_random_seed(folder.config.seed)
    ledger = Ledger(folder)
    pictures.set_resize(PictureResizer(folder.config.image_size, folder.config.resize))
    network = build_network(folder.config, len(folder.class_names))
    ledger.meet(network)
    speaker = Speaker(os.open(os.devnull, os.O_WRONLY))
    fast = may_use_bfloat16(folder.config.precision)
    work = Workplace(folder, network, pictures, FeatureStore(folder, pictures), speaker, orders, fast)
    pictures.wait_all(lambda _: None)
    return work, ledger


def train(  # noqa: PLR0913 - one call, in a process of its own
    folders: Sequence[str],
    *,
    seed: int,
    most: int | None,
    config: Mapping[str, Any],
    threads: int,
    cache: str | None = None,
    whole: bool = True,
    fewer: int | None = None,
    run_seed: int | None = None,
) -> dict[str, Any]:
    """One run, from files to the test score of the network that validation chooses, then on to the checked download.

    Args:
        cache: folder of decoded pictures and features; None: an empty one.
        whole: go on to export, its check in a clean process, and the judgement through the exported graph.
        fewer: training pictures; None: all.
        run_seed: of the run; None: that of the split.
    """
    pictures = read_set([Path(one) for one in folders], seed, most=most)
    if fewer is not None:
        pictures = with_fewer(pictures, fewer, seed)
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        where = Path(cache) if cache else Path(folder) / "cache"
        settings = parse_config({**config, "seed": seed if run_seed is None else run_seed}).model_dump(mode="json")
        path = write_run_folder(Path(folder) / "run", pictures, settings, cache=where, threads=threads)
        started = time.monotonic()
        work, ledger = open_run(path)
        ready = time.monotonic()
        story._run_phases(work, ledger)
        trained = time.monotonic()
        chosen = choose(ledger.state.results, work.config.select)
        ledger.put_back(work.network, chosen["phase_index"])
        right = _right_on_test(work)
        scored = time.monotonic()
        accuracies = {chosen["phase"]: float(right.mean())}
        for result in last_of_each_kind(ledger.state.results).values():
            if result["phase"] not in accuracies:
                ledger.put_back(work.network, result["phase_index"])
                accuracies[result["phase"]] = float(_right_on_test(work).mean())
        judged = time.monotonic()
        if whole:
            story._finish(work, ledger, {})
        else:
            work.store.finish()
            work.pictures.finish()
        return {
            "to_score_s": round(scored - started, 2),
            "prepare_s": round(ready - started, 2),
            "phases_s": round(trained - ready, 2),
            "test_s": round(scored - trained, 2),
            "to_download_s": round(time.monotonic() - judged + trained - started, 2) if whole else None,
            "phases": ledger.state.results,
            "precision": work.precision,
            "chosen": chosen["phase"],
            "right": "".join("1" if one else "0" for one in right),
            "test_accuracy": float(right.mean()),
            "test_accuracies": accuracies,
        }


def _right_on_test(work: Workplace) -> np.ndarray:
    """Which test pictures the trained network has right, through the float32 form that is exported."""
    answer, positions = trained_graph(work.network), work.positions("test")
    parts = [
        answer(work.pictures.batch(positions[first : first + 32])).argmax(axis=1)
        for first in range(0, len(positions), 32)
    ]
    right: np.ndarray = np.concatenate(parts) == work.labels("test")
    return right
