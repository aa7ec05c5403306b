"""What a benchmark writes: one JSON file, filled part by part, so that a run that was stopped goes on where it was."""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks._sets import sample_sets
from core.config import code_version

RESULTS = Path(__file__).parent / "results"
TRIED = Path(__file__).resolve().parents[1] / "build" / "benchmarks"
_VERSIONED = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "scikit-learn", "pillow")


def options(description: str | None, *, seeds: int = 3) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", type=Path, help="folders of class folders; default: the sample sets joined"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from 0 on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processor threads of both sides")
    parser.add_argument("--quick", action="store_true", help="small: to see that it works, not to be quoted")
    parser.add_argument(
        "--json", type=Path, help="file of the result; parts in it are kept when all settings are equal"
    )
    parser.add_argument("--fresh", action="store_true", help="measure every part again")
    return parser


def folders_of(arguments: argparse.Namespace) -> list[Path]:
    """The folders named, or the sample sets.

    Raises:
        SystemExit: neither is there, or two have the same name.
    """
    found = [one.resolve() for one in arguments.folders] or sample_sets()
    if not found:
        raise SystemExit(
            "Name folders that hold one folder of pictures per class: there are no sample sets beside this checkout."
        )
    if len({one.name for one in found}) < len(found):
        raise SystemExit(f"Every folder needs a name of its own. Received: {[one.name for one in found]}.")
    return found


def settings_of(folders: Sequence[Path]) -> dict[str, Any]:
    """Settings that say which pictures are read: names of the folders, and a digest over their files' names and sizes."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            digest.update(f"{folder.name}/{path.relative_to(folder)} {path.stat().st_size}\n".encode())
    return {"folders": [one.name for one in folders], "files": digest.hexdigest()[:16]}


def machine() -> dict[str, Any]:
    """Processor, memory and versions."""
    name, flags = platform.processor(), set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
            if line.startswith(("flags", "Features")):
                flags = set(line.partition(":")[2].split())
                break
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name,
        "features": [flag for flag in wanted if flag in flags],
        "cores": os.cpu_count(),
        "memory_GB": round(memory / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    """Name -> version; TensorFlow comes under one of two names."""
    found = {}
    for one in _VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            found[one.removesuffix("-cpu")] = version(one)
    return found


class Record:
    """One benchmark's result: `NAME.json` of the folder of results, or on another machine than that file's `NAME.MACHINE.json`, so that
    measuring here never takes away what was measured there.

    Args:
        name: of the benchmark.
        arguments: as parsed by `options`.
        settings: everything that decides what is measured.
        timed: False where only accuracy is measured: then parts of several machines stand in one file, each with its processor.
    """

    def __init__(
        self, name: str, arguments: argparse.Namespace, settings: Mapping[str, Any], *, timed: bool = True
    ) -> None:
        here, self._timed = machine(), timed
        folder = TRIED if arguments.quick else RESULTS
        self.path: Path = arguments.json or (_result_file(folder, name, here) if timed else folder / f"{name}.json")
        head = {"benchmark": name, "machine": here, "settings": json.loads(json.dumps(settings))}
        head["quick"] = arguments.quick
        self.body: dict[str, Any] = {**head, "commands": [], "parts": {}}
        if self.path.is_file() and not arguments.fresh:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            if _same(old, head, timed):
                self.body |= {name: old[name] for name in ("commands", "parts")}
                for part in [] if timed else old["parts"].values():
                    part.setdefault("processor", processor(old["machine"]))
        self._writing = threading.Lock()
        command = shlex.join(["python", "-m", "benchmarks", name, *sys.argv[1:]])
        if command not in self.body["commands"]:
            self.body["commands"].append(command)

    def part(self, key: str, place: str, *, again: bool = False, **arguments: Any) -> dict[str, Any]:
        """One measured part: from the file, or measured now in a process of its own, and written.

        Args:
            key: of the part.
            place: `module:function` in this package; it gets `arguments` and returns what JSON can hold.
            again: measure what is in the file, too; it stays there until the new one is.
        """
        parts: dict[str, Any] = self.body["parts"]
        if key in parts and not again:
            print(f"{key}: measured on {parts[key]['date']}", flush=True)
        else:
            print(f"{key} ...", flush=True)
            before = os.getloadavg()[0]
            started = time.monotonic()
            found = in_own_process(place, **arguments)
            took = round(time.monotonic() - started, 1)
            load = [round(before, 2), round(os.getloadavg()[0], 2)]
            self.put(key, {**found, "took_s": took, "load_before_and_after": load})
            print(f"{key}: {took} s, load {load}", flush=True)
        return dict(parts[key])

    def put(self, key: str, found: Mapping[str, Any]) -> None:
        """Write a part."""
        now = datetime.now(UTC)
        found = found if self._timed else {**found, "processor": processor(self.body["machine"])}
        with self._writing:
            self.body["parts"][key] = {**found, "date": f"{now:%Y-%m-%d %H:%M}", "code": code_version()}
            self.body["date"] = f"{now:%Y-%m-%d}"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_suffix(".part")
            aside.write_text(json.dumps(self.body, indent=1), encoding="utf-8")
            aside.replace(self.path)


def _same(old: Mapping[str, Any], head: Mapping[str, Any], timed: bool) -> bool:
    """Whether parts measured under `old` belong to `head`."""
    machines = [one["machine"] if timed else one["machine"]["versions"] for one in (old, head)]
    return machines[0] == machines[1] and all(old.get(key) == value for key, value in head.items() if key != "machine")


def processor(here: Mapping[str, Any]) -> str:
    """A machine's cores as a text."""
    return f"{here['cores']} cores of {here['processor']} ({', '.join(here['features'])})"


def _result_file(folder: Path, name: str, here: Mapping[str, Any]) -> Path:
    """Where this machine's result belongs; versions of libraries make no other machine."""
    path = folder / f"{name}.json"
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))["machine"]
        if any(there[key] != here[key] for key in ("processor", "features", "cores", "memory_GB")):
            return folder / f"{name}.{'-'.join([*here['features'][-1:], str(here['cores'])])}.json"
    return path


def side_by_side(jobs: int, works: Iterable[Callable[[], Any]]) -> None:
    """Do all works, so many at a time; the first error is raised when all have ended."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(work) for work in works]
    for one in waiting:
        one.result()


def in_own_process(place: str, **arguments: Any) -> dict[str, Any]:
    """What `module:function` of this package returns, called in a new process: no side warms up or crowds out the other."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        answer = Path(folder) / "answer.json"
        call = json.dumps({"place": place, "arguments": arguments, "answer": str(answer)})
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        subprocess.run([sys.executable, "-m", "benchmarks._record", call], env=environment, check=True)
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def _answer(call: str) -> None:
    wanted = json.loads(call)
    module, _, function = wanted["place"].partition(":")
    found = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**wanted["arguments"])
    Path(wanted["answer"]).write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _answer(sys.argv[1])
