"""The image and the compose file, as far as they can be checked without an engine."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from starlette.testclient import TestClient

from app.main import create_app
from cli.main import app
from core.config import Settings
from core.queue import QUEUES
from tests.broker import embedded_valkey
from tests.dockerfile import Stage, build, context_files, exec_form, instructions
from worker.celery_app import checked_queues

ROOT = Path(__file__).resolve().parents[1]
OURS = ("thaw:local", "thaw:gpu")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file, its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that run Thaw's image."""
    return {name: service for name, service in compose["services"].items() if service["image"] in OURS}


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """The parameters of a `thaw` command line; fails where the command line itself would."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group | typer.core.TyperGroup)
    with group.make_context("thaw", list(arguments)) as context:
        _, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        return command.make_context(arguments[0], rest, parent=context).params


class TestCompose:
    """docker-compose.yml."""

    def test_every_service_of_ours_is_a_command_that_exists(self, ours: dict[str, dict[str, Any]]) -> None:
        assert set(ours) == {"migrate", "web", "worker", "train", "predict", "train-gpu"}
        for service in ours.values():
            _parsed(service["command"])

    def test_every_queue_is_served_once_without_a_profile(self, ours: dict[str, dict[str, Any]]) -> None:
        plain = [one["command"] for one in ours.values() if "profiles" not in one and one["command"][0] == "worker"]
        served = [queue for command in plain for queue in checked_queues(_parsed(command)["queues"])]
        assert sorted(served) == sorted(QUEUES)

    def test_every_setting_exists_and_fits(
        self, ours: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {f"THAW_{name.upper()}" for name in Settings.model_fields} | {"DATABASE_URL", "REDIS_URL"}
        for service in ours.values():
            assert set(service["environment"]) <= known
            for name, value in service["environment"].items():
                monkeypatch.setenv(name, re.sub(r"\$\{\w+(?::-(.*?)|:\?[^}]*)?\}", r"\1", value))
            settings = Settings()
            assert settings.database_url == "postgresql://thaw:@postgres/thaw"
            assert settings.redis_url == "redis://:@valkey:6379/0"

    def test_every_variable_is_explained(self, compose: dict[str, Any]) -> None:
        used = set(re.findall(r"\$\{(\w+)", json.dumps(compose)))
        explained = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
        assert used == set(explained)

    def test_no_password_is_in_the_file(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            for name, value in service.get("environment", {}).items():
                if "PASSWORD" in name or "AUTH" in name:
                    assert value.startswith("${"), name

    def test_what_is_named_exists(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            assert set(service.get("depends_on", {})) <= set(compose["services"])
            volumes = {volume.partition(":")[0] for volume in service.get("volumes", [])}
            assert volumes <= set(compose["volumes"])
        for name, needs in compose["services"].items():
            for other, condition in needs.get("depends_on", {}).items():
                if condition["condition"] == "service_healthy":
                    assert "test" in compose["services"][other]["healthcheck"], (name, other)

    def test_only_the_web_server_is_asked_for_its_health(self, ours: dict[str, dict[str, Any]]) -> None:
        asked = [name for name, service in ours.items() if not service.get("healthcheck", {}).get("disable")]
        assert asked == ["web"]

    def test_a_worker_has_time_to_give_back_what_it_holds(self, ours: dict[str, dict[str, Any]]) -> None:
        assert {one["stop_grace_period"] for one in ours.values() if one["command"][0] == "worker"} == {"30s"}


class TestDockerfile:
    """The Dockerfile and .dockerignore."""

    def test_the_last_stage_is_not_root_and_has_no_build_tools(self) -> None:
        steps = instructions(ROOT / "Dockerfile")
        last = steps[max(index for index, (name, _) in enumerate(steps) if name == "FROM") :]
        assert [rest for name, rest in last if name == "USER"] == ["thaw"]
        assert not [rest for name, rest in last if name == "RUN" and re.search(r"apt|pip|npm|uv|gcc", rest)]
        assert [rest for name, rest in last if name == "COPY"] == ["--from=build /opt/thaw /opt/thaw"]

    def test_its_entry_point_is_ours(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        words = dict(instructions(ROOT / "Dockerfile"))
        (program,) = json.loads(words["ENTRYPOINT"])
        assert program in project["scripts"]
        _parsed(json.loads(words["CMD"]))

    def test_the_health_check_asks_an_address_that_exists(self, tmp_path: Path) -> None:
        words = dict(instructions(ROOT / "Dockerfile"))["HEALTHCHECK"]
        (path,) = re.findall(r"\}(/[\w/]+)'", words)
        web = create_app(Settings(data_dir=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock"))
        assert TestClient(web, base_url="http://127.0.0.1:8000").get(path).status_code == 200
        web.state.house.queue.close()

    def test_nothing_private_or_large_gets_into_the_image(self) -> None:
        files = context_files(ROOT)
        assert {path.parts[0] for path in files if len(path.parts) > 1} == {
            *("app", "cli", "core", "migrations", "requirements", "templates", "worker")
        }
        assert Path("docker-compose.yml") not in files
        assert sum((ROOT / path).stat().st_size for path in files) < 10_000_000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """What the Dockerfile makes, in a folder of 2 GB that is removed afterwards."""
    folder = tmp_path_factory.mktemp("image")
    yield build(ROOT, folder)
    shutil.rmtree(folder)


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the image is a Linux image")
class TestImage:
    """The image's steps, carried out; then its commands."""

    def _thaw(self, image: Stage, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [*exec_form(image, image.words["ENTRYPOINT"]), *arguments]
        return subprocess.run(
            command,
            check=False,
            cwd=image.work,
            env={**image.process_environment(), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    @pytest.mark.parametrize("arguments", [[], ["web"], ["worker"], ["migrate"], ["user", "create"]])
    def test_its_commands_start(self, image: Stage, arguments: list[str]) -> None:
        said = self._thaw(image, *arguments, "--help")
        assert said.returncode == 0, said.stderr
        assert "Usage: thaw" in said.stdout

    def test_it_has_what_many_machines_need_and_no_build_tools(self, image: Stage) -> None:
        programs = {path.name for path in Path(image.here("/opt/thaw/venv/bin")).iterdir()}
        assert not programs & {"uv", "pip", "pip3", "node", "npm", "pytest", "ruff"}
        python = image.here("/opt/thaw/venv/bin/python")
        for module in ("psycopg", "boto3", "core.bucket", "tensorflow"):
            subprocess.run([python, "-c", f"import {module}"], check=True, cwd=image.work, timeout=120)
        assert Path(image.here("/opt/thaw/source/app/static/vendor/uPlot.iife.min.js")).is_file()

    def test_the_web_server_gets_healthy_and_writes_nothing_but_data(self, image: Stage) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        before = _files(Path(image.here("/opt/thaw")).resolve())
        password = "a password for the admin"
        with embedded_valkey() as redis_url:
            environment = {**image.process_environment(), "REDIS_URL": redis_url, "THAW_PORT": port}
            made = subprocess.run(
                [*exec_form(image, image.words["ENTRYPOINT"]), "user", "create", "ada", "--admin", "--password-stdin"],
                cwd=image.work,
                env=environment,
                input=password,
                check=False,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert made.returncode == 0, made.stderr
            words = [*exec_form(image, image.words["ENTRYPOINT"]), *exec_form(image, image.words["CMD"])]
            process = subprocess.Popen(words, cwd=image.work, env=environment)
            try:
                self._wait_until_healthy(image, environment)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(20)
        assert _files(Path(image.here("/opt/thaw")).resolve()) == before
        assert list(Path(image.here("/data")).iterdir())

    def _wait_until_healthy(self, image: Stage, environment: dict[str, str]) -> None:
        check = exec_form(image, image.words["HEALTHCHECK"])
        deadline = time.monotonic() + 60
        while True:
            asked = subprocess.run(
                check, check=False, env=environment, cwd=image.work, capture_output=True, text=True, timeout=30
            )
            if asked.returncode == 0:
                return
            assert time.monotonic() < deadline, asked.stderr
            time.sleep(0.5)
