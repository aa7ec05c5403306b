"""What a spare makes ready while it waits: the network of the run before, which most often is that of the next run too."""

import contextlib
from dataclasses import replace
from pathlib import Path

from core.errors import ThawError
from core.training_config import TrainingConfig, parse_config
from worker.training.machine import prepare_tensorflow
from worker.training.network import Network, Start, build_head, build_network
from worker.training.run_folder import read_run_json


class Ready:
    """At most one network, made before it is known for which run. A process trains once, so it is given away once."""

    def __init__(self) -> None:
        self._key: object = None
        self._network: Network | None = None

    def make(self, like: Path | None, threads: int) -> None:
        """Build what the run in the folder `like` was built of, else what a config without wishes is built of.

        Nothing is raised: what cannot be made ready is made, or refused, once the run is there.
        """
        prepare_tensorflow(threads)
        with contextlib.suppress(ThawError, OSError):
            config = TrainingConfig()
            if like is not None:
                with contextlib.suppress(ThawError, OSError):
                    config = parse_config(read_run_json(like)["config"])
            if isinstance(config.weights, str):
                self._network, self._key = build_network(config, 2), _key(config)

    def take(self, config: TrainingConfig, n_classes: int, start: Start | None = None) -> Network:
        """The network of a config: the one that is ready, with a head of its own, or a new one. Both are equal bit for bit.

        Args:
            config: of the run.
            n_classes: of the answer.
            start: own weights, for which nothing is made ready.
        """
        network, self._network = self._network, None
        if network is None or start is not None or _key(config) != self._key:
            return build_network(config, n_classes, start)
        return replace(network, head=build_head(config, n_classes, network.backbone.output.shape[1:]))


def _key(config: TrainingConfig) -> object:
    """Equal for configs with equal backbones."""
    cached = all(phase.features == "cached" for phase in config.phases)
    seed = config.seed if config.weights == "none" else None
    return (config.backbone, str(config.weights), config.image_size, config.cut_layer, cached, seed)


READY = Ready()
