"""The packages that `pyproject.toml` installs are those that are there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("app", "cli", "core", "migrations", "worker")


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {file.parent for name in OURS for file in (ROOT / name).rglob("*.py")}
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)
