"""What the presets' settings are worth: test accuracy of each change of the preset standard, set by set and over seeds.

    python -m benchmarks presets [FOLDER ...] [--seeds 3] [--joined] [--sizes] [--jobs 2] [--only "1 view"]

Each folder is a set of its own; with --joined all of them are one. Decoded pictures and features are shared by the runs of one call, so it
is quick after the first. With --sizes the folders are joined, and standard is trained on 60 to 1,000 of their training pictures. Accuracy
does not depend on how busy the machine is, so --jobs runs go side by side, each with its share of the threads.
"""

import copy
import tempfile
from functools import partial
from typing import Any

from benchmarks._record import Record, folders_of, options, settings_of, side_by_side
from benchmarks._tables import presets_rows, table
from core.presets import PRESETS

SIZES = (60, 150, 300, 600, 1000)


def variants() -> dict[str, dict[str, Any]]:
    """Name -> settings: the three presets, and standard with one thing changed."""
    standard = PRESETS["standard"].config.model_dump(mode="json")

    def changed(**changes: Any) -> dict[str, Any]:
        config = copy.deepcopy(standard)
        tuned = config["phases"][1]
        for name, value in changes.items():
            if name == "rate":
                tuned["optimizer"]["learning_rate"] = value
            elif name in tuned:
                tuned[name] = value
            else:
                config[name] = value
        return config

    larger = {"backbone": "efficientnet_lite2", "image_size": (260, 260), "unfreeze_from": "b14_add"}
    return {
        "standard": standard,
        "best": PRESETS["best"].config.model_dump(mode="json"),
        "rate 1e-4": changed(rate=1e-4),
        "rate 1e-3": changed(rate=1e-3),
        "cut at b14_add": changed(unfreeze_from="b14_add"),
        "cut at b7_add": changed(unfreeze_from="b7_add"),
        "cut at b7_add, 12 epochs, 4 views": changed(unfreeze_from="b7_add", epochs=12, views=4),
        "256 pixels, cut at b7_add, 14 epochs, 8 views": changed(
            image_size=(256, 256), unfreeze_from="b7_add", epochs=14, views=8, ema_decay=0.99
        ),
        "cut at b4_add": changed(unfreeze_from="b4_add"),
        "1 view": changed(views=1),
        "6 views": changed(views=6),
        "4 epochs": changed(epochs=4),
        "8 epochs, 4 views": changed(epochs=8, views=4),
        "16 epochs": changed(epochs=16),
        "Lite2 at 260 pixels": changed(**larger),
        "Lite2 at 260 pixels, 10 epochs, 4 views": changed(**larger, epochs=10, views=4),
        "no label smoothing": changed(label_smoothing=0.0),
        "no moving average": changed(ema_decay=0.0),
        "neither": changed(label_smoothing=0.0, ema_decay=0.0),
        "no class weights": changed(class_weights="none"),
    }


def main() -> None:
    """Measure what is missing and print the table."""
    parser = options(__doc__)
    parser.add_argument("--sizes", action="store_true", help="training-set sizes instead of settings")
    parser.add_argument("--joined", action="store_true", help="all folders as one set, instead of each as its own")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--only", action="append", help="these variants or sizes alone, by name")
    arguments = parser.parse_args()
    folders, most = folders_of(arguments), 120 if arguments.quick else None
    seeds = 1 if arguments.quick else arguments.seeds
    threads = max(1, arguments.threads // arguments.jobs)
    settings = {**settings_of(folders), "threads": threads, "most": most}
    record = Record("presets", arguments, settings, timed=False)
    chosen = {name: config for name, config in variants().items() if not arguments.only or name in arguments.only}
    standard = variants()["standard"]
    together = arguments.joined or arguments.sizes
    sets = {"joined": folders} if together else {folder.name: [folder] for folder in folders}
    with tempfile.TemporaryDirectory(prefix="thaw-bench-cache-") as cache:
        same = {"most": most, "threads": threads, "cache": cache, "whole": False}
        works = []
        for seed in range(seeds):
            for name, of in sets.items():
                shared = {**same, "folders": [str(one) for one in of], "seed": seed}
                if arguments.sizes:
                    sizes = {f"{size} training pictures": {"config": standard, "fewer": size} for size in SIZES}
                    wanted = {what: own for what, own in sizes.items() if not arguments.only or what in arguments.only}
                else:
                    wanted = {what: {"config": config} for what, config in chosen.items()}
                for what, own in wanted.items():
                    works.append(partial(record.part, f"{name}/{what}/{seed}", "_thaw:train", **shared, **own))
        side_by_side(arguments.jobs, works)
    print(table(presets_rows(record.body)))


if __name__ == "__main__":
    main()
