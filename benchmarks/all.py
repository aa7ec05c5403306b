"""Every benchmark of docs/benchmarks.md, one after the other, the short ones first; then the page is written.

Arguments (--quick, --seeds, --threads, --fresh, folders) go to each of them. What a result file has already is not measured again.
"""

import subprocess
import sys

from benchmarks._tables import TABLES

_WITHOUT_FOLDERS = {"steps", "memory"}
_WITH_VALUES = {"--seeds", "--threads"}
_ASIDE = {"heads", "presets", "quality"}  # long, and no question of speed: run by themselves


def main() -> None:
    """Run them; the first that fails ends it."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(__doc__)
        return
    options = [one for position, one in enumerate(given) if one.startswith("-") or given[position - 1] in _WITH_VALUES]
    for name in (one for one in reversed(TABLES) if one not in _ASIDE):
        print(f"== {name}", flush=True)
        arguments = options if name in _WITHOUT_FOLDERS else given
        subprocess.run([sys.executable, "-m", "benchmarks", name, *arguments], check=True)
    if "--quick" not in given:
        subprocess.run([sys.executable, "-m", "benchmarks", "table"], check=True)


if __name__ == "__main__":
    main()
