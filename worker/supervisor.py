"""Holds a run from claim to end: prepares its folder, starts the trainer, relays what it says, fences, cancels, drains."""

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from core.checkpoints import goes_on_from, keeps_checkpoints
from core.errors import DiskFull, Fenced, PicturesUnreadable, WeightsUnavailable, is_full_disk
from core.leases import RUN_LIFE, Claim, claim
from core.logs import about
from core.runs import (
    Report,
    finish_cancelled,
    finish_failed,
    give_back,
    record,
    record_crash,
    record_out_of_memory,
)
from core.tables import Run, RunStatus, utc_now
from worker.harvest import CancelledLate, harvest
from worker.hold import Hold
from worker.memory_kills import memory_kills, memory_sentence
from worker.relay import Relay, known_epochs
from worker.run_preparation import clear_up, prepare_folder
from worker.trainer_process import Event, Spare, TrainerProcess, wait_for_end
from worker.workplace import Workplace

_log = logging.getLogger(__name__)
DRAIN_SECONDS = 7.0  # `thaw serve` stops everything in under 15 s
CANCEL_SECONDS = (
    2.5  # a person sees the end within 5 s of asking, polls included; a trainer ends itself after 2 of them
)
LISTEN_SECONDS = 0.2
FOR_GOOD = frozenset({"config", "data", "weights", "disk_full", "export"})  # trying again at once would change nothing
EPOCHS_KEPT = "Finished epochs are kept for a week."


class Stopped(Exception):
    """This worker was asked to stop, or the run was cancelled, before the trainer had begun."""


class Supervisor:
    """The `train` task of one worker process, one run at a time."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._spare = Spare(place.settings)
        self._spare.prepare()  # the first run does not wait for TensorFlow either

    def task(self) -> None:
        """Train queued runs until none waits or the worker is asked to stop."""
        while not self._place.stopping:
            with self._place.database.write() as session:
                held = claim(session, RUN_LIFE, self._place.name, self._place.settings.lease_seconds)
            if held is None:
                return
            with self._place.at_work(), about(run_id=held.id):
                Attempt(self._place, self._spare, held).run()
            if not self._place.stopping:
                self._spare.prepare()  # where the run ended before its first epoch

    def close(self) -> None:
        """Kill the spare."""
        self._spare.close()


class Attempt:
    """One attempt at one run."""

    def __init__(self, place: Workplace, spare: Spare, held: Claim) -> None:
        self._place = place
        self._spare = spare
        self._hold = Hold(place, held)
        self._trainer: TrainerProcess | None = None
        self._kills_before: int | None = None
        self._told = time.monotonic()

    def run(self) -> None:
        """Train, and write down how it ended. Only what nobody foresaw is raised, after it was recorded as a crash."""
        held = self._hold.claim
        _log.info("run %s: attempt %s begins", held.id, held.attempt)
        try:
            self._train()
        except Fenced as fenced:
            _log.warning("%s It is left alone.", fenced)
        except OSError as error:
            if not is_full_disk(error):
                self._fault(error)
                raise
            self._fail("disk_full", "The disk became full. Free some space and try again.", EPOCHS_KEPT)
        except Exception as error:
            self._fault(error)
            raise
        finally:
            if self._trainer is not None:
                self._trainer.kill()

    def _fault(self, error: Exception) -> None:
        """A fault of ours counts as a crash, so that it cannot go on for ever."""
        held = self._hold.claim
        _log.exception("run %s: attempt %s failed by a fault of ours", held.id, held.attempt)
        sentence = f"The supervisor of this training failed: {error}"
        self._finish(lambda session: record_crash(session, held, sentence))

    def _train(self) -> None:
        held = self._hold.claim
        try:
            folder = self._prepare()
        except PicturesUnreadable as error:
            return self._fail("data", error.message)
        except WeightsUnavailable as error:
            return self._fail("weights", error.message)
        except DiskFull as error:
            return self._fail("disk_full", error.message, EPOCHS_KEPT)
        except Stopped:
            if self._hold.cancelled:
                return self._finish(lambda session: finish_cancelled(session, held))
            return self._finish(lambda session: give_back(session, held, "Queued again: the worker was stopped"))
        known = self._hold.write(lambda session: known_epochs(session, held.id), announce=False)
        relay = Relay(self._hold, folder, known)
        self._kills_before = memory_kills()
        self._trainer = self._spare.start(folder)
        code = self._follow(self._trainer, relay, folder)
        relay.flush(everything=True)
        return self._conclude(code, relay, folder)

    def _prepare(self) -> Path:
        values = {"started_at": func.coalesce(Run.started_at, utc_now())}
        report = Report(progress={"phase": "prepare", "message": "Preparing"}, columns=values)
        self._hold.write(lambda session: record(session, self._hold.claim, report))
        return prepare_folder(self._place, self._hold.claim, self._keep_or_stop, self._tell_of_pictures)

    def _keep_or_stop(self) -> None:
        self._hold.keep()
        if self._place.stopping or self._hold.cancelled:
            raise Stopped

    def _tell_of_pictures(self, done: int, count: int) -> None:
        """Progress while pictures come from the storage, at most once a second."""
        if time.monotonic() - self._told < 1.0:
            return
        self._told = time.monotonic()
        progress = {"phase": "prepare", "message": "Fetching pictures", "step": done, "steps_total": count}
        self._hold.write(lambda session: record(session, self._hold.claim, Report(progress=progress)))

    def _follow(self, trainer: TrainerProcess, relay: Relay, folder: Path) -> int:
        """Relay until the trainer has ended; its exit code."""
        orders = Orders(self._hold, trainer)
        ticked = 0.0
        ended = False
        while not ended:
            event, ended = trainer.next_event(LISTEN_SECONDS)
            for _ in range(500):
                if event is None:
                    break
                relay.hear(event)
                event, ended = trainer.next_event(0)
            self._hold.keep()
            relay.flush()
            if relay.learning:  # not before: its loading would slow the way to the first metric
                self._spare.prepare(like=folder)
            if time.monotonic() - ticked >= self._place.settings.renew_seconds:
                trainer.say("tick")
                ticked = time.monotonic()
            if orders.carry_out() or (not ended and not trainer.running and event is None):
                break
        code = wait_for_end(trainer, 5.0)
        while not ended:  # what it said with its last breath
            event, ended = trainer.next_event(1.0)
            if event is None:
                break
            relay.hear(event)
        return code

    def _conclude(self, code: int, relay: Relay, folder: Path) -> None:
        held, failure = self._hold.claim, relay.failure
        if self._hold.cancelled:
            self._finish(lambda session: finish_cancelled(session, held))
        elif code == 0 and relay.result is not None:
            self._succeed(folder, relay.result)
        elif failure is not None:
            self._conclude_failure(failure, relay)
        elif self._place.stopping:
            self._finish(lambda session: give_back(session, held, "Queued again: the worker was stopped"))
        else:
            self._conclude_death(code, relay)

    def _succeed(self, folder: Path, result: str) -> None:
        try:
            harvest(self._place, self._hold, folder, result)
        except DiskFull as error:
            return self._fail("disk_full", error.message, EPOCHS_KEPT)
        except CancelledLate:
            return self._finish(lambda session: finish_cancelled(session, self._hold.claim))
        _log.info("run %s succeeded", self._hold.claim.id)
        return self._clear_up_succeeded()

    def _clear_up_succeeded(self) -> None:
        """What is too big to keep goes, and so do the checkpoints of the runs that this one was a retry of."""
        clear_up(self._place.settings, self._hold.claim.id)
        with self._place.database.read() as session:
            run = session.get(Run, self._hold.claim.id)
            repeated = [] if run is None else goes_on_from(session, run)  # None: it was deleted at once
        for run_id in repeated:
            clear_up(self._place.settings, run_id)

    def _conclude_failure(self, failure: Event, relay: Relay) -> None:
        message = str(failure.get("message"))
        if failure.get("kind") == "out_of_memory":
            self._out_of_memory(message, relay)
        elif failure.get("kind") in FOR_GOOD:
            self._fail(str(failure["kind"]), message, str(failure.get("advice", "")))
        else:
            self._crash(message, relay)

    def _conclude_death(self, code: int, relay: Relay) -> None:
        """Nobody told it to end and it said nothing: most often memory, which Linux takes back without a word."""
        ours = self._trainer is not None and self._trainer.was_killed
        sentence = None if ours else memory_sentence(code, self._kills_before, self._last_words())
        if sentence is None:
            return self._crash(crash_sentence(code), relay)
        return self._out_of_memory(sentence, relay)

    def _out_of_memory(self, sentence: str, relay: Relay) -> None:
        self._note(sentence, relay)
        self._finish(lambda session: record_out_of_memory(session, self._hold.claim, sentence))

    def _last_words(self) -> list[str]:
        return self._trainer.last_words() if self._trainer is not None else []

    def _note(self, sentence: str, relay: Relay) -> None:
        """Into the run's log, with the trainer's last words."""
        relay.note(sentence, *self._last_words()[-15:])
        relay.flush(everything=True)

    def _crash(self, sentence: str, relay: Relay) -> None:
        self._note(sentence, relay)
        self._finish(lambda session: record_crash(session, self._hold.claim, sentence))

    def _fail(self, kind: str, message: str, advice: str = "") -> None:
        self._finish(lambda session: finish_failed(session, self._hold.claim, kind, message, advice))

    def _finish(self, verb: Callable[[Session], Any]) -> None:
        """End this attempt by a verb of `core.runs`; what is too big to keep goes once the run has ended."""
        try:
            self._hold.write(verb)
        except Fenced as fenced:
            _log.warning("%s Its end is not ours to write.", fenced)
            return
        with self._place.database.read() as session:
            run = session.get_one(Run, self._hold.claim.id)
            status, keep = run.status, keeps_checkpoints(session, run)
        _log.info("run %s: attempt %s ended, the run is %s", self._hold.claim.id, self._hold.claim.attempt, status)
        if status in {RunStatus.FAILED, RunStatus.CANCELLED}:
            if self._trainer is not None:
                self._trainer.kill()
            clear_up(self._place.settings, self._hold.claim.id, keep_checkpoints=keep)


class Orders:
    """Tells the trainer once to cancel or to drain, and kills it when it does not obey in time."""

    def __init__(self, hold: Hold, trainer: TrainerProcess) -> None:
        self._hold = hold
        self._trainer = trainer
        self._deadline: float | None = None
        self._said: str | None = None

    def carry_out(self) -> bool:
        """Say what has to be said; True when the trainer was killed."""
        wanted = "cancel" if self._hold.cancelled else "drain" if self._hold.stopping else None
        if wanted is not None and wanted != self._said:
            self._trainer.say(wanted)
            patience = time.monotonic() + (CANCEL_SECONDS if wanted == "cancel" else DRAIN_SECONDS)
            self._deadline = patience if self._deadline is None else min(self._deadline, patience)
            self._said = wanted
        if self._hold.stopping and self._deadline is not None:  # a cancel under way must not hold up a stop
            self._deadline = min(self._deadline, time.monotonic() + DRAIN_SECONDS)
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._trainer.kill()
            return True
        return False


def crash_sentence(code: int) -> str:
    """Why a trainer that nobody told to end is not there any more."""
    if code == -signal.SIGKILL:
        return "The training process was killed by the system (signal 9), most often because memory ran out."
    if code == -signal.SIGABRT:
        return "The training process was ended by SIGABRT: it gave up by itself, perhaps because memory ran out."
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"The training process was ended by {name}."
    if code == 6:
        return "The training process lost its supervisor: this machine was paused or very busy."
    return f"The training process ended unexpectedly with exit code {code}."
