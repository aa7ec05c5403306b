"""Carries out a Dockerfile without an engine: its RUN steps in a clean folder that stands for the root of the image.

It knows the instructions that our Dockerfile uses and refuses others. Steps that need to be root of a machine of their own
(making users) are left out.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOTED = ("/opt/thaw", "/build", "/data")  # paths of the image that are in the clean folder here
LEFT_OUT = ("groupadd", "useradd")


@dataclass
class Stage:
    """One stage of the image after its steps.

    Attributes:
        root: the folder that stands for `/`.
        environment: its ENV.
        words: the last value of every other instruction, e.g. USER, ENTRYPOINT.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Text with the image's paths as they are here."""
        for path in ROOTED:
            text = re.sub(rf"(?<![\w.]){re.escape(path)}(?![\w.-])", str(self.root) + path, text)
        return text

    @property
    def work(self) -> Path:
        """Its WORKDIR."""
        folder = Path(self.here(self.words.get("WORKDIR", "/opt/thaw")))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def process_environment(self) -> dict[str, str]:
        """What a process of this stage finds in its environment."""
        inherited = {
            name: os.environ[name] for name in os.environ if not name.startswith(("THAW_", "PYTEST", "VIRTUAL"))
        }
        base = {**inherited, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        own = {name: self.here(value).replace("$PATH", base["PATH"]) for name, value in self.environment.items()}
        own.pop("UV_LINK_MODE", None)  # here the cache is on the same disk: links spare 2 GB of copying
        return {**base, **own}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) in order; continued lines are one."""
    text = re.sub(r"\\\n\s*", " ", dockerfile.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line and not line.startswith("#")]


def context_files(root: Path) -> list[Path]:
    """Committed or new files that `.dockerignore` lets through, relative."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    found = [Path(line) for line in listed.stdout.splitlines()]
    return [path for path in found if (root / path).is_file() and not _ignored(path, rules)]


def _ignored(path: Path, rules: list[str]) -> bool:
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = [Path(*path.parts[: length + 1]).as_posix() for length in range(len(path.parts))]
        if "**/" in rule:
            parts = list(path.parts)
        if any(fnmatch.fnmatch(one, pattern) for one in parts):
            ignored = not rule.startswith("!")
    return ignored


def build(repository: Path, folder: Path) -> Stage:
    """Carry out every stage; returns the last one.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    files = context_files(repository)
    for name, rest in instructions(repository / "Dockerfile"):
        match name:
            case "ARG":
                key, _, value = rest.partition("=")
                arguments.setdefault(key, value)
            case "FROM":
                title = rest.rpartition(" AS ")[2] if " AS " in rest else "last"
                stage = stages[title] = Stage(folder / title)
            case "ENV":
                stage.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
            case "COPY":
                _copy(repository, files, stages, stage, rest)
            case "RUN":
                _run(stage, rest, arguments)
            case "LABEL" | "USER" | "WORKDIR" | "VOLUME" | "EXPOSE" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                stage.words[name] = rest
            case _:
                raise AssertionError(f"an instruction that this reader does not know: {name}")
    return stage


def _copy(repository: Path, files: list[Path], stages: dict[str, Stage], stage: Stage, rest: str) -> None:
    *sources, target = rest.split()
    if sources[0].startswith("--from="):
        other = stages[sources[0].removeprefix("--from=")]
        # the interpreter's path is written into the scripts of a virtual environment: a link keeps it true
        destination = Path(stage.here(target))
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.symlink_to(other.here(sources[1]), target_is_directory=True)
        return
    for source in sources:
        wanted = [path for path in files if path == Path(source) or Path(source) in path.parents]
        assert wanted, f"COPY {source}: nothing of it is committed and let through"
        for path in wanted:
            inside = path.relative_to(source) if path != Path(source) else Path(path.name)
            place = stage.work / target / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / path, place)


def _run(stage: Stage, command: str, arguments: dict[str, str]) -> None:
    if command.startswith(LEFT_OUT):
        return
    for name, value in arguments.items():
        command = command.replace(f"${{{name}}}", value)
    # on slow machines a step may take minutes; `sh` is what an engine uses too
    subprocess.run(["/bin/sh", "-c", stage.here(command)], cwd=stage.work, env=stage.process_environment(), check=True)


def exec_form(stage: Stage, words: str) -> list[str]:
    """A command in JSON form, as it is here."""
    return [stage.here(word) for word in json.loads(words[words.index("[") :])]
