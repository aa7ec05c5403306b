"""Is Thaw as accurate as the Keras guide's recipe on every set of pictures? Each folder is a set of its own: frozen phase, and both phases.

Same files, split, backbone, image size and resize; guide: 20 + 10 epochs, the second phase as Keras 3 runs it (BatchNorm drifts) and with
statistics fixed; Thaw: the presets quick and standard. Seconds do not matter here, so --jobs parts run side by side, each with its share of
the threads. Parts that the result file has already are not measured again.

    python -m benchmarks quality [FOLDER ...] [--seeds 3] [--jobs 2]
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._record import TRIED, Record, folders_of, options, settings_of, side_by_side
from benchmarks._tables import quality_rows, table
from benchmarks.recipe import FULL, preset_config


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="parts side by side")
    arguments = parser.parse_args()
    folders, seeds, epochs, most = folders_of(arguments), arguments.seeds, FULL, None
    if arguments.quick:
        seeds, epochs, most = 1, (2, 1), 60
    threads = max(1, arguments.threads // arguments.jobs)
    settings = {**settings_of(folders), "epochs": epochs, "most": most, "threads": threads}
    record = Record("quality", arguments, settings, timed=False)
    with tempfile.TemporaryDirectory(prefix="thaw-bench-cache-") as cache:

        def shared(folder: Path, seed: int) -> dict[str, Any]:
            return {"folders": [str(folder)], "seed": seed, "most": most, "threads": threads}

        def weights(folder: Path, seed: int) -> str:
            return str(TRIED / "weights" / f"quality-{folder.name}-{most or 'all'}-{seed}.weights.h5")

        def thaw_and_frozen(folder: Path, seed: int) -> None:
            same = shared(folder, seed)
            for preset in ("quick", "standard"):
                own = {"config": preset_config(preset), "cache": cache, "whole": False}
                record.part(f"{folder.name}/thaw {preset}/{seed}", "_thaw:train", **same, **own)
            frozen = {"epochs": epochs[0], "weights": weights(folder, seed)}
            record.part(f"{folder.name}/guide frozen/{seed}", "_guide:frozen_phase", **same, **frozen)

        def both(kind: str, folder: Path, seed: int) -> None:
            tuned = {"epochs": epochs[1], "weights": weights(folder, seed), "fixed": kind == "fixed"}
            record.part(f"{folder.name}/guide {kind}/{seed}", "_guide:tune_phase", **shared(folder, seed), **tuned)

        # The stronger opponent first: a measurement that is cut off has said more by then.
        pairs = [(folder, seed) for seed in range(seeds) for folder in folders]
        side_by_side(arguments.jobs, [partial(thaw_and_frozen, *pair) for pair in pairs])
        for kind in ("fixed", "drift"):
            side_by_side(arguments.jobs, [partial(both, kind, *pair) for pair in pairs])
    print(table(quality_rows(record.body)))


if __name__ == "__main__":
    main()
