"""The README's REST example does what it says, as written: bash runs it on a set of generated pictures."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.end_to_end.house import House
from tests.end_to_end.pictures import write_classes, zip_of

ROOT = Path(__file__).resolve().parents[2]
SERVER = "http://127.0.0.1:8000"

# EfficientNet-Lite0 at 224 pixels through both phases of `standard`
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("house"), pytest.mark.timeout(600)]


def example() -> str:
    """The one bash block of the README that talks to the API."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found = [block for block in blocks if "/api/v1" in block]
    assert len(found) == 1
    assert found[0].count(SERVER) == 1
    return found[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is written for curl")
def test_the_rest_example_of_the_readme_runs_as_written(house: House, tmp_path: Path) -> None:
    zip_of(write_classes(tmp_path / "flowers", 10, size=(96, 80)), tmp_path / "flowers.zip")
    # the only two things that differ from a reader's folder: where the server listens and where the environment is
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    script = example().replace(SERVER, house.address)
    environment = {**os.environ, **house.environment}
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{house.log}"
    assert '"test_fingerprint"' in done.stdout
    names = zipfile.ZipFile(tmp_path / "flowers_model.zip").namelist()
    assert {"verify.py", "saved_model/saved_model.pb"} <= set(names)
