"""A second run on the same images, with another seed and another head, against the frozen phase of the first.

The split stays as it is: a second run is one on the same dataset version. Each run is a process of its own; the first finds empty
caches, the second those of the first. Frozen phase: features, choice of the strength, head. Beside it stands the whole way from files
to the end of that phase.
"""

import shutil
import tempfile
from pathlib import Path

from benchmarks._record import Record, folders_of, options, settings_of
from benchmarks._tables import second_run_rows, table
from core.presets import PRESETS

_OTHER_SEED = 1000  # so much more than the first run's
ADAM = {"kind": "frozen", "epochs": 20, "optimizer": {"name": "adam", "learning_rate": 0.003}}


def main() -> None:
    """Measure what is missing and print the table."""
    arguments = options(__doc__).parse_args()
    named = folders_of(arguments)
    folders = [str(one) for one in named]
    most, seeds = (120, 1) if arguments.quick else (None, arguments.seeds)
    settings = {**settings_of(named), "most": most, "threads": arguments.threads}
    record = Record("second_run", arguments, settings)
    first = PRESETS["quick"].config.model_dump(mode="json")
    kinds = {
        "first": first,
        "other strength": {**first, "label_smoothing": 0.0},
        "adam head": {**first, "phases": [ADAM]},
    }
    for number in range(seeds):
        cache = Path(tempfile.mkdtemp(prefix="thaw-bench-cache-"))
        same = {"folders": folders, "most": most, "threads": arguments.threads, "cache": str(cache), "whole": False}
        if any(f"{kind}/{number}" not in record.body["parts"] for kind in kinds):
            for kind in kinds:
                record.body["parts"].pop(f"{kind}/{number}", None)
        for kind, config in kinds.items():
            again = None if kind == "first" else number + _OTHER_SEED
            record.part(f"{kind}/{number}", "_thaw:train", **same, seed=number, run_seed=again, config=config)
        shutil.rmtree(cache, ignore_errors=True)
    print(table(second_run_rows(record.body)))


if __name__ == "__main__":
    main()
