"""`python -m worker.prediction.timing_process`: a question a line on standard input, an answer a line on standard output.

Question: `{config, classes, max_bytes, max_pixels, threads, pictures: [base64]}`; answer: `{"speeds": ...}` or `{"error": sentence}`.
It ends with its input.
"""

import base64
import json
import os
import sys
import traceback
from typing import Any

from core.training_config import TrainingConfig
from worker.prediction.quiet import quiet
from worker.training.pictures import PictureLimits


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Measure one."""
    with quiet():
        from worker.training.machine import prepare_tensorflow  # noqa: PLC0415 - TensorFlow is loaded here
        from worker.training.timing import measure  # noqa: PLC0415

        prepare_tensorflow(int(question["threads"]))  # as in a trainer
    config = TrainingConfig.model_validate(question["config"])
    pictures = [base64.b64decode(one) for one in question["pictures"]]
    limits = PictureLimits(question["max_bytes"], question["max_pixels"])
    return {"speeds": measure(config, int(question["classes"]), pictures, limits)}


def main() -> int:
    """Answer until the input ends; whatever libraries print goes to standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # ours are whole lines on the real standard output, which C++ libraries then cannot reach
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            try:
                found = answer(json.loads(line))
            except Exception as error:  # noqa: BLE001 - the process boundary: every end is an answer
                traceback.print_exc()
                found = {"error": f"The time could not be measured: {error}"}
            out.write(json.dumps(found) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
