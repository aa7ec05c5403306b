"""What a process says about itself: one line per event on standard error, as text or as JSON (`THAW_LOG_FORMAT`).

Every line has its time, its level, its process, and what it is about: the request, the run, the upload at work there.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from core.config import Settings

# what these say below a warning is noise to an operator
NOISY = ("absl", "alembic", "asyncio", "boto3", "botocore", "celery", "httpcore", "httpx", "kombu", "s3transfer",
         "tensorflow", "urllib3", "uvicorn")  # fmt: skip
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Everything said inside is about these, e.g. `about(run_id=run.id)`; threads started inside begin without."""
    token = _about.set({**_about.get(), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def log_to_stderr(settings: Settings) -> None:
    """Have this process log as the settings say; what was set up before is replaced."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextLines(logging.Formatter):
    """For people: `time LEVEL process logger: message [run_id=...]`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; ids that the message names already are not repeated."""
        message = record.getMessage()
        ids = " ".join(f"{name}={value}" for name, value in _ids(record).items() if value not in message)
        line = f"{_time(record)} {record.levelname} {record.process} {record.name}: {message}"
        line += f" [{ids}]" if ids else ""
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """For machines: one JSON object per line, tracebacks inside."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """What is at work, and `extra={"about": {...}}` of the record itself."""
    return {**_about.get(), **getattr(record, "about", {})}
