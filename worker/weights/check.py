"""Checks uploaded weights: claims the next ones, has a throw-away process read them, keeps the arrays."""

import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.errors import DiskFull, Fenced, NotFound
from core.leases import WEIGHTS_LIFE, Claim, claim, release, renew
from core.storage import need_disk
from core.tables import Weights
from core.weights import arrays_key, finish_ready, finish_rejected, received_key
from worker.lifeline import child_environment, child_setup
from worker.weights.room import disk_told, full_disk_sentence
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[2]
_CHECKER = (sys.executable, "-m", "worker.weights.checker")
MOST_SECONDS = 150.0


class _Drained(Exception):
    """This worker was asked to stop."""


def check_next(place: Workplace, *, command: tuple[str, ...] = _CHECKER, most_seconds: float = MOST_SECONDS) -> bool:
    """Claim the next received weights and check them; returns False when none wait."""
    settings = place.settings
    with place.database.write() as session:
        held = claim(session, WEIGHTS_LIFE, place.name, settings.lease_seconds)
    if held is None:
        return False
    try:
        _check(place, held, command, most_seconds)
    except _Drained:
        with place.database.write() as session:
            release(session, WEIGHTS_LIFE, held)
        return False
    except Fenced:
        _log.info("weights %s were deleted or taken over while they were checked", held.id)
        with place.database.read() as session:
            deleted = session.get(Weights, held.id) is None
        if deleted:  # the arrays may have been stored after that
            place.storage.delete(f"weights/{held.id}")
    place.announcer.changed(held.id)
    return True


def _check(place: Workplace, held: Claim, command: tuple[str, ...], most_seconds: float) -> None:
    settings = place.settings
    with place.database.read() as session:
        row = session.get(Weights, held.id)
    if row is None:
        return
    folder = settings.weights_folder / f"{held.id}-{held.attempt}"
    try:
        with disk_told():
            need_disk(settings.weights_folder, 2 * row.size_bytes, settings.disk_reserve_bytes)
            folder.mkdir(parents=True)
            target = folder / "arrays.npz"
            question = {
                "source": str(place.storage.local(received_key(held.id))),
                "target": str(target),
                "backbone": row.backbone,
                "most_bytes": settings.max_weights_bytes,
            }
            answer = _ask(place, held, question, command, most_seconds)
            if "error" not in answer:
                place.storage.put(arrays_key(held.id), target)
    except NotFound:
        answer = {"error": "The received file is gone. Upload it again."}
    except DiskFull as full:
        answer = {"error": full_disk_sentence(full)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with place.database.write() as session:
        if "error" in answer:
            finish_rejected(session, held, answer)
        else:
            finish_ready(session, held, answer)
    place.storage.delete(received_key(held.id))


def _ask(
    place: Workplace, held: Claim, question: dict[str, Any], command: tuple[str, ...], most_seconds: float
) -> dict[str, Any]:
    """The checker's answer; a checker that dies or takes too long is an answer too."""
    process = subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env=child_environment(),
        process_group=0,
        preexec_fn=child_setup(expendable=True),  # noqa: PLW1509 - system calls and nothing else
    )
    end = time.monotonic() + most_seconds
    said: bytes | None = json.dumps(question).encode()
    try:
        while True:
            try:
                heard, _ = process.communicate(said, timeout=min(1.0, place.settings.renew_seconds))
                break
            except subprocess.TimeoutExpired:
                said = None
            if place.stopping:
                raise _Drained
            if time.monotonic() > end:
                return {"error": f"Reading this file took longer than {most_seconds:g} seconds and was stopped."}
            with place.database.write() as session:
                if renew(session, WEIGHTS_LIFE, held, place.settings.lease_seconds):
                    return {"error": "Checking was cancelled."}
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    try:
        answer: dict[str, Any] = json.loads(heard)
    except ValueError:
        return {
            "error": "The reader crashed on this file; its content is damaged or hostile, or larger than memory allows."
        }
    return answer
