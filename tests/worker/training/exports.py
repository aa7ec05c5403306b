"""An export from beginning to end, with nothing done beside its check."""

from collections.abc import Sequence
from pathlib import Path

from core.training_config import TrainingConfig
from worker.training.doubt import Doubt
from worker.training.export import ExportResult, exporting
from worker.training.network import Network
from worker.training.pictures import decode


def export_now(
    network: Network,
    *,
    config: TrainingConfig,
    doubt: Doubt,
    class_names: Sequence[str],
    folder: Path,
    test_pictures: Sequence[Path],
    card: Sequence[str] = (),
) -> ExportResult:
    """What `exporting` writes, when it is written."""
    with exporting(
        network,
        config=config,
        doubt=doubt,
        class_names=class_names,
        folder=folder,
        test_pictures=test_pictures,
        decode=decode,
    ) as complete:
        return complete(card, go_on)


def go_on() -> None:
    """Nothing ends the waiting for the check."""
