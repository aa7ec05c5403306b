"""A real S3 server process for tests (moto), everything in its memory, gone afterwards."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from worker.lifeline import child_setup

PATIENCE_SECONDS = 60.0
# what boto3 finds in the environment of the processes under test
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "of thaw",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Bucket:
    """A bucket of one's own on the server at `endpoint`."""

    endpoint: str
    name: str
    client: Any

    @property
    def settings(self) -> dict[str, str]:
        """As keywords of `Settings`."""
        return {"s3_bucket": self.name, "s3_endpoint_url": self.endpoint, "s3_prefix": "thaw/tests"}

    @property
    def environment(self) -> dict[str, str]:
        """As variables of a process."""
        return {f"THAW_{name.upper()}": value for name, value in self.settings.items()} | CREDENTIALS

    def names(self) -> list[str]:
        """Names of everything that is stored, without the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [one["Key"].removeprefix("thaw/tests/") for page in pages for one in page.get("Contents", ())]


def new_bucket(endpoint: str) -> Bucket:
    """A bucket that nobody else uses."""
    client = boto3.client("s3", endpoint_url=endpoint)
    name = f"thaw-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    return Bucket(endpoint, name, client)


@contextmanager
def running_s3() -> Iterator[str]:
    """Start a server; gives its address. The credentials are in this process's environment meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=child_setup(),  # noqa: PLW1509 - it calls libc and nothing of Python's
        )
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
