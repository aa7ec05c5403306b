"""What a web process sets up for itself."""

import sys

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import SWITCH_SECONDS
from core.config import Settings
from core.database import open_database


def test_a_busy_thread_lets_others_read_their_rows_in_a_web_process_only(settings: Settings, web: FastAPI) -> None:
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        open_database(settings).close()  # as a worker does
        assert sys.getswitchinterval() > SWITCH_SECONDS
        with TestClient(web):
            assert (sys.getswitchinterval() <= SWITCH_SECONDS) == web.state.house.database.is_sqlite
    finally:
        sys.setswitchinterval(before)
