"""Settings: one class, read from the environment, checked at start. `docs/settings.md` lists every one (a test sees to it)."""

import importlib.metadata
import os
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import AliasChoices, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
VERSION = importlib.metadata.version("thaw")
GB = 1_000_000_000
MB = 1_000_000


class Settings(BaseSettings):
    """Every setting of Thaw. The environment variable is `THAW_` and the name in capitals, unless said otherwise."""

    model_config = SettingsConfigDict(env_prefix="THAW_", frozen=True, extra="ignore", populate_by_name=True)

    host: str = Field(
        "127.0.0.1", description="Address the web server listens on. Any other than loopback needs an admin password."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port of the web server; 0 takes a free one.")
    data_dir: Path = Field(
        Path("thaw-data"), description="Folder of everything Thaw keeps: database, pictures, models, caches."
    )
    open_browser: bool = Field(True, description="Open the start link in a browser when `thaw serve` is ready.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='Host names a browser may use, as a JSON list, e.g. ["thaw.example.org"]. Loopback and the bind address always may.',
    )
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("database_url", "THAW_DATABASE_URL", "DATABASE_URL"),
        description="Address of PostgreSQL, `postgresql://...` (`THAW_DATABASE_URL` or `DATABASE_URL`); empty: SQLite in the data folder.",
    )
    redis_url: str | None = Field(
        None,
        validation_alias=AliasChoices("redis_url", "THAW_REDIS_URL", "REDIS_URL"),
        description="Address of Redis or Valkey (`THAW_REDIS_URL` or `REDIS_URL`); empty: the embedded Valkey.",
    )
    s3_bucket: str | None = Field(
        None,
        description="S3 bucket for pictures and models; empty: the data folder. boto3 finds the credentials (`AWS_ACCESS_KEY_ID`, ...).",
    )
    s3_endpoint_url: str | None = Field(
        None,
        pattern="^https?://[^/]",
        description="Address of an S3 server that is not Amazon's, e.g. http://minio:9000.",
    )
    s3_prefix: str = Field(
        "",
        pattern=r"^([\w.-]+/)*[\w.-]*$",
        description="Put before every key in the bucket, e.g. thaw/production.",
    )
    s3_cache_bytes: int = Field(
        20 * GB, ge=0, description="Largest size of a machine's copies of files from the bucket, in bytes."
    )
    lease_seconds: float = Field(
        60.0, ge=1.0, le=3600.0, description="How long a worker owns a row without renewing it."
    )
    renew_seconds: float = Field(
        10.0, ge=0.2, le=600.0, description="How often a worker renews its lease and ticks its trainer."
    )
    sweep_seconds: float = Field(
        5.0, ge=0.2, le=600.0, description="How often the sweeper looks for expired leases and waiting rows."
    )
    ring_again_seconds: float = Field(
        30.0, ge=0.5, le=3600.0, description="A waiting row is rung for at most once in this time."
    )
    trainer_tick_timeout: float = Field(
        45.0, ge=1.0, le=3600.0, description="A trainer that hears nothing for this long exits."
    )
    predict_timeout: float = Field(
        20.0, ge=0.1, le=300.0, description="How long a page waits for the prediction worker, in seconds."
    )
    predict_memory_bytes: int = Field(
        2 * GB, ge=100 * MB, description="Memory for models that the prediction worker keeps loaded."
    )
    train_threads: int = Field(0, ge=0, le=1024, description="Threads of a trainer; 0: all cores.")
    ingest_processes: int = Field(0, ge=0, le=256, description="Processes that check pictures; 0: all cores.")
    spare_trainer: bool = Field(
        True, description="Keep a trainer with TensorFlow loaded ready (never on less than 4 GB of memory)."
    )
    max_archive_bytes: int = Field(10 * GB, ge=1, description="Largest archive, in bytes.")
    max_unpacked_bytes: int = Field(20 * GB, ge=1, description="Largest sum of an upload's unpacked files, in bytes.")
    max_entries: int = Field(100_000, ge=1, description="Most files in one upload.")
    max_image_bytes: int = Field(30 * MB, ge=1, description="Largest picture file, in bytes.")
    max_image_pixels: int = Field(50_000_000, ge=1, description="Largest picture, in pixels.")
    max_weights_bytes: int = Field(
        1 * GB, ge=1, description="Largest file of weights, and largest sum of the arrays in it, in bytes."
    )
    max_classes: int = Field(1000, ge=2, description="Most classes in a dataset.")
    quota_bytes: int = Field(
        0, ge=0, description="Most bytes of pictures and uploads that one person may keep; 0: no limit but the disk."
    )
    upload_hours: int = Field(
        48, ge=1, le=8760, description="Hours after which an upload that nobody goes on with is removed."
    )
    cache_limit_bytes: int = Field(
        20 * GB, ge=0, description="Largest size of the decoded and feature caches, in bytes."
    )
    disk_reserve_bytes: int = Field(1 * GB, ge=0, description="Free disk that Thaw never touches, in bytes.")
    download_weights: bool = Field(
        True, description="Let Keras download ImageNet weights that are not on this machine."
    )
    session_days: int = Field(30, ge=1, le=365, description="Days a browser session lasts without use.")
    secure_cookies: bool = Field(False, description="Send cookies over HTTPS only; switch on behind a TLS proxy.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text: a line per event for people; json: an object per line."
    )

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.renew_seconds * 2 > self.lease_seconds:
            message = (
                "THAW_RENEW_SECONDS must be at most half of THAW_LEASE_SECONDS, or leases run out by themselves. "
                f"Received: {self.renew_seconds} and {self.lease_seconds}."
            )
            raise ValueError(message)
        return self

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach the web server."""
        return self.host in LOOPBACK

    @property
    def database_address(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite+pysqlite:///{self.folder / 'thaw.sqlite3'}"

    @property
    def folder(self) -> Path:
        """The data folder as an absolute path."""
        return self.data_dir.expanduser().resolve()

    @property
    def storage_folder(self) -> Path:
        """Blobs and artefacts."""
        return self.folder / "storage"

    @property
    def copies_folder(self) -> Path:
        """Copies of files from the bucket; may be deleted while nothing runs."""
        return self.folder / "cache" / "copies"

    @property
    def incoming_folder(self) -> Path:
        """Received bytes of uploads, one folder each."""
        return self.folder / "incoming"

    @property
    def weights_folder(self) -> Path:
        """Files of weights on their way in: `<weights id>-<attempt>/`, attempt 0 while they are received."""
        return self.folder / "weights-incoming"

    @property
    def runs_folder(self) -> Path:
        """Run folders: `<run id>/attempts/<n>/`."""
        return self.folder / "runs"

    @property
    def cache_folder(self) -> Path:
        """Decoded pictures and features; may be deleted while nothing runs."""
        return self.folder / "cache"

    @property
    def cores(self) -> int:
        """Processor cores this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SettingsInvalid(Exception):
    """A setting in the environment is wrong. `str(error)` is a sentence for the operator."""


def read_settings(**given: object) -> Settings:
    """Read the environment; `given` (from command line flags) wins.

    Raises:
        SettingsInvalid: naming each variable, what was received and what is allowed.
    """
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"THAW_{'_'.join(str(part) for part in one['loc']).upper()}: {one['msg']}. Received: {one['input']!r}."
            for one in error.errors()
        ]
        raise SettingsInvalid("Thaw cannot start: " + " ".join(lines)) from error


@cache
def code_version() -> str:
    """Version of the code: the package's, plus the commit where this is a checkout of git."""
    git = Path(__file__).resolve().parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        commit = (git / head.removeprefix("ref: ")).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return VERSION
    return f"{VERSION}+{commit[:10]}"


def settings_table() -> str:
    """Every setting as a Markdown table; `docs/settings.md` holds it, and a test compares the two."""
    lines = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None or field.default == () else str(field.default)
        lines.append(f"| `THAW_{name.upper()}` | {f'`{default}`' if default else 'empty'} | {field.description} |")
    return "\n".join(lines) + "\n"
