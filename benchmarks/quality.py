"""Is Thaw as accurate as the Keras guide's recipe on every set of pictures? Each folder is a set of its own: frozen phase, and both phases.

Same files, split, backbone, image size and resize; guide: 20 + 10 epochs, the second phase as Keras 3 runs it (BatchNorm drifts) and with
statistics fixed; Thaw: the presets quick and standard. Seconds do not matter here, so --jobs parts run side by side, each with its share of
the threads. Parts that the result file has already are not measured again. Three seeds of some eighty test pictures tell differences of
five points; more seeds of one set are asked for by --only, and --kinds leaves out the slower form of the guide.

    python -m benchmarks quality [FOLDER ...] [--seeds 3] [--jobs 2] [--only flowers5] [--kinds fixed]
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
    parser.add_argument("--only", action="append", help="these sets alone, by the name of the folder")
    parser.add_argument("--kinds", nargs="+", choices=("fixed", "drift"), default=("fixed", "drift"))
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

        def thaw(folder: Path, seed: int) -> None:
            for preset in ("quick", "standard"):
                own = {"config": preset_config(preset), "cache": cache, "whole": False}
                record.part(f"{folder.name}/thaw {preset}/{seed}", "_thaw:train", **shared(folder, seed), **own)

        def frozen(folder: Path, seed: int, *, again: bool = False) -> None:
            own = {"epochs": epochs[0], "weights": weights(folder, seed), "again": again}
            record.part(f"{folder.name}/guide frozen/{seed}", "_guide:frozen_phase", **shared(folder, seed), **own)

        def both(kind: str, folder: Path, seed: int) -> None:
            key = f"{folder.name}/guide {kind}/{seed}"
            if key not in record.body["parts"] and not Path(weights(folder, seed)).exists():
                frozen(folder, seed, again=True)  # measured elsewhere: there is nothing to go on from
            tuned = {"epochs": epochs[1], "weights": weights(folder, seed), "fixed": kind == "fixed"}
            record.part(key, "_guide:tune_phase", **shared(folder, seed), **tuned)

        # The stronger opponent first: a measurement that is cut off has said more by then.
        wanted = [folder for folder in folders if not arguments.only or folder.name in arguments.only]
        pairs = [(folder, seed) for seed in range(seeds) for folder in wanted]
        side_by_side(arguments.jobs, [partial(side, *pair) for pair in pairs for side in (thaw, frozen)])
        for kind in arguments.kinds:
            side_by_side(arguments.jobs, [partial(both, kind, *pair) for pair in pairs])
    print(table(quality_rows(record.body)))


if __name__ == "__main__":
    main()
