"""The embedded broker."""

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from cli.broker import LONGEST_SOCKET_PATH, broker_plan, socket_path
from cli.parts import House
from core.config import Settings
from core.queue import Queue
from tests.end_to_end.house import wait_until


def test_it_answers_with_its_password_only_and_keeps_its_list_over_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" folder'
    plan, address = broker_plan(Settings(data_dir=folder))
    settings = Settings(data_dir=folder, redis_url=address)
    house = House([plan])
    house.look_after()
    queue = Queue(settings)
    try:
        wait_until(queue.alive, 10, "the broker answers")
        queue.ring("train")
        wait_until(lambda: queue.length("train") == 1, 10, "the ring is there")
        stranger = redis.Redis(unix_socket_path=address.partition("@")[2])
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()
        process = house.parts[0].process
        assert process is not None
        subprocess.run(["sleep", "1.2"], check=True)  # appendfsync everysec
        process.kill()
        process.wait()
        wait_until(lambda: house.look_after() or queue.alive(), 15, "it is started again")
        assert queue.length("train") == 1
    finally:
        queue.close()
        house.stop()
    assert not house.parts[0].running


def test_the_password_is_in_no_file_and_no_command_line(tmp_path: Path) -> None:
    plan, address = broker_plan(Settings(data_dir=tmp_path))
    password = address.partition("://:")[2].partition("@")[0]
    assert len(password) >= 32
    assert all(password not in part for part in plan.command)
    assert not any(password in path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_a_path_too_long_for_a_socket_gets_a_private_temporary_folder(tmp_path: Path) -> None:
    assert socket_path(Path("/short")) == Path("/short/valkey.sock")
    path = socket_path(tmp_path / ("x" * LONGEST_SOCKET_PATH))
    try:
        assert len(str(path)) <= LONGEST_SOCKET_PATH
        assert path.parent.stat().st_mode & 0o077 == 0
    finally:
        shutil.rmtree(path.parent)
