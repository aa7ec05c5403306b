"""`python -m worker.weights.checker`: the throw-away process that opens one file of weights, within limits of memory and time.

One JSON question on standard input, one JSON answer on standard output.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DiskFull
from worker.weights.room import disk_told, full_disk_sentence

if TYPE_CHECKING:
    from worker.weights.matching import Match

MOST_SECONDS = 120
MOST_NAMES = 200
MOST_CHARACTERS = 200


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Read, match, write the arrays aside; the answer is a report or the reason of a refusal."""
    import numpy as np  # noqa: PLC0415 - after the limits are set

    from worker.weights.arrays import WeightsRefused, read_groups  # noqa: PLC0415
    from worker.weights.matching import MatchRefused, match  # noqa: PLC0415

    target = Path(question["target"])
    try:
        groups = read_groups(
            Path(question["source"]), most_bytes=question["most_bytes"], aside=target.with_suffix(".h5")
        )
        found = match(groups, question["backbone"])
        with disk_told(), target.open("wb") as file:
            np.savez(
                file, allow_pickle=False, **{f"{found.form}:{name}": array for name, array in found.arrays.items()}
            )
    except MatchRefused as refused:
        return {"error": str(refused), **_counts(refused.found)}
    except WeightsRefused as refused:
        return {"error": str(refused)}
    except DiskFull as full:
        return {"error": full_disk_sentence(full)}
    except MemoryError:
        return {"error": "Reading this file takes more memory than it may."}
    finally:
        target.with_suffix(".h5").unlink(missing_ok=True)
    return {"form": found.form, "way": found.way, **_counts(found)}


def _counts(found: "Match") -> dict[str, Any]:
    """`missing` is whole: the backbone bounds it. The names of `unexpected` are the file's, so they are cut and counted."""
    return {
        "matched": len(found.arrays),
        "missing": found.missing,
        "unexpected": [name[:MOST_CHARACTERS] for name in found.unexpected[:MOST_NAMES]],
        "unexpected_count": len(found.unexpected),
    }


def _limit(most_bytes: int) -> None:
    os.environ["HDF5_PLUGIN_PATH"] = os.devnull  # no filter of the file's choice is ever loaded
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - Unix only

        # the libraries, the file's pages, the arrays as they are and as float32
        memory = 1_000_000_000 + 4 * most_bytes
        for kind, limit in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, MOST_SECONDS),
            (resource.RLIMIT_NOFILE, 64),
        ):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """Answer one question."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what C libraries print must not look like an answer
    question = json.loads(sys.stdin.read())
    _limit(question["most_bytes"])
    answers.write(json.dumps(check(question)) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
