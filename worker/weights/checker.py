"""`python -m worker.weights.checker`: the throw-away process that opens one file of weights, within limits of memory and time.

One JSON question on standard input, one JSON answer on standard output.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

MOST_SECONDS = 120


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Read, match, write the arrays aside; the answer is a report or the reason of a refusal."""
    import numpy as np  # noqa: PLC0415 - after the limits are set

    from worker.weights.arrays import WeightsRefused, read_groups  # noqa: PLC0415
    from worker.weights.matching import match  # noqa: PLC0415

    target = Path(question["target"])
    try:
        groups = read_groups(
            Path(question["source"]), most_bytes=question["most_bytes"], aside=target.with_suffix(".h5")
        )
        found = match(groups, question["backbone"])
    except WeightsRefused as refused:
        return {"error": str(refused)}
    except MemoryError:
        return {"error": "Reading this file takes more memory than it may."}
    finally:
        target.with_suffix(".h5").unlink(missing_ok=True)
    with target.open("wb") as file:
        np.savez(file, allow_pickle=False, **{f"{found.form}:{name}": array for name, array in found.arrays.items()})
    return {
        "form": found.form,
        "way": found.way,
        "matched": len(found.arrays),
        "unexpected": found.unexpected[:200],
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
