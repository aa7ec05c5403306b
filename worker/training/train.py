"""The story of one run, top to bottom: pictures, network, phases, export, judgement, result."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from core.training_config import FrozenPhase, TrainingConfig
from worker.training import statistics
from worker.training.card import card_lines
from worker.training.data import DecodedPictures
from worker.training.doubt import Doubt, make_doubt
from worker.training.evaluate import (
    BATCH,
    Answer,
    ask,
    choose,
    exported_graph,
    last_of_each_kind,
    trained_graph,
    write_predictions,
)
from worker.training.events import Place, Progress, Speaker
from worker.training.export import ExportResult, exporting
from worker.training.features import FeatureStore
from worker.training.judgement import Judged, evaluation
from worker.training.layers import PictureResizer
from worker.training.ledger import Ledger, check_reserve, every_variable
from worker.training.logistic_phase import run_logistic
from worker.training.machine import device, machine, prepare_tensorflow, versions
from worker.training.materials import Workplace, make_setup
from worker.training.neighbours import neighbours, store_test
from worker.training.network import Start, layer_summary, set_trainable
from worker.training.orders import Orders
from worker.training.phases import PhaseRun
from worker.training.pictures import decode
from worker.training.precision import may_use_bfloat16
from worker.training.robustness import CHANGES, robustness, sample
from worker.training.run_folder import SPLITS, RunFolder
from worker.training.spare import READY
from worker.training.telling import (
    checkpoint_damaged,
    export_checked,
    features_ready,
    judged,
    model_chosen,
    network_built,
    phase_begins,
    phase_ended,
    pictures_ready,
    quick_steps,
)

RESULT = "result.json"


def train(folder: RunFolder, pictures: DecodedPictures, speaker: Speaker, orders: Orders) -> None:
    """Run everything that is left of a run; `result.json` is written last.

    Raises:
        Cancelled, Drained: that was said.
        ThawError: what a person can mend, see `worker.training.__main__`.
    """
    seconds: dict[str, float] = {}
    started = time.monotonic()
    prepare_tensorflow(folder.threads)
    keras.utils.set_random_seed(folder.config.seed)
    ledger = Ledger(folder)
    wants_bfloat16 = may_use_bfloat16(folder.config.precision)
    speaker.say(
        "started",
        versions=versions(),
        device=device(),
        precision=_hoped_for(folder.config, wants_bfloat16=wants_bfloat16),
        resumed_from=ledger.resumed_from,
    )
    for name in ledger.damaged:
        speaker.log(checkpoint_damaged(name, ledger.resumed_from))
    pictures.set_resize(PictureResizer(folder.config.image_size, folder.config.resize))
    _say_step(speaker, folder, "prepare", "Building the network")
    start = None if folder.start_file is None else Start(folder.start_file, folder.start_cut_layer)
    network = READY.take(folder.config, len(folder.class_names), start)
    size = network.backbone.count_params() + network.head.count_params()
    speaker.log(network_built(folder.config, network.form, size))
    ledger.meet(network)
    work = Workplace(folder, network, pictures, FeatureStore(folder, pictures), speaker, orders, wants_bfloat16)
    _wait_for_pictures(work)
    seconds["prepare"] = time.monotonic() - started
    _run_phases(work, ledger)
    seconds.update({f"phase_{result['phase_index']}": result["seconds"] for result in ledger.state.results})
    _finish(work, ledger, seconds)


def _hoped_for(config: TrainingConfig, *, wants_bfloat16: bool) -> str:
    """What the run computes in if every check passes; what it was in the end stands in the log and in the result."""
    possible = wants_bfloat16 and any(phase.features == "cached" for phase in config.phases)
    return "bfloat16" if possible else "float32"


def _wait_for_pictures(work: Workplace) -> None:
    count, started = work.pictures.to_decode, time.monotonic()
    if count:
        place = Place("prepare", epochs_total=work.config.epochs_total, message="Decoding pictures")
        progress = Progress(work.speaker, place, count, count)
        work.pictures.wait_all(lambda done: progress.at(done, done))
    everything = len(work.folder.pictures.paths)
    work.speaker.log(pictures_ready(everything, count, time.monotonic() - started))


def _say_step(speaker: Speaker, folder: RunFolder, phase: str, message: str) -> None:
    """One progress event for work that cannot say how far it is."""
    speaker.say(
        "progress",
        phase=phase,
        phase_index=None,
        epoch=None,
        epochs_total=folder.config.epochs_total,
        step=0,
        steps_total=1,
        images_per_second=None,
        eta_seconds=None,
        message=message,
    )


def _run_phases(work: Workplace, ledger: Ledger) -> None:
    state = ledger.state
    if any(result.get("precision") == "bfloat16" for result in state.results):  # of the attempt that is gone on from
        work.precision = "bfloat16"
    layers: list[dict[str, Any]] = []
    for index, phase in enumerate(work.config.phases):
        set_trainable(work.network, phase)
        layers.append(layer_summary(work.network, phase, index))
        _write_json(work.folder.path / "layers.json", layers)
        work.speaker.say("layers", phase=phase.kind, phase_index=index)
        for event in state.history:
            if event["phase_index"] == index:
                work.speaker.say("epoch", **event)
        if index >= state.phase_index:
            work.speaker.log(phase_begins(phase, layers[-1]))
            _run_phase(work, ledger, index)
            work.speaker.log(phase_ended(state.results[-1]))


def _run_phase(work: Workplace, ledger: Ledger, index: int) -> None:
    phase, state = work.config.phases[index], ledger.state
    started = time.monotonic()
    before = work.store.computed
    setup = make_setup(work, phase, index)
    spent = time.monotonic() - started
    state.seconds += spent
    if setup.train_features is not None:
        work.speaker.log(features_ready(work.store.computed - before, spent, setup.precision))
    elif setup.precision == "bfloat16":
        work.speaker.log(quick_steps())
    if isinstance(phase, FrozenPhase) and phase.optimizer.name == "lbfgs":
        run_logistic(work, phase, index, setup, state)
    else:
        PhaseRun(work, index, setup, state, ledger.save).run(ledger.groups)
    ledger.close_phase(work.network, setup.variables, setup.precision)


def _finish(work: Workplace, ledger: Ledger, seconds: dict[str, float]) -> None:
    chosen = choose(ledger.state.results, work.config.select)
    kinds = last_of_each_kind(ledger.state.results)
    model = work.folder.path / "model"
    check_reserve(work.folder.path, 8 * _network_bytes(work), work.folder.disk_reserve_bytes)
    started = time.monotonic()
    ledger.put_back(work.network, chosen["phase_index"])
    if len(kinds) > 1:
        work.speaker.log(model_chosen(chosen["phase"], work.config.select))
    frozen = kinds["frozen"]["phase_index"] if "frozen" in kinds else None
    doubt = make_doubt(work, ledger, chosen["phase_index"], frozen)
    _say_step(work.speaker, work.folder, "export", "Writing the SavedModel, to be checked in a clean process")
    with _exporting(work, model, doubt) as complete:  # the check goes on beside the judgement
        seconds["export"] = time.monotonic() - started
        started = time.monotonic()
        found, lines = _judge(work, ledger, chosen, doubt)
        _say_step(work.speaker, work.folder, "evaluate", "Waiting for the check of the SavedModel")
        exported = complete(lines, work.orders.check)
    work.speaker.log(export_checked(exported.as_json()))
    work.speaker.log(judged(found, chosen["phase"]))
    for unkept in (*work.store.finish(), *work.pictures.finish()):
        work.speaker.log(unkept)
    seconds["evaluate"] = time.monotonic() - started
    _write_result(work, ledger, chosen, found, exported, doubt, seconds)


def _network_bytes(work: Workplace) -> int:
    return sum(4 * int(np.prod(variable.shape)) for variable in every_variable(work.network))


def _exporting(
    work: Workplace, model: Path, doubt: Doubt
) -> AbstractContextManager[Callable[[Sequence[str], Callable[[], None]], ExportResult]]:
    work.orders.check()
    return exporting(
        work.network,
        config=work.config,
        doubt=doubt,
        class_names=work.folder.class_names,
        folder=model,
        test_pictures=[Path(work.folder.pictures.paths[position]) for position in work.positions("test")],
        decode=decode,
    )


def _judge(
    work: Workplace, ledger: Ledger, chosen: Mapping[str, Any], doubt: Doubt
) -> tuple[dict[str, Any], Sequence[str]]:
    """Ask the exported graph and the other phase's network, and write what comes of it: (evaluation, the model card's paragraphs)."""
    model, kinds = work.folder.path / "model", last_of_each_kind(ledger.state.results)
    exported_answer = exported_graph(model / "saved_model")
    said = ask(work, exported_answer, "Asking the exported model")
    answers = {chosen["phase"]: replace(said, temperature=doubt.temperature)}
    _write_weights(work, model, chosen["phase"])
    for kind, result in kinds.items():
        if kind != chosen["phase"]:
            ledger.put_back(work.network, result["phase_index"])
            answers[kind] = ask(work, trained_graph(work.network), "Asking the other phase's network")
            _write_weights(work, model, kind)
    card = _robustness(work, exported_answer)
    _write_json(work.folder.path / "neighbours.json", _neighbours(work, ledger, answers[chosen["phase"]]))
    found = _write_judgement(work, answers, chosen["phase"], card)
    lines = card_lines(found, _counts(work), _lineage(work))
    _write_json(work.folder.path / "card.json", {"lines": lines})
    return found, lines


def _write_weights(work: Workplace, model: Path, kind: str) -> None:
    """`model/backbone_and_head/<kind>.npz`: every weight of backbone and head, numbered as `every_variable` lists them."""
    folder = model / "backbone_and_head"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{number:05d}": variable.numpy() for number, variable in enumerate(every_variable(work.network))}
    with (folder / f"{kind}.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _robustness(work: Workplace, answer: Answer) -> dict[str, Any]:
    """The robustness card of the exported graph."""
    test = work.positions("test")
    places = sample(work.labels("test"))
    total = len(places) * (len(CHANGES) + 1)
    progress = Progress(work.speaker, Place("evaluate", message="Trying the test pictures made worse"), total, total)
    done, size = 0, work.folder.at_once(BATCH)

    def ask_all(pixels: np.ndarray) -> np.ndarray:
        nonlocal done
        parts = []
        for first in range(0, len(pixels), size):
            work.orders.check()
            parts.append(answer(pixels[first : first + size]))
            done += len(parts[-1])
            progress.at(done, done)
        return np.concatenate(parts)

    groups = _test_groups(work)[places]
    names = work.folder.class_names
    return robustness(work.pictures.batch(test[places]), work.labels("test")[places], groups, names, ask_all)


def _test_groups(work: Workplace) -> np.ndarray:
    pictures = work.folder.pictures
    return statistics.group_numbers([pictures.groups[position] for position in work.positions("test")])


def _neighbours(work: Workplace, ledger: Ledger, judged: Judged) -> dict[str, Any]:
    """The nearest training pictures of the model's mistakes, by the frozen backbone where there was one: its features are stored."""
    frozen = last_of_each_kind(ledger.state.results).get("frozen")
    stored = False
    if frozen is not None:
        phase = work.config.phases[frozen["phase_index"]]
        stored = phase.features == "cached" and phase.views == 1
        ledger.put_back(work.network, frozen["phase_index"])
    if stored:
        store_test(work)
    labels = work.labels("test")
    sure = judged.test[np.arange(len(labels)), labels]
    order = np.argsort(sure, kind="stable")
    wrong = work.positions("test")[order[judged.test.argmax(axis=1)[order] != labels[order]]]
    return {"class_names": list(work.folder.class_names), **neighbours(work, wrong.tolist(), stored=stored)}


def _write_judgement(
    work: Workplace, answers: Mapping[str, Judged], chosen: str, card: Mapping[str, Any]
) -> dict[str, Any]:
    labels = {split: work.labels(split) for split in ("test", "validation")}
    ordered = {kind: answers[kind] for kind in ("frozen", "fine_tune") if kind in answers}
    found = evaluation(ordered, labels, work.folder.class_names, chosen, _test_groups(work))
    found["robustness"] = dict(card)
    _write_json(work.folder.path / "evaluation.json", found)
    with (work.folder.path / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for kind, one in ordered.items():
            write_predictions(file, work, kind, one)
    return found


def _counts(work: Workplace) -> dict[str, dict[str, int]]:
    """Class name -> pictures by split."""
    labels = {split: work.labels(split).tolist() for split in SPLITS}
    return {
        name: {split: found.count(label) for split, found in labels.items()}
        for label, name in enumerate(work.folder.class_names)
    }


def _lineage(work: Workplace) -> dict[str, str]:
    config, folder = work.config, work.folder
    phases = ", then ".join(f"{phase.kind} {phase.epochs} epochs at most" for phase in config.phases)
    return {
        "run": folder.run_id,
        "Thaw": folder.code_version,
        "backbone": f"{config.backbone}, weights {config.weights}",
        "phases": phases,
        "seed": str(config.seed),
        "pictures (fingerprint)": folder.pictures.fingerprint,
    }


def _write_result(
    work: Workplace,
    ledger: Ledger,
    chosen: Mapping[str, Any],
    found: Mapping[str, Any],
    exported: ExportResult,
    doubt: Doubt,
    seconds: Mapping[str, float],
) -> None:
    path = work.folder.path
    best = found["phases"][chosen["phase"]]
    accuracies = {
        f"{kind}_test_accuracy": found["phases"].get(kind, {}).get("accuracy") for kind in ("frozen", "fine_tune")
    }
    summary = {
        "test_accuracy": best["accuracy"],
        "test_accuracy_interval": best["accuracy_interval"],
        "test_pictures": best["pictures"],
        "test_interval_method": best["interval_method"],
        "test_macro_f1": best["macro_f1"],
        "test_weighted_f1": best["weighted_f1"],
        "test_ece": best["calibration"]["ece"],
        "test_loss": best["loss"],
        **accuracies,
        "chosen_phase": chosen["phase"],
        "chosen_phase_index": chosen["phase_index"],
        "validation_accuracy": chosen["validation"]["accuracy"],
        "validation_loss": chosen["validation"]["loss"],
        "comparison": found["comparison"],
        "epochs": ledger.state.epoch,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    result = {
        "format": 1,
        "run_id": work.folder.run_id,
        "attempt": work.folder.attempt,
        "code_version": work.folder.code_version,
        "chosen_phase": chosen["phase"],
        "summary": summary,
        "phases": ledger.state.results,
        "temperature": doubt.temperature,
        "doubt": doubt.as_json(work.folder.class_names),
        "agreement": exported.as_json()["agreement"],
        "exports": [exported.as_json()],
        "files": _files(path),
        "machine": machine(work.folder.threads, work.precision),
    }
    work.orders.check()
    _write_json(path / RESULT, result)
    work.speaker.say("succeeded", result=RESULT)


def _files(path: Path) -> list[dict[str, Any]]:
    """Every file of the result: path relative to the run folder, size in bytes, SHA-256."""
    wanted = [
        path / name for name in ("layers.json", "evaluation.json", "neighbours.json", "card.json", "predictions.jsonl")
    ]
    wanted += sorted(file for file in (path / "model").rglob("*") if file.is_file())
    found = []
    for file in wanted:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        found.append({"path": file.relative_to(path).as_posix(), "size_bytes": file.stat().st_size, "sha256": digest})
    return found


def _write_json(path: Path, data: object) -> None:
    """Write aside, flush, rename: a reader sees the old file or the whole new one."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, allow_nan=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
