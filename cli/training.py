"""`thaw train` and `thaw watch`: queue runs, and follow their events to the end."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli.exits import EndedBadly, ServerAway
from cli.remote import Remote
from cli.screen import Screen
from core.errors import ThawError
from core.training_config import merged

ENDED = frozenset({"succeeded", "failed", "cancelled"})
QUIET_SECONDS = 60.0  # the server says something every 15 s
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Wish:
    """What a run should be.

    Attributes:
        preset: id of a preset.
        changes: `path=value` each, e.g. `head.dropout=0.3` or `phases.1.epochs=4`.
        config: fields of a TrainingConfig, merged over the preset before the changes.
        name: of the run.
        repeats: runs of one group, with rising seeds.
    """

    preset: str | None
    changes: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    repeats: int = 1


def read_config(path: Path | None) -> dict[str, Any]:
    """Fields of a TrainingConfig from a JSON file.

    Raises:
        ThawError: it cannot be read.
    """
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ThawError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ThawError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ThawError(f"{path} holds no JSON object. Received: {type(found).__name__}.")
    return found


def train(remote: Remote, dataset: str, wish: Wish) -> list[dict[str, Any]]:
    """Queue one run or more on the newest version of a dataset; returns them.

    Raises:
        ThawError: no such dataset, or settings that cannot be trained.
    """
    found = remote.find("datasets", dataset)
    config = changed(remote, wish)
    asked = {"dataset_id": found["id"], "repeats": wish.repeats, "config": config or None}
    asked |= {name: value for name, value in (("preset", wish.preset), ("name", wish.name)) if value is not None}
    first = remote.post("/runs", json=asked)
    if first["group_id"] is None or wish.repeats == 1:
        return [first]
    return sorted(remote.items("/runs", group_id=first["group_id"]), key=lambda run: str(run["id"]))


def changed(remote: Remote, wish: Wish) -> dict[str, Any]:
    """The fields of a config that differ from the preset: lists are sent whole, as the API wants them."""
    if not wish.changes:
        return dict(wish.config)
    base = _preset(remote, wish.preset) if wish.preset is not None else {}
    whole = merged(base, wish.config)
    touched = set(wish.config)
    for change in wish.changes:
        path, equals, text = change.partition("=")
        if not equals or not path.strip():
            raise ThawError(f"--set wants PATH=VALUE, e.g. head.dropout=0.3. Received: {change!r}.")
        parts = path.strip().split(".")
        whole[parts[0]] = placed(whole.get(parts[0]), parts[1:], _value(text), path.strip())
        touched.add(parts[0])
    return {name: whole[name] for name in whole if name in touched}


def _preset(remote: Remote, wanted: str) -> dict[str, Any]:
    presets = {one["id"]: one["config"] for one in remote.get("/presets")["items"]}
    if wanted not in presets:
        raise ThawError(f'There is no preset "{wanted}". Allowed: {", ".join(presets)}.')
    found: dict[str, Any] = presets[wanted]
    return found


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text: `0.3`, `true`, `null`, `[224, 224]`, `adamw`."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def placed(old: Any, parts: Sequence[str], value: Any, path: str) -> Any:
    """`old` with `value` at the place that `parts` name; nothing of `old` is changed.

    Raises:
        ThawError: a number that is no place of a list.
    """
    if not parts:
        return value
    if isinstance(old, list):
        if not parts[0].isdigit() or int(parts[0]) >= len(old):
            raise ThawError(f'--set {path}: "{parts[0]}" is no place in a list of {len(old)}; the first is 0.')
        place = int(parts[0])
        return [*old[:place], placed(old[place], parts[1:], value, path), *old[place + 1 :]]
    below = dict(old) if isinstance(old, Mapping) else {}
    below[parts[0]] = placed(below.get(parts[0]), parts[1:], value, path)
    return below


@dataclass(frozen=True)
class Event:
    """One event of a run's stream."""

    name: str
    number: str
    data: dict[str, Any]


def events(remote: Remote, run_id: str) -> Iterator[Event]:
    """The events of a run until it has ended, whatever happens to the connection; each metric and log line once.

    Raises:
        ServerAway: the server stays away.
    """
    seen: set[tuple[Any, ...]] = set()
    last, lost = None, 0
    while True:
        try:
            for event in _stream(remote, run_id, last):
                lost = 0
                last = event.number or last
                if _is_new(event, seen):
                    yield event
                if event.name == "status" and event.data["status"] in ENDED and event.number:
                    return
            time.sleep(PAUSES[0])  # the server ends a stream after a while, or because it is restarted
        except ServerAway:
            lost += 1
            if lost > len(PAUSES):
                raise
            time.sleep(PAUSES[lost - 1])


def _is_new(event: Event, seen: set[tuple[Any, ...]]) -> bool:
    """A batch that broke off is sent again whole."""
    kinds = {"metric": ("phase_index", "epoch", "split", "name"), "log": ("number",)}
    if event.name not in kinds:
        return True
    key = (event.name, *(event.data[name] for name in kinds[event.name]))
    new = key not in seen
    seen.add(key)
    return new


def _stream(remote: Remote, run_id: str, last: str | None) -> Iterator[Event]:
    headers = {} if last is None else {"Last-Event-ID": last}
    timeout = httpx.Timeout(30.0, read=QUIET_SECONDS)
    with (
        remote.reaching(),
        remote.client.stream("GET", f"/runs/{run_id}/events", headers=headers, timeout=timeout) as answer,
    ):
        if answer.status_code == httpx.codes.NO_CONTENT:
            run = remote.get(f"/runs/{run_id}")
            yield Event("status", str(run["revision"]), run)
            return
        if not answer.is_success:
            answer.read()
            remote.checked(answer)
        yield from parsed(answer.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Events of a `text/event-stream`."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not line and "data" in fields:
            yield Event(fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"]))
        if not line:
            fields = {}
        elif name and colon:
            fields[name] = fields[name] + "\n" + value[1:] if name in fields else value.removeprefix(" ")


def watch(remote: Remote, screen: Screen, run: Mapping[str, Any]) -> None:
    """Show a run until it has ended: every event as a JSON line, or a bar and a line per epoch.

    Raises:
        EndedBadly: it failed or was cancelled.
    """
    epochs: dict[int, dict[str, float]] = {}
    phases: dict[int, str] = {}
    shown = 0
    state = dict(run)
    with screen.count_bar() as bar:
        task = bar.add_task(_title(run), total=None, more="")
        for event in _until_interrupted(screen, events(remote, str(run["id"])), run):
            if screen.as_json:
                screen.result({"event": event.name, **event.data}, "")
            if event.name == "status":
                state = event.data
            elif event.name == "metric":
                one = event.data
                epochs.setdefault(one["epoch"], {})[f"{one['split']} {one['name']}"] = one["value"]
                phases[one["epoch"]] = one["phase"]
            elif event.name == "progress":
                # progress follows the metrics of its batch: they are all there
                shown = _show_epochs(screen, epochs, phases, shown)
                bar.update(task, **_bar(event.data))
        _show_epochs(screen, epochs, phases, shown)
    _show_end(screen, state)


def _until_interrupted(screen: Screen, coming: Iterator[Event], run: Mapping[str, Any]) -> Iterator[Event]:
    try:
        yield from coming
    except KeyboardInterrupt:
        screen.note(f"The run goes on. Watch it again with `thaw watch {run['id']}`.")
        raise


def _title(run: Mapping[str, Any]) -> str:
    return str(run["name"])[:40]


def _bar(progress: Mapping[str, Any]) -> dict[str, Any]:
    words = [str(progress["phase"] or "waiting").replace("_", "-")]
    if progress["images_per_second"]:
        words.append(f"{progress['images_per_second']:,.0f} images/s")
    if progress["eta_seconds"]:
        words.append(f"{progress['eta_seconds']:,.0f} s left")
    done = (progress["epoch"] or 1) - 1
    if progress["step"] and progress["steps_total"]:
        done += progress["step"] / progress["steps_total"]
    return {"completed": round(done, 1), "total": progress["epochs_total"], "more": ", ".join(words)}


def _show_epochs(
    screen: Screen, epochs: Mapping[int, Mapping[str, float]], phases: Mapping[int, str], shown: int
) -> int:
    """Print the epochs after `shown`; returns the last one printed."""
    for epoch in sorted(number for number in epochs if number > shown):
        one = epochs[epoch]
        parts = [
            f"{split} loss {one[f'{split} loss']:.4f} accuracy {one[f'{split} accuracy']:.1%}"
            for split in ("train", "validation")
            if f"{split} loss" in one and f"{split} accuracy" in one
        ]
        screen.text(f"epoch {epoch:>3}  {phases[epoch].replace('_', '-'):<9}  {'  '.join(parts)}")
        shown = epoch
    return shown


def _show_end(screen: Screen, run: Mapping[str, Any]) -> None:
    if run["status"] == "succeeded":
        screen.text(f"{run['name']}: {test_score(run)}\nmodel {run['model_id']}")
    elif run["status"] == "cancelled":
        raise EndedBadly(f'The run "{run["name"]}" was cancelled.')
    else:
        failure = run["failure"] or {}
        advice = f" {failure['advice']}" if failure.get("advice") else ""
        raise EndedBadly(f'The run "{run["name"]}" failed: {failure.get("message", "no reason is known.")}{advice}')


def test_score(run: Mapping[str, Any]) -> str:
    """Test accuracy with its 95 % interval, as one phrase; empty before the run has succeeded."""
    summary = run["summary"]
    if summary.get("test_accuracy") is None:
        return ""
    low, high = summary["test_accuracy_interval"]
    chosen = str(summary.get("chosen_phase", "")).replace("_", "-")
    return f"test accuracy {summary['test_accuracy']:.1%} ({low:.1%} to {high:.1%}), {chosen} network"
