import json
import shutil
from pathlib import Path

import pytest

from app import vendor_files


def test_the_lock_file_names_no_address_and_only_exact_versions() -> None:
    lock = (vendor_files.ROOT / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert "http" not in lock
    wanted = json.loads((vendor_files.ROOT / "package.json").read_text())
    versions = wanted["dependencies"] | wanted["devDependencies"]
    assert all(version[0].isdigit() for version in versions.values())
    packages = json.loads(lock)["packages"]
    assert all("integrity" in one for name, one in packages.items() if name)


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm on the PATH")
def test_files_are_fetched_once_and_again_when_the_lock_has_changed(tmp_path: Path) -> None:
    assert vendor_files.fetch(tmp_path)
    for name in vendor_files.FILES:
        assert (tmp_path / Path(name).name).stat().st_size > 1000
    assert not vendor_files.fetch(tmp_path)
    (tmp_path / vendor_files.STAMP).write_text("another lock")
    assert vendor_files.fetch(tmp_path)


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm on the PATH")
def test_what_only_tests_need_is_not_among_what_is_served() -> None:
    folder = vendor_files.fetch_for_tests()
    assert (folder / "axe.min.js").is_file()
    assert not (vendor_files.VENDOR / "axe.min.js").exists()
    assert vendor_files.VENDOR not in [folder, *folder.parents]
