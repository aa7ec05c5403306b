"""Write docs/benchmarks.md from the result files in benchmarks/results (or --from another folder, to standard output)."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks._record import RESULTS, processor
from benchmarks._tables import TABLES, pooled_rows, recipe_notes, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_TOP = """# Benchmarks

Written by `python -m benchmarks table` from the files in `benchmarks/results`; do not edit. `make bench` measures everything,
`make bench ARGS="recipe --seeds 3"` one of them; `--quick` tries it small, `--help` says the rest. Each compares both sides in one run on
one machine: the same files, split, backbone (EfficientNet-Lite0, 224 px), batch size and threads, every part in a process of its own.
Any folder of class folders may be named; without one, the five sample sets are joined (33 classes,
1,770 pictures, split anew by each seed: 1,000 train, about 260 validation, the rest test).

**Equal accuracy** means: mean test accuracy over the seeds at most 0.5 points lower than the guide's, and McNemar's exact test on the
pooled test pictures not significantly worse. Seconds are wall-clock, after TensorFlow is imported on both sides. Ratios carry over to
other machines better than seconds do.
"""


def page(results: Path) -> str:
    """The whole page."""
    sections = [_TOP]
    for name, (title, rows) in TABLES.items():
        sections.append(f"## {title}\n")
        module = importlib.import_module(f"benchmarks.{name}")
        sections.append(" ".join((module.__doc__ or "").split("\n\n")[0].split()) + "\n")
        bodies = [json.loads(path.read_text(encoding="utf-8")) for path in _result_files(results, name)]
        if not bodies:
            sections.append(f"Not measured yet: `python -m benchmarks {name}`.\n")
        for body in bodies:
            sections += [table(rows(body)) + "\n", _facts(name, body)]
        if name == "recipe" and len(bodies) > 1:
            sections.append(f"Test accuracy of all seeds of all machines together:\n\n{table(pooled_rows(bodies))}\n")
    return "\n".join(sections)


def _result_files(results: Path, name: str) -> list[Path]:
    """A benchmark's files: the first machine's, then other machines'."""
    return [path for path in (results / f"{name}.json", *sorted(results.glob(f"{name}.*.json"))) if path.is_file()]


def _facts(name: str, body: dict[str, Any]) -> str:
    """Date, machine, versions, load, command: one paragraph."""
    machine, parts = body["machine"], body["parts"].values()
    versions = ", ".join(f"{one} {number}" for one, number in machine["versions"].items())
    loads = [max(part["load_before_and_after"]) for part in parts if "load_before_and_after" in part]
    load = f" Load average beside the parts: at most {max(loads):.1f}." if loads else ""
    codes = ", ".join(sorted({str(part["code"]) for part in parts}))
    seeds = len({key.rpartition("/")[2] for key in body["parts"] if key.rpartition("/")[2].isdecimal()})
    times = f" Repeated with {seeds} seeds." if seeds > 1 else ""
    notes = f" {recipe_notes(body)}" if name == "recipe" else ""
    folders = body["settings"].get("folders")
    data = f" Pictures: {', '.join(folders)}." if folders else ""
    commands = ", then ".join(f"`{one}`" for one in body["commands"])
    ran = f"Command{'s' if len(body['commands']) > 1 else ''}: {commands}"
    size = " **A small trial (`--quick`), not a result.**" if body.get("quick") else ""
    processors = " and ".join(sorted({part.get("processor") or processor(machine) for part in parts}))
    return (
        f"{body['date']}, {processors}, "
        f"{machine['memory_GB']} GB; {versions}; code {codes}.{times}{load}{data}{notes}{size} {ran}.\n"
    )


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, help="result files, e.g. of --quick; the page is printed")
    arguments = parser.parse_args()
    if arguments.folder:
        print(page(arguments.folder))
    else:
        PAGE.write_text(page(RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
