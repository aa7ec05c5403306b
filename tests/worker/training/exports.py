"""An export from beginning to end, with nothing done beside its check."""

from collections.abc import Sequence
from typing import Any

from worker.training.export import ExportResult, exporting
from worker.training.network import Network
from worker.training.pictures import decode


def export_now(network: Network, *, card: Sequence[str] = (), **wanted: Any) -> ExportResult:
    """What `exporting` writes, when it is written; `wanted`: what it is called with, but for `decode`."""
    with exporting(network, decode=decode, **wanted) as complete:
        return complete(card, go_on)


def go_on() -> None:
    """Nothing ends the waiting for the check."""
