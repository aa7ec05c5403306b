"""The run's book: state, weights of finished phases, checkpoints."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DiskFull
from worker.training import checkpoints
from worker.training.checkpoints import Arrays, State
from worker.training.network import Network
from worker.training.run_folder import RunFolder


class Ledger:
    """What has been reached, on disk before it is said.

    Attributes:
        state: where the run stands.
        groups: arrays of the checkpoint that the run goes on from; empty when it begins.
        resumed_from: that checkpoint's name, or None.
        damaged: names of further checkpoints that are not as they were written.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._initial: list[np.ndarray] = []
        self._changed: set[int] = set()
        self.finished: dict[str, Arrays] = {}
        self.damaged: list[str] = []
        folders = (folder.checkpoints, *folder.earlier_checkpoints)
        found = checkpoints.newest(folders, folder.fingerprint, self.damaged.append)
        checkpoints.forget_others(folder.checkpoints, found)
        self.resumed_from = None if found is None else found.name
        self.state = State(run=folder.fingerprint) if found is None else found.state
        self.groups: dict[str, Arrays] = {} if found is None else found.groups
        self.state.batch_size = folder.batch_size

    def meet(self, network: Network) -> None:
        """Remember the network's initial weights, and put back those of the last finished phase."""
        self._initial = [variable.numpy() for variable in every_variable(network)]
        self.finished = {name: arrays for name, arrays in self.groups.items() if name.startswith("phase-")}
        for arrays in self.finished.values():
            self._changed.update(int(key) for key in arrays)
        if self.state.phase_over:
            self._turn_page()
        if self.state.results:
            self.put_back(network, self.state.results[-1]["phase_index"])

    def put_back(self, network: Network, phase_index: int) -> None:
        """Give the network the weights that a finished phase left."""
        learnt = self.finished[f"phase-{phase_index}"]
        for number, variable in enumerate(every_variable(network)):
            value = learnt.get(f"{number:05d}")
            if value is not None or number in self._changed:
                variable.assign(self._initial[number] if value is None else value)

    def save(self, groups: dict[str, Arrays], unchanged: Sequence[str] = ()) -> None:
        """Write a checkpoint of the state, these groups and every finished phase.

        Raises:
            DiskFull: it would touch the disk reserve.
        """
        size = sum(array.nbytes for arrays in groups.values() for array in arrays.values())
        check_reserve(self._folder.path, size, self._folder.disk_reserve_bytes)
        together = {**groups, **self.finished}
        checkpoints.save(self._folder.checkpoints, self.state, together, unchanged=(*unchanged, *self.finished))

    def close_phase(self, network: Network, variables: Sequence[Any], precision: str) -> None:
        """Book the end of a phase: its result and weights into a checkpoint, then an empty page for the next phase."""
        state = self.state
        kept = state.best if self._folder.config.phases[state.phase_index].keep == "best" else state.last_validation
        state.results.append(
            {
                "phase": self._folder.config.phases[state.phase_index].kind,
                "phase_index": state.phase_index,
                "epochs": state.phase_epoch,
                "validation": {name: kept[name] for name in ("loss", "accuracy")},
                "seconds": round(state.seconds, 3),
                "precision": precision,
            }
        )
        every = every_variable(network)
        numbers = {id(variable): number for number, variable in enumerate(every)}
        self._changed.update(numbers[id(variable)] for variable in variables)
        self.finished[f"phase-{state.phase_index}"] = {f"{n:05d}": every[n].numpy() for n in sorted(self._changed)}
        state.phase_over = True
        self.save({})
        self._turn_page()

    def _turn_page(self) -> None:
        state = self.state
        self.groups = {}
        state.phase_index += 1
        state.phase_epoch, state.phase_over = 0, False
        state.best, state.epochs_without_better, state.lowest_loss, state.seconds = {}, 0, None, 0.0


def every_variable(network: Network) -> list[Any]:
    """All weights of backbone and head, in an order that only the config decides; random layers' states are none."""
    return [*network.backbone.weights, *network.head.weights]


def check_reserve(folder: Path, need: int, reserve: int) -> None:
    """Raise DiskFull when `need` more bytes would touch the disk reserve."""
    free = shutil.disk_usage(folder).free
    if free - need < reserve:
        raise DiskFull(
            f"The disk is full: {free / 1e9:.1f} GB are free and {reserve / 1e9:.1f} GB are kept as a reserve."
        )
