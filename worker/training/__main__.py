"""`python -m worker.training RUN_FOLDER`: one run from one folder, no database, no queue."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from core.errors import (
    FULL_DISK,
    ConfigInvalid,
    DiskFull,
    InputInvalid,
    PicturesUnreadable,
    ThawError,
    WeightsUnavailable,
    is_full_disk,
)
from worker.training.data import DecodedPictures
from worker.training.events import Speaker, take_standard_output
from worker.training.orders import CANCELLED, DRAINED, Cancelled, Drained, Orders, listen
from worker.training.run_folder import read_run_folder

SUCCEEDED, FAILED = 0, 5
_TEMPORARY: list[Path] = []  # folder of this run's temporary files, once there is a run

_ADVICE = {
    "out_of_memory": "Use a smaller batch size or smaller pictures; the run is tried once more with half the batch.",
    "config": "Change the setting that the message names and start the run again.",
    "data": "Remove or replace the picture that the message names, make a new dataset version, and start the run again.",
    "weights": "Choose EfficientNet-Lite0, whose weights come with Thaw, or put the weights file where the message says.",
    "disk_full": "Free disk space (old runs, caches) and try again; finished epochs are kept for a week.",
    "export": "Nothing was given out. Start the run again; if it happens twice, please report it with the run's log.",
    "crash": "Start the run again; if it happens twice, please report it with the run's log.",
}


def failure_of(error: BaseException) -> tuple[str, str]:
    """(kind, sentence) of a `failed` event."""
    # Known by name: TensorFlow is perhaps not imported, and the export's own error lives beside it.
    name = type(error).__name__
    text = str(error)
    refused = name == "ResourceExhaustedError" and any(os.strerror(number) in text for number in FULL_DISK)
    if isinstance(error, DiskFull) or is_full_disk(error) or refused:
        return "disk_full", text if isinstance(error, DiskFull) else "The disk is full."
    if isinstance(error, MemoryError) or name == "ResourceExhaustedError":
        return "out_of_memory", "The training needed more memory than there is."
    kinds: list[tuple[type[ThawError], str]] = [
        (ConfigInvalid, "config"),
        (InputInvalid, "config"),
        (PicturesUnreadable, "data"),
        (WeightsUnavailable, "weights"),
    ]
    for kind_of_error, kind in kinds:
        if isinstance(error, kind_of_error):
            return kind, text
    if name == "ExportDisagrees":
        return "export", text
    lines = traceback.format_exception_only(error)[-1].strip().splitlines()
    return "crash", lines[-1] if lines else name


def main(arguments: list[str] | None = None) -> int:
    """Run one run folder; the exit code is that of the contract."""
    speaker = take_standard_output()
    options = _parse(arguments)
    orders = Orders()
    if options.supervised:
        listen(orders)
    signal.signal(signal.SIGTERM, lambda *_: orders.drain())
    signal.signal(signal.SIGINT, lambda *_: orders.cancel())
    try:
        if options.spare:
            _import_train()
            _make_ready(options.like, options.threads)
            folder = orders.wait_for_folder()
        else:
            folder = options.folder
        _run(folder, speaker, orders, label_errors=options.label_errors)
    except Cancelled:
        return CANCELLED
    except Drained:
        return DRAINED
    except BaseException as error:  # noqa: BLE001 - the process boundary: every end becomes an event
        traceback.print_exc()
        kind, message = failure_of(error)
        speaker.say("failed", kind=kind, message=message, advice=_ADVICE[kind])
        return FAILED
    return SUCCEEDED


def _run(path: Path, speaker: Speaker, orders: Orders, *, label_errors: bool) -> None:
    folder = read_run_folder(path)
    _own_temporary_files(folder.path)
    pictures = DecodedPictures(folder, orders)
    # Short turns while TensorFlow is imported: each decoding thread asks for the interpreter many times a picture.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    pictures.start()
    story = _import_label_errors().find_label_errors if label_errors else _import_train().train
    sys.setswitchinterval(interval)
    story(folder, pictures, speaker, orders)


def _own_temporary_files(run_folder: Path) -> None:
    """TensorFlow writes the code it generates into files which it removes at a normal end only: here they go with the run."""
    _TEMPORARY.append(run_folder / "tmp")
    _TEMPORARY[-1].mkdir(exist_ok=True)
    tempfile.tempdir = str(_TEMPORARY[-1])


def _import_train() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from worker.training import train  # noqa: PLC0415 - TensorFlow takes seconds; pictures are decoded meanwhile

    return train


def _make_ready(like: Path | None, threads: int) -> None:
    from worker.training.spare import READY  # noqa: PLC0415 - see above

    READY.make(like, threads)


def _import_label_errors() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from worker.training import label_errors  # noqa: PLC0415 - as above

    return label_errors


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.training", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="run folder (docs/decisions/0002-run-folder.md)")
    parser.add_argument("--supervised", action="store_true", help="words come on standard input; no ticks, no run")
    parser.add_argument("--spare", action="store_true", help='import TensorFlow, then wait for "run PATH"')
    parser.add_argument("--like", type=Path, help="of a spare: run folder whose network is made ready meanwhile")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of a spare: processor threads to use")
    parser.add_argument("--label-errors", action="store_true", help="train nothing: say which labels are doubtful")
    options = parser.parse_args(arguments)
    if options.spare == (options.folder is not None):
        parser.error("Give a run folder, or --spare.")
    if options.spare and not options.supervised:
        parser.error("--spare reads its folder from standard input: it needs --supervised.")
    return options


def _leave(work: Callable[[], int]) -> None:
    """End the process without waiting for TensorFlow to take itself down."""
    code = work()
    for one in _TEMPORARY:
        shutil.rmtree(one, ignore_errors=True)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main)
