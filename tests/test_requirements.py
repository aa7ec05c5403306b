"""requirements/*.txt: what uv resolved, pip must be able to install, too."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")


def pinned() -> list[str]:
    """Names in requirements/base.txt."""
    lines = (ROOT / "requirements" / "base.txt").read_text().splitlines()
    return [found[1] for line in lines if (found := re.match(r"([A-Za-z0-9._-]+)==", line))]


def test_no_pinned_package_is_for_other_pythons_than_ours() -> None:
    names = pinned()
    assert len(names) > 50
    refused = []
    for name in names:
        try:
            wanted = metadata(name)["Requires-Python"]
        except PackageNotFoundError:  # of another system
            continue
        refused += [f"{name} wants {wanted}" for python in PYTHONS if python not in SpecifierSet(wanted or "")]
    assert refused == []
