"""One line per event, as text or as JSON, that says what it is about."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from core.config import Settings
from core.logs import about, log_to_stderr

_log = logging.getLogger("tests.logs")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The test runner's own handlers come back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []  # `log_to_stderr` closes what it replaces
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)


def begin(folder: Path, form: str) -> None:
    log_to_stderr(Settings(data_dir=folder, log_format=form))


def test_json_is_one_object_a_line_also_with_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path, "json")
    with about(run_id="r1"):
        _log.info("attempt %s begins\nwith two lines", 2)
        try:
            raise ValueError("nobody foresaw it")
        except ValueError:
            _log.exception("it broke")
    _log.debug("not at this level")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (first["level"], first["logger"], first["run_id"]) == ("INFO", "tests.logs", "r1")
    assert first["message"] == "attempt 2 begins\nwith two lines"
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert "ValueError: nobody foresaw it" in second["exception"]


def test_text_names_what_it_is_about_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path, "text")
    with about(run_id="r1"):
        with about(request_id="q2"):
            _log.info("run %s begins", "r1")
        _log.warning("something else")
    _log.warning("about nothing")
    lines = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["run r1 begins [request_id=q2]", "something else [run_id=r1]", "about nothing"]


def test_warnings_of_python_are_lines_of_the_log_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path, "json")
    import warnings  # noqa: PLC0415 - after the log took them over

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("an old way", DeprecationWarning, stacklevel=1)
    assert "an old way" in json.loads(capsys.readouterr().err.splitlines()[0])["message"]


def test_what_libraries_chat_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path, "text")
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    logging.getLogger("celery.worker").info("task received")
    logging.getLogger("celery.worker").error("connection lost")
    assert [line.rsplit(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == ["connection lost"]
