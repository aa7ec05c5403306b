"""Thaw on many machines, which share PostgreSQL, Valkey and S3 and nothing else: here each machine is a data folder of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import migrations
from core.accounts import create_token, local_user
from core.database import Database
from tests.broker import embedded_valkey
from tests.end_to_end.house import wait_until
from tests.end_to_end.pictures import write_classes, zip_of
from tests.postgres import Postgres
from tests.s3 import Bucket, new_bucket
from tests.worker.tiny_dataset import TINY
from worker.lifeline import child_setup

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Machine:
    """One machine: its data folder and what its processes have said."""

    folder: Path

    @property
    def log(self) -> str:
        """Standard output and error of all of its processes."""
        return "\n".join(one.read_text(errors="replace") for one in sorted(self.folder.glob("*.log")))

    @contextmanager
    def running(self, environment: dict[str, str], *arguments: str) -> Iterator[None]:
        """Run `thaw ARGUMENTS` on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{'-'.join(arguments)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cli", *arguments],
                env={**os.environ, **environment, "THAW_DATA_DIR": str(self.folder)},
                stdout=log,
                stderr=log,
                preexec_fn=child_setup(),  # noqa: PLW1509 - it calls libc and nothing of Python's
            )
        try:
            yield
            process.terminate()
            assert process.wait(STOP_SECONDS) in {0, -signal.SIGTERM}, self.log  # uvicorn ends as it was asked to
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Deployment:
    """Three machines and what they share."""

    web: Machine
    trainer: Machine
    predictor: Machine
    bucket: Bucket
    client: httpx.Client


@pytest.fixture(scope="module")
def deployment(postgres: Postgres, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The web server with ingest, a trainer and a predictor, each with a data folder of its own."""
    folder, bucket, address = tmp_path_factory.mktemp("machines"), new_bucket(s3_endpoint), postgres.create()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = Database(address)
    migrations.upgrade(database)
    with database.write() as session:
        _, token = create_token(session, local_user(session), "tests")
    database.close()
    web, trainer, predictor = (Machine(folder / name) for name in ("web", "trainer", "predictor"))
    with ExitStack() as stack:
        environment = {"REDIS_URL": stack.enter_context(embedded_valkey()), "DATABASE_URL": address}
        environment |= {**bucket.environment, "THAW_PORT": str(port), "THAW_SPARE_TRAINER": "false"}
        for machine, *arguments in (
            (web, "web"),
            (web, "worker", "--queues", "ingest,export,batch"),
            (trainer, "worker", "--queues", "train"),
            (predictor, "worker", "--queues", "predict"),
        ):
            stack.enter_context(machine.running(environment, *arguments))
        authorization = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=authorization, timeout=30) as client:
            wait_until(lambda: _answers(client), 60, f"the web server answers\n{web.log}")
            yield Deployment(web, trainer, predictor, bucket, client)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def upload(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An upload of 36 pictures that is ready."""
    folder = tmp_path_factory.mktemp("pictures")
    archive = zip_of(write_classes(folder / "classes", 12), folder / "classes.zip")
    dataset = deployment.client.post("/datasets", json={"name": "Colours"}).raise_for_status().json()
    sent = deployment.client.post(
        f"/datasets/{dataset['id']}/uploads",
        params={"filename": "classes.zip"},
        content=archive.read_bytes(),
        headers={"Content-Type": "application/zip"},
    )
    return _finished(deployment, f"/uploads/{sent.raise_for_status().json()['id']}", "ready")


@pytest.fixture(scope="module")
def run(deployment: Deployment, upload: dict[str, Any]) -> dict[str, Any]:
    """A run on it that has succeeded."""
    wish = {"dataset_version_id": upload["dataset_version_id"], "config": TINY}
    made = deployment.client.post("/runs", json=wish).raise_for_status().json()
    return _finished(deployment, f"/runs/{made['id']}", "succeeded")


def _finished(deployment: Deployment, path: str, wanted: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = deployment.client.get(path).raise_for_status().json()
        return found if found["status"] in {"ready", "rejected", "succeeded", "failed", "cancelled"} else None

    logs = (deployment.web.log, deployment.trainer.log)
    found: dict[str, Any] = wait_until(ended, 120, f"{path} ends\n{logs}")
    assert found["status"] == wanted, (found, *logs)
    return found


def _stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_uploaded_pictures_are_in_the_bucket_and_nowhere_else(deployment: Deployment, upload: dict[str, Any]) -> None:
    keys = deployment.bucket.names()
    assert len([key for key in keys if key.startswith("blobs/")]) == 36
    assert len([key for key in keys if key.startswith("thumbnails/")]) == 36
    assert _stored(deployment.web.folder / "incoming") == []
    assert not (deployment.web.folder / "storage").exists()
    images = deployment.client.get(f"/dataset-versions/{upload['dataset_version_id']}/images").raise_for_status().json()
    picture = deployment.client.get(f"/images/{images['items'][0]['id']}/thumbnail").raise_for_status()
    assert picture.content.startswith(b"\xff\xd8\xff")


def test_a_trainer_without_any_picture_fetches_them_and_trains(deployment: Deployment, run: dict[str, Any]) -> None:
    copies = _stored(deployment.trainer.folder / "cache" / "copies")
    assert len(copies) == 36
    attempt = deployment.trainer.folder / "runs" / run["id"] / "attempts" / "1"
    wait_until(lambda: not (attempt / "pictures").exists(), 10, "the pictures are kept for the run, not for ever")
    assert not (deployment.web.folder / "runs").exists()
    assert f"models/{run['id']}-1/saved_model.zip" in deployment.bucket.names()


def test_the_download_comes_from_the_bucket_also_in_parts(deployment: Deployment, run: dict[str, Any]) -> None:
    address = f"/models/{run['model_id']}/download/saved_model"
    whole = deployment.client.get(address).raise_for_status()
    part = deployment.client.get(address, headers={"Range": "bytes=100-299"})
    assert part.status_code == 206
    assert part.content == whole.content[100:300]
    assert whole.content.startswith(b"PK")


def test_a_predictor_without_the_model_fetches_it_and_answers(
    deployment: Deployment, run: dict[str, Any], tmp_path: Path
) -> None:
    picture = write_classes(tmp_path, 1) / "red" / "00.png"
    address = f"/models/{run['model_id']}/predict"

    def answer() -> dict[str, Any] | None:
        asked = deployment.client.post(address, files={"images": ("red.png", picture.read_bytes(), "image/png")})
        found: dict[str, Any] | None = asked.json() if asked.status_code == 200 else None  # 503: TensorFlow still loads
        return found

    found = wait_until(answer, 90, f"the predictor answers\n{deployment.predictor.log}")
    assert set(found["predictions"][0]["probabilities"]) == {"blue", "green", "red"}
    names = {path.name for path in _stored(deployment.predictor.folder / "cache" / "copies")}
    assert "saved_model.pb" in names


def test_a_deleted_model_is_gone_from_the_bucket(deployment: Deployment, run: dict[str, Any]) -> None:
    assert deployment.client.delete(f"/models/{run['model_id']}").status_code == 204
    assert [key for key in deployment.bucket.names() if key.startswith("models/")] == []
