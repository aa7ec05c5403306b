"""The Keras guide's recipe against Thaw's trainer, from JPEG files to the test score: frozen phase, and both phases.

Same files, split, backbone, image size, resize. Guide: 20 + 10 epochs, the second phase as Keras 3 runs it (BatchNorm drifts) and with
statistics fixed. Thaw: the presets quick and standard, caches empty. Both after importing TensorFlow, tracing included. Parts that the
result file has already are not measured again, so a run may be stopped and gone on with.

    python -m benchmarks recipe [FOLDER ...] [--seeds 3] [--first 0] [--fixed 1] [--phases frozen|both] [--epochs 20 10]

With fewer --epochs than 20 and 10 the guide's time is extrapolated from its later epochs, and its accuracy is that of fewer epochs; the
table says so.
"""

from benchmarks._record import TRIED, Record, folders_of, options, settings_of
from benchmarks._tables import recipe_rows, table
from core.presets import PRESETS

FULL = (20, 10)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__)
    parser.add_argument("--phases", choices=("frozen", "both"), default="both")
    parser.add_argument("--epochs", type=int, nargs=2, default=FULL, help="of the guide's two phases")
    parser.add_argument(
        "--fixed", type=int, default=3, help="seeds for which the guide runs with statistics fixed, too"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first seed, where another machine has those before"
    )
    arguments = parser.parse_args()
    named = folders_of(arguments)
    folders = [str(one) for one in named]
    epochs, seeds, most = tuple(arguments.epochs), arguments.seeds, None
    if arguments.quick:
        epochs, seeds, most = (2, 1), 1, 120
    settings = {**settings_of(named), "epochs": epochs, "most": most}
    record = Record("recipe", arguments, {**settings, "threads": arguments.threads})
    for seed in range(arguments.first, seeds):
        same = {"folders": folders, "seed": seed, "most": most, "threads": arguments.threads}
        weights = str(TRIED / "weights" / f"{record.path.stem}-{most or 'all'}-{epochs[0]}-{seed}.weights.h5")
        record.part(f"thaw quick/{seed}", "_thaw:train", **same, config=preset_config("quick"))
        record.part(f"guide frozen/{seed}", "_guide:frozen_phase", **same, epochs=epochs[0], weights=weights)
        if arguments.phases == "both":
            record.part(f"thaw standard/{seed}", "_thaw:train", **same, config=preset_config("standard"))
            for kind in ("drift", "fixed") if seed < arguments.first + arguments.fixed else ("drift",):
                tuned = {"epochs": epochs[1], "weights": weights, "fixed": kind == "fixed"}
                record.part(f"guide {kind}/{seed}", "_guide:tune_phase", **same, **tuned)
    print(table(recipe_rows(record.body)))


def preset_config(name: str) -> dict[str, object]:
    """A preset's settings as JSON."""
    return PRESETS[name].config.model_dump(mode="json")


if __name__ == "__main__":
    main()
